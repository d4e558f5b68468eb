"""Copies are read as one: the merge of any copies is their sorted union; damage is noticed."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.internal.v1.storage_pb2 import CopyHeader, LogEntry
from shoal_worker.copies import CopyReader, CopyWriter, DamagedCopyError, NewerCopyError
from shoal_worker.sources import Records, Wanted, merged

EVERYTHING = Wanted(np.ones(4096, np.bool_), None, None)

Place = tuple[int, str]


def write(path: Path, entries: list[list[Place]], header: CopyHeader | None = None) -> None:
    """Write a copy whose records are places in the order, with a vector and a document of each."""
    writer = CopyWriter(path, header or CopyHeader(format=1, dimension=1))
    for places in entries:
        records = Records(
            np.array([ordinal for ordinal, _ in places], np.uint64),
            [name for _, name in places],
            np.array([[ordinal] for ordinal, _ in places], np.float32).reshape(-1, 1),
            [None] * len(places),
            [f"text of {name}" if ordinal % 2 else None for ordinal, name in places],
            [None] * len(places),
        )
        entry = LogEntry(format=1)
        records.to_entry(entry, 0, 1)
        writer.add(entry)
    writer.finish()


def read(paths: list[Path]) -> list[tuple[int, str, float, str | None]]:
    found = []
    with ExitStack() as stack:
        readers = [stack.enter_context(CopyReader(path)) for path in paths]
        for records in merged(readers, 1, EVERYTHING, lambda _: None):
            found += list(
                zip(
                    records.ordinals.tolist(),
                    records.ids,
                    records.vectors[:, 0].tolist(),
                    records.documents,
                    strict=True,
                )
            )
    return found


# Few ordinals, so that many are given twice, as two gateways may.
places = st.lists(
    st.tuples(st.integers(1, 20), st.integers(0, 999)), unique_by=lambda p: p[1], max_size=60
)


@settings(max_examples=60, deadline=None)
@given(places, st.lists(st.integers(0, 3), min_size=60, max_size=60), st.integers(1, 7))
def test_the_merge_of_copies_is_their_sorted_union(
    given_places: list[tuple[int, int]], owners: list[int], entry_records: int
) -> None:
    own: list[list[Place]] = [[], [], [], []]
    for (ordinal, number), owner in zip(given_places, owners, strict=False):
        own[owner].append((ordinal, f"r{number:03}"))
    with tempfile.TemporaryDirectory() as directory:
        paths = []
        for number, records in enumerate(own):
            records.sort()
            parts = [records[i : i + entry_records] for i in range(0, len(records), entry_records)]
            paths.append(Path(directory, str(number)))
            write(paths[-1], parts)
        found = read(paths)

    union = sorted(place for records in own for place in records)
    assert found == [(o, i, float(o), f"text of {i}" if o % 2 else None) for o, i in union]


def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "whole", [[(1, "a"), (2, "b")], [(3, "c")]])
    whole = (tmp_path / "whole").read_bytes()
    assert len(read([tmp_path / "whole"])) == 3

    for position in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[position] ^= 16
        (tmp_path / "spoiled").write_bytes(spoiled)
        with pytest.raises(DamagedCopyError):
            read([tmp_path / "spoiled"])
        (tmp_path / "spoiled").write_bytes(whole[:position])
        with pytest.raises(DamagedCopyError):
            read([tmp_path / "spoiled"])


def test_newer_copies_and_entries_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "newer", [], CopyHeader(format=2))
    with pytest.raises(NewerCopyError, match="has format 2"):
        CopyReader(tmp_path / "newer")

    writer = CopyWriter(tmp_path / "entry", CopyHeader(format=1, dimension=1))
    writer.add(LogEntry(format=2))
    writer.finish()
    with pytest.raises(NewerCopyError, match="an entry has format 2"):
        read([tmp_path / "entry"])
