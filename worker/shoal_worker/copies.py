"""A copy of a shard's records at one point in time: one file, as it lies in the snapshot store.

It is a log that makes the records: entries of new records, in order of insertion, as `apply` takes
them, each with a checksum, behind a header. A copy of the LMDB file was tried: half as large again
(pages, and what is derived), and LMDB's own copy keeps old bytes in the gaps of its pages, where a
file that leaves the machine must hold nothing that was deleted. The same records at the same
sequence give the same bytes, so that a copy can be named by its SHA-256.

```
SHOALCPY  (length, checksum, CopyHeader)  (length, checksum, LogEntry)…  (0, checksum)
```
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
import xxhash
from google.protobuf.message import DecodeError

from shoal.internal.v1.storage_pb2 import CopyHeader, LogEntry
from shoal_worker.apply import DOCUMENT_CHANGES, IS_NEW, METADATA_CHANGES, URI_CHANGES
from shoal_worker.environment import Transaction
from shoal_worker.log import ENTRY_FORMAT
from shoal_worker.sealed import DamagedValueError
from shoal_worker.store import Store, row_key

__all__ = ["COPY_FORMAT", "CopyReader", "CopyWriter", "DamagedCopyError", "NewerCopyError"]
__all__ += ["next_entry"]

COPY_FORMAT: Final = 1
"""Version of a copy. 1: the first."""

ENTRY_RECORDS: Final = 256
ENTRY_BYTES: Final = 1024 * 1024
"""What an entry holds at most, but for one record: some milliseconds' reading. A restoration has
one entry of each source in memory, and there are 256 sources at most."""

_MAGIC: Final = b"SHOALCPY"
_FRAME: Final = struct.Struct("<IQ")
_MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
"""A record has a vector, a document of 1 MiB and metadata of 64 KiB by default: far less."""


class DamagedCopyError(Exception):
    """A copy is not what was written.

    Attributes:
        path: Of its file.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(what)
        self.path = path


class NewerCopyError(Exception):
    """A copy was written by a newer release."""


class CopyWriter:
    """Writes a copy to a new file, which is durable nowhere: it is put into the store from there.

    Args:
        path: Of the file.
        header: What is copied.
    """

    def __init__(self, path: Path, header: CopyHeader) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._frame_count = 0
        self.size_bytes = 0
        self._write(_MAGIC)
        self._write_frame(header.SerializeToString(deterministic=True))

    def add(self, entry: LogEntry) -> None:
        """Append an entry."""
        self._write_frame(entry.SerializeToString(deterministic=True))

    def finish(self) -> bytes:
        """End the file, and give its SHA-256."""
        self._write_frame(b"")
        self.close()
        return self._sha256.digest()

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _write_frame(self, payload: bytes) -> None:
        digest = xxhash.xxh3_64_intdigest(payload, self._frame_count)
        self._frame_count += 1
        self._write(_FRAME.pack(len(payload), digest) + payload)

    def _write(self, content: bytes) -> None:
        self._sha256.update(content)
        self._file.write(content)
        self.size_bytes += len(content)


class CopyReader:
    """Reads a copy from beginning to end; a context manager.

    Args:
        path: Of the file.

    Raises:
        DamagedCopyError: If it is not a copy, or damaged.
        NewerCopyError: If this release cannot read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("rb")
        self._frame_count = 0
        try:
            if self._file.read(len(_MAGIC)) != _MAGIC:
                raise self._damaged("it is no copy of a shard")
            self.header = CopyHeader()
            self._parse(self.header, self._frame())
            if self.header.format > COPY_FORMAT:
                raise NewerCopyError(
                    f"it has format {self.header.format}, this release reads {COPY_FORMAT}"
                )
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> CopyReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entries(self) -> Iterator[LogEntry]:
        """Give the entries.

        Raises:
            DamagedCopyError: If one is damaged, or the end is missing.
        """
        while payload := self._frame():
            entry = LogEntry()
            self._parse(entry, payload)
            if entry.format > ENTRY_FORMAT:
                raise NewerCopyError(
                    f"an entry has format {entry.format}, this release reads {ENTRY_FORMAT}"
                )
            yield entry

    def _frame(self) -> bytes:
        head = self._file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            raise self._damaged("it ends too early")
        size, digest = _FRAME.unpack(head)
        if size > _MAX_FRAME_BYTES:
            raise self._damaged(f"its part {self._frame_count} has {size} bytes")
        payload = self._file.read(size)
        if len(payload) < size or xxhash.xxh3_64_intdigest(payload, self._frame_count) != digest:
            raise self._damaged(f"the checksum of its part {self._frame_count} does not fit")
        self._frame_count += 1
        return payload

    def _damaged(self, what: str) -> DamagedCopyError:
        return DamagedCopyError(self.path, what)

    def _parse(self, message: CopyHeader | LogEntry, payload: bytes) -> None:
        try:
            message.ParseFromString(payload)
        except DecodeError as error:
            raise self._damaged(f"its part {self._frame_count} cannot be read") from error


def next_entry(
    txn: Transaction, store: Store, dimension: int, first_row: int
) -> tuple[LogEntry, int]:
    """Read the next records as an entry.

    Args:
        txn: A read transaction.
        store: Its schema.
        dimension: Numbers in a vector.
        first_row: The lowest row that is wanted.

    Returns:
        The entry, and the row from which to go on; an entry without records: that was all.

    Raises:
        DamagedValueError: If one of them is damaged.
    """
    entry = LogEntry(format=ENTRY_FORMAT)
    rows = _rows_from(txn, store, first_row, dimension)
    if not rows:
        return entry, first_row
    puts = entry.puts
    ids, ordinals, keys = store.records_of(txn, rows)
    vectors, found = store.vectors_of(txn, keys, dimension)
    if found is not None or vectors.rows.tolist() != rows:
        raise DamagedValueError(f"a record of rows {rows[0]} to {rows[-1]} lacks its vector")
    puts.ordinals.extend(ordinals)
    puts.ids.extend(ids)
    puts.vectors = np.ascontiguousarray(vectors.vectors, "<f4").tobytes()
    changes = np.full(len(rows), IS_NEW, np.uint8)
    for bit, database, column in (
        (METADATA_CHANGES, store.metadata, puts.metadatas),
        (DOCUMENT_CHANGES, store.documents, None),
        (URI_CHANGES, store.uris, None),
    ):
        for i, value in enumerate(store.values(txn, database, rows)):
            if value is None:
                continue
            changes[i] |= bit
            if column is not None:
                column.append(value)
            elif bit == DOCUMENT_CHANGES:
                puts.documents.append(value.decode())
            else:
                puts.uris.append(value.decode())
    puts.changes = changes.tobytes()
    return entry, rows[-1] + 1


def _rows_from(txn: Transaction, store: Store, first_row: int, dimension: int) -> list[int]:
    """Give the next rows: what comes is decided by the records alone, whoever reads them."""
    rows: list[int] = []
    size = 0
    values = (store.metadata, store.documents, store.uris)
    with txn.cursor(db=store.records) as cursor:
        if not cursor.set_range(row_key(first_row)):
            return rows
        for key, record in cursor:
            size += len(record) + 4 * dimension
            for database in values:
                value = txn.get(key, db=database)
                size += 0 if value is None else len(value)
            if rows and size > ENTRY_BYTES:
                break
            rows.append(int.from_bytes(key, "big"))
            if len(rows) == ENTRY_RECORDS:
                break
    return rows
