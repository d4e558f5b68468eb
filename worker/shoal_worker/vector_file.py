"""The exact vectors of a graph, side by side in a file: what candidates are ranked by.

In LMDB a vector is a lookup, a checksum and a call from Python: 16 candidates took a third of a
search. Here they are gathered by one call, and with them what an answer says of their records that
never changes: row, ordinal, and the ID if it is short. The file is a cache like the graph beside
it, made by the same builder of the same vectors in the same order. It only grows while graphs
extend one another, so that an extension writes what it adds; a graph that is built anew begins a
new file.

Nothing is verified when it is opened, and everything when it is read: each slot ends in a checksum,
seeded with its shard, and names its key, of which there is one vector ever. So damage is noticed
also if it comes after the opening, which costs nothing but a look at the length. What is damaged is
read from the records, which have the same, until a new file is there.

    header page | slot, slot, ...
    slot: float32 numbers, padded to eight bytes | head
    head: key, ordinal: uint64 | row: uint32, bytes of the ID: uint8, the ID | XXH3-64 of the slot

All little-endian. (The sum of a slot's words costs half of the checksum's 5 us for 16 vectors, and
misses what flips one bit of two numbers in opposite ways.)
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from google.protobuf.message import DecodeError

from shoal.internal.v1.storage_pb2 import VectorFileHeader
from shoal_worker.header_page import (
    HEADER_PAGE_BYTES,
    DamagedHeaderError,
    encoded_header,
    header_page,
)

__all__ = [
    "HEAD",
    "HEAD_BYTES",
    "HEAD_WORDS",
    "DamagedVectorsError",
    "Gathered",
    "VectorFile",
    "VectorFileWriter",
    "encode_heads",
]

VECTOR_FILE_FORMAT: Final = 1
"""Version of the file. 1: the first."""

_MAGIC: Final = b"SHOALVE\x01"

HEAD_WORDS: Final = 8
"""Words of a head without the last one, which the writer adds."""

HEAD_BYTES: Final = 8 * HEAD_WORDS

_ID_BYTES: Final = 8 * (HEAD_WORDS - 2) - 5
"""The longest ID that a head holds: 43 bytes, a UUID and some. Longer ones are read from the
records."""

HEAD: Final = struct.Struct(f"<QQIB{_ID_BYTES}s")
"""Key, ordinal, row, bytes of the ID (0: the head does not hold it), the ID."""

_NO_ID: Final = (0, b"")

_WORD: Final = np.dtype("<u8")
_NUMBER: Final = np.dtype("<f4")


class DamagedVectorsError(Exception):
    """A file of vectors cannot be used, or not what was read of it. It is made again.

    Attributes:
        reason: One word for the counter: ``missing``, ``damaged``, ``mismatch``, ``format``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Verified(NamedTuple):
    """Vectors that lie side by side, verified.

    Attributes:
        keys: Shape ``(n,)``.
        rows: Shape ``(n,)``.
        vectors: Shape ``(n, d)``, as they are mapped.
    """

    keys: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint32]
    vectors: npt.NDArray[np.float32]


class Gathered(NamedTuple):
    """Vectors that were read, verified.

    Attributes:
        rows: Shape ``(n,)``.
        vectors: Shape ``(n, d)``.
        heads: Shape ``(n, HEAD_WORDS)``; see `HEAD`. None: they were read elsewhere.
        positions: Which of those that were asked for they are; None: all.
    """

    rows: npt.NDArray[np.uint32]
    vectors: npt.NDArray[np.float32]
    heads: npt.NDArray[np.uint64] | None = None
    positions: npt.NDArray[np.intp] | None = None


