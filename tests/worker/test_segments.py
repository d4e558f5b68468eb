"""Segments: what is merged when, and what is noticed of damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shoal_worker.environment import Environment
from shoal_worker.indexes import Batch
from shoal_worker.occurrences import Found
from shoal_worker.sealed import DamagedIndexError
from shoal_worker.segment_format import Contents
from shoal_worker.segments import Segments
from shoal_worker.terms_index import contents_of

DATABASES = ("segments", "blocks")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(tmp_path / "records.mdb", DATABASES, create=True)
    yield environment
    environment.close()


@pytest.fixture
def segments(environment: Environment) -> Segments:
    return Segments(environment.databases["segments"], environment.databases["blocks"], "terms")


def documents(rows: range, numbers: list[int]) -> Contents:
    """Each row has each number once, and the first number as often as its row says."""
    lengths = np.array([len(numbers) + row for row in rows], np.int64)
    held = [number for row in rows for number in (*numbers, *[numbers[0]] * row)]
    return contents_of(np.array(rows, np.uint32), np.array(held, np.uint64), lengths)


def put(environment: Environment, batch: Batch) -> None:
    def write(txn) -> None:  # type: ignore[no-untyped-def]
        for database, keys in batch.deletes:
            for key in keys:
                txn.delete(key, db=database)
        for database, items in batch.puts:
            for key, value in items:
                txn.put(key, value, db=database)

    environment.write(write)


def add(
    environment: Environment, segments: Segments, new: Contents, gone: tuple[int, ...] = ()
) -> None:
    with environment.read() as txn:
        batch = segments.changed(txn, np.array(gone, np.uint32), new)
    put(environment, batch)


def test_what_is_put_is_found(environment: Environment, segments: Segments) -> None:
    add(environment, segments, documents(range(300), [5, 9, 2**64 - 1]))
    with environment.read() as txn:
        [segment] = segments.all(txn)
        found = list(segments.postings(txn, segment, [1, 5, 6, 9, 2**64 - 1]))
    assert [posting.number for posting in found] == [5, 9, 2**64 - 1]
    assert segment.rows[found[0].places].tolist() == list(range(300))
    # Above 255 it takes more than a byte.
    assert found[0].weights.tolist() == list(range(1, 301))
    assert found[1].weights.tolist() == [1] * 300


def test_many_small_segments_become_few(environment: Environment, segments: Segments) -> None:
    for row in range(600):
        add(environment, segments, documents(range(row, row + 1), [7]))
    with environment.read() as txn:
        stored = segments.all(txn)
        held = sorted(row for segment in stored for row in segment.rows.tolist())
    assert held == list(range(600))
    assert len(stored) < 40


def test_what_is_mostly_dead_is_written_again(environment: Environment, segments: Segments) -> None:
    nothing = documents(range(0), [7])
    add(environment, segments, documents(range(100), [7]))
    for first in range(0, 60, 10):
        add(environment, segments, nothing, gone=tuple(range(first, first + 10)))
        with environment.read() as txn:
            [segment] = segments.all(txn)
        assert segment.live_count == 90 - first
        assert len(segment.rows) <= segment.live_count / 0.6
    add(environment, segments, nothing, gone=tuple(range(100)))
    with environment.read() as txn:
        assert segments.all(txn) == []
        assert txn.stat(environment.databases["blocks"])["entries"] == 0


def test_a_row_has_one_live_place(environment: Environment, segments: Segments) -> None:
    for _ in range(30):
        add(environment, segments, documents(range(20), [7]), gone=tuple(range(20)))
    with environment.read() as txn:
        live = [row for s in segments.all(txn) for row in s.rows[s.live].tolist()]
    assert sorted(live) == list(range(20))


@pytest.mark.parametrize("name", DATABASES)
def test_a_value_in_a_wrong_place_is_noticed(
    environment: Environment, segments: Segments, name: str
) -> None:
    add(environment, segments, documents(range(10), [7]))
    add(environment, segments, documents(range(10, 20), [8]))
    database = environment.databases[name]

    def swap(txn) -> None:  # type: ignore[no-untyped-def]
        with txn.cursor(db=database) as cursor:
            (first, one), (second, other) = [(bytes(k), bytes(v)) for k, v in cursor]
        txn.put(first, other, db=database)
        txn.put(second, one, db=database)

    environment.write(swap)
    found = Found([7, 8], None)
    with environment.read() as txn, pytest.raises(DamagedIndexError):
        found.add_segments(txn, segments, np.empty(0, np.uint32), lambda: None)


def test_what_is_cleaned_holds_nothing_dead(environment: Environment, segments: Segments) -> None:
    add(environment, segments, documents(range(100), [7, 8]))
    add(environment, segments, documents(range(100, 110), [9]), gone=tuple(range(10)))
    with environment.read() as txn:
        heads, blocks = (dict(items) for items in segments.cleaned(txn))
    with environment.read() as txn:
        dirty = segments.all(txn)[0]
        assert dirty.live_count == 90
        assert len(dirty.rows) == 100
    put(environment, Batch(
        puts=[(environment.databases["segments"], list(heads.items())),
              (environment.databases["blocks"], list(blocks.items()))],
        deletes=[(environment.databases["segments"], [b"\x00\x00\x00\x01\x01"])],
    ))  # fmt: skip
    with environment.read() as txn:
        stored = segments.all(txn)
        assert [len(segment.rows) for segment in stored] == [90, 10]
        [posting] = segments.postings(txn, stored[0], [8])
        assert stored[0].rows[posting.places].tolist() == list(range(10, 100))