def encode_heads(
    keys: Sequence[int], rows: Sequence[int], records: Sequence[tuple[int, bytes] | None]
) -> npt.NDArray[np.uint64]:
    """Give the heads of vectors, shape ``(n, HEAD_WORDS)``.

    Args:
        keys: Their keys.
        rows: Their rows.
        records: Ordinal and encoded ID of each row; None if it has no record any more.
    """
    encoded = bytearray(HEAD.size * len(keys))
    for i, (key, row, record) in enumerate(zip(keys, rows, records, strict=True)):
        ordinal, name = record or _NO_ID
        if len(name) > _ID_BYTES:
            name = b""
        HEAD.pack_into(encoded, i * HEAD.size, key, ordinal, row, len(name), name)
    return np.frombuffer(encoded, _WORD).reshape(len(keys), HEAD_WORDS)


def _vector_words(dimension: int) -> int:
    return (dimension + 1) // 2


def _slot_words(dimension: int) -> int:
    return _vector_words(dimension) + HEAD_WORDS + 1


def _seed(shard_id: str) -> int:
    """Of a shard's checksums, so that another shard's vectors are not taken for its own."""
    return xxhash.xxh3_64_intdigest(shard_id.encode())


def _checksums(slots: npt.NDArray[np.uint64], seed: int) -> list[int]:
    """Give the checksum of each slot, shape ``(n, words)``, but for its last word."""
    if not len(slots):
        return []
    digest, content = xxhash.xxh3_64_intdigest, slots.data.cast("B")
    step = slots.shape[1] * _WORD.itemsize
    end = step - _WORD.itemsize
    return [digest(content[at : at + end], seed) for at in range(0, len(content), step)]


def _check_header(page: bytes, shard_id: str, dimension: int) -> None:
    try:
        header = VectorFileHeader.FromString(encoded_header(_MAGIC, page))
    except DamagedHeaderError as error:
        raise DamagedVectorsError("damaged", str(error)) from error
    except DecodeError as error:
        raise DamagedVectorsError("damaged", "its header cannot be read") from error
    if header.format > VECTOR_FILE_FORMAT:
        raise DamagedVectorsError(
            "format", f"it has format {header.format}, this release reads {VECTOR_FILE_FORMAT}"
        )
    if (header.shard_id, header.dimension) != (shard_id, dimension):
        raise DamagedVectorsError(
            "mismatch", f"it is of {header.shard_id}, dimension {header.dimension}"
        )


class VectorFile:
    """The first vectors of a file, mapped; it may grow and be unlinked while it is in use."""

    def __init__(self, content: mmap.mmap, shard_id: str, dimension: int, count: int) -> None:
        width = _slot_words(dimension)
        self.count = count
        self.size_bytes = len(content)
        words = np.frombuffer(content, _WORD, count * width, HEADER_PAGE_BYTES)
        self._words: npt.NDArray[np.uint64] = words.reshape(count, width)
        self._seed = _seed(shard_id)
        self._key_at = _vector_words(dimension)
        self._dimension = dimension

    @staticmethod
    def open(path: Path, shard_id: str, dimension: int, count: int | None) -> VectorFile:
        """Open a file.

        Args:
            path: Its place.
            shard_id: Whose it must be.
            dimension: Numbers in each vector.
            count: Vectors that it must hold at least; None: as many as there are.

        Raises:
            DamagedVectorsError: If it cannot be used.
        """
        try:
            with path.open("rb") as file:
                _check_header(file.read(HEADER_PAGE_BYTES), shard_id, dimension)
                slot_bytes = _slot_words(dimension) * _WORD.itemsize
                size = os.fstat(file.fileno()).st_size
                if count is None:
                    count = (size - HEADER_PAGE_BYTES) // slot_bytes
                expected = HEADER_PAGE_BYTES + count * slot_bytes
                if size < expected:
                    raise DamagedVectorsError(
                        "damaged", f"it has {size} bytes instead of {expected}"
                    )
                content = mmap.mmap(file.fileno(), expected, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise DamagedVectorsError("missing", "it is not there") from error
        return VectorFile(content, shard_id, dimension, count)

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """All vectors as they are mapped, shape ``(count, d)``; not verified."""
        return self._words.view("<f4")[:, : self._dimension]

    def verified(self, part: slice) -> Verified:
        """Read vectors that follow one another.

        Raises:
            DamagedVectorsError: If one is not what was written.
        """
        slots = self._words[part]
        at = self._key_at
        if slots[:, -1].tolist() != _checksums(slots, self._seed):
            raise DamagedVectorsError("damaged", "a vector is not what was written")
        return Verified(
            slots[:, at],
            slots[:, at + 2].astype(np.uint32),
            slots.view("<f4")[:, : self._dimension],
        )

    def read(self, places: npt.NDArray[np.intp], keys: npt.NDArray[np.uint64]) -> Gathered:
        """Read vectors.

        Args:
            places: In the order of adding.
            keys: The key that is expected at each.

        Raises:
            DamagedVectorsError: If one is not what was written.
        """
        slots = self._words.take(places, axis=0)
        at = self._key_at
        if (
            slots[:, -1].tolist() != _checksums(slots, self._seed)
            or slots[:, at].tobytes() != keys.tobytes()
        ):
            raise DamagedVectorsError("damaged", "a vector is not what was written")
        return Gathered(
            # The row is the lower half of the word.
            slots[:, at + 2].astype(np.uint32),
            slots.view(_NUMBER)[:, : self._dimension],
            slots[:, at : at + HEAD_WORDS],
        )


class VectorFileWriter:
    """A file of vectors under construction, in the builder's process.

    Args:
        path: Its place in the end.
        shard_id: The shard.
        dimension: Numbers in each vector.
        kept: Vectors that the file holds and that stay; what is behind them goes. 0: it is begun
            anew, beside its place.

    Raises:
        DamagedVectorsError: If it does not hold those that are to stay.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path, shard_id: str, dimension: int, kept: int) -> None:
        self._path = path
        self._shard_id = shard_id
        self._dimension = dimension
        self._kept_bytes = 0
        self._place = path.with_name(path.name + ".tmp")
        if not kept:
            self._file = self._place.open("wb", buffering=0)
            header = VectorFileHeader(
                format=VECTOR_FILE_FORMAT, shard_id=shard_id, dimension=dimension
            )
            self._write(memoryview(header_page(_MAGIC, header)))
            return
        VectorFile.open(path, shard_id, dimension, kept)
        self._place = path
        self._kept_bytes = HEADER_PAGE_BYTES + kept * _slot_words(dimension) * _WORD.itemsize
        self._file = path.open("r+b", buffering=0)
        # What an extension left that did not come to its end.
        self._file.truncate(self._kept_bytes)
        self._file.seek(self._kept_bytes)

    def add(self, heads: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]) -> None:
        """Append vectors, shape ``(n, dimension)``."""
        at = _vector_words(self._dimension)
        slots = np.zeros((len(heads), _slot_words(self._dimension)), _WORD)
        slots.view("<f4")[:, : self._dimension] = vectors
        slots[:, at : at + HEAD_WORDS] = heads
        slots[:, -1] = np.array(_checksums(slots, _seed(self._shard_id)), _WORD)
        self._write(slots.data.cast("B"))

    def _write(self, content: memoryview) -> None:
        while content:
            content = content[self._file.write(content) :]

    def finish(self) -> int:
        """Sync the file and put it into its place, and give the bytes written.

        Whoever then syncs the directory makes the place durable, too.
        """
        size = self._file.tell() - self._kept_bytes
        os.fsync(self._file.fileno())
        self._file.close()
        if self._place != self._path:
            self._place.rename(self._path)
        return size

    def discard(self) -> None:
        """Take back what was written: it helps nobody, least of all on a full disk."""
        self._file.close()
        if self._kept_bytes:
            os.truncate(self._path, self._kept_bytes)
        else:
            self._place.unlink(missing_ok=True)
