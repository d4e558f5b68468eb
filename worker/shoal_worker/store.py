"""The LMDB schema of one shard: where each part of a record lies.

| Database | Key | Value |
|---|---|---|
| `meta` | `meta` | `Meta` |
| `ids` | bucket (2 bytes), then the ID in UTF-8, or a prefix and a digest of it | row |
| `records` | row | format, ordinal, key, ID |
| `vectors` | key | float32 numbers, row |
| `metadata` | row | shoal.v1.Metadata, serialised |
| `documents`, `uris` | row | UTF-8 |
| `exact` | key | nothing: a vector that no graph is to take, for its number type cannot hold it, or
it would spoil the graph |
| `log` | sequence | LogEntry, see `log` |
| `writes`, `write_times` | write ID; time, write ID | see `log` |

Numbers in keys are big-endian, so that their order is LMDB's; in values little-endian. Every value
but those of `ids` and `exact` is sealed; an ID's row is checked against the record, which holds the
full ID. `vectors` holds current vectors only, so that a read transaction itself says whether a
graph's candidate is still its row's vector. Rows rise with ordinals: order by row is order of
insertion.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt
import xxhash

from shoal.server.buckets import bucket_of
from shoal_worker.environment import Database, Environment, Transaction
from shoal_worker.rows import BitMap
from shoal_worker.sealed import SEAL_BYTES, DamagedValueError, seal, unseal, unseal_each

__all__ = ["DATABASES", "FORMAT", "Meta", "Record", "Store", "VectorBatch", "id_key"]

FORMAT: Final = 1
"""Version of the schema. 1: the first."""

DATABASES: Final = (
    "meta",
    "ids",
    "records",
    "vectors",
    "metadata",
    "documents",
    "uris",
    "exact",
    "log",
    "writes",
    "write_times",
)

MAX_ROW: Final = 2**32 - 2
"""Rows are 32-bit numbers, the last of which stays free."""

MAX_PLAIN_ID_BYTES: Final = 508
"""An LMDB key is at most 511 bytes. Keys of plain IDs are at most 510 of them, and those of longer
IDs exactly 511 (bucket, prefix, digest), so that the two cannot be confused."""

_PREFIX_BYTES: Final = 493
_DIGEST_BYTES: Final = 16

_META: Final = struct.Struct("<IQQQQIQQQ16s16s")
_SEQUENCE: Final = struct.Struct("<4xQ")
_META_KEY: Final = b"meta"
_RECORD: Final = struct.Struct("<BQQ")
_RECORD_FORMAT: Final = 1
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_ROW_IN_VECTOR: Final = struct.Struct("<I")
_SEAL: Final = struct.Struct("<I")
_ROW_AND_SEAL: Final = struct.Struct("<II")

row_key = _U32.pack
number_key = _U64.pack


def id_key(record_id: str) -> bytes:
    """Give the key of an ID: its bucket, then itself, or a prefix and a digest if it is too
    long."""
    encoded = record_id.encode()
    bucket = bucket_of(record_id).to_bytes(2, "big")
    if len(encoded) <= MAX_PLAIN_ID_BYTES:
        return bucket + encoded
    digest = hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()
    return bucket + encoded[:_PREFIX_BYTES] + digest


@dataclass(frozen=True, slots=True)
class Meta:
    """What a shard knows about itself, in every transaction.

    Attributes:
        format: Version of the schema.
        sequence: Position of the last log entry applied.
        next_row: Row of the next new record; rows are never used again.
        next_key: Key of the next vector, from 1; keys are never used again.
        last_ordinal: The highest ordinal given.
        dimension: Numbers in each vector; 0 until the first one.
        record_count: Records.
        trimmed_sequence: The log holds what comes after this.
        log_bytes: Bytes of the entries in the log.
        cluster_id: The cluster.
        shard_id: The shard.
    """

    format: int
    sequence: int
    next_row: int
    next_key: int
    last_ordinal: int
    dimension: int
    record_count: int
    trimmed_sequence: int
    log_bytes: int
    cluster_id: UUID
    shard_id: UUID

    def packed(self) -> bytes:
        """Give the stored form."""
        return seal(
            _META.pack(
                self.format,
                self.sequence,
                self.next_row,
                self.next_key,
                self.last_ordinal,
                self.dimension,
                self.record_count,
                self.trimmed_sequence,
                self.log_bytes,
                self.cluster_id.bytes,
                self.shard_id.bytes,
            ),
            0,
        )

    @staticmethod
    def unpacked(value: bytes | memoryview) -> Meta:
        """Read the stored form."""
        fields = _META.unpack(unseal(value, 0, "the shard's description"))
        numbers: tuple[int, int, int, int, int, int, int, int, int] = fields[:9]
        return Meta(*numbers, UUID(bytes=fields[9]), UUID(bytes=fields[10]))


class Record(NamedTuple):
    """A record without its values."""

    row: int
    ordinal: int
    key: int
    id: str


class VectorBatch(NamedTuple):
    """Vectors by key.

    Attributes:
        keys: Shape ``(n,)``.
        rows: Shape ``(n,)``.
        vectors: Shape ``(n, dimension)``.
    """

    keys: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint32]
    vectors: npt.NDArray[np.float32]


@functools.lru_cache(maxsize=64)
def _vector_layout(dimension: int) -> np.dtype[np.void]:
    """How stored vectors of a dimension follow one another."""
    return np.dtype([("vector", "<f4", (dimension,)), ("row", "<u4"), ("seal", "<u4")])


def _payloads(
    txn: Transaction, database: Database, rows: Sequence[int], what: str
) -> list[bytes | None]:
    # One by one, so that a value is verified while it is in the nearest cache.
    stored = map(txn.get, map(row_key, rows), repeat(None), repeat(database))
    return unseal_each(stored, rows, what)


class Store:
    """Reads and writes the schema inside transactions that the caller owns."""

    def __init__(self, environment: Environment) -> None:
        databases: Mapping[str, Database] = environment.databases
        self.meta_db = databases["meta"]
        self.ids = databases["ids"]
        self.records = databases["records"]
        self.vectors = databases["vectors"]
        self.metadata = databases["metadata"]
        self.documents = databases["documents"]
        self.uris = databases["uris"]
        self.exact = databases["exact"]

    # The shard.

    def meta(self, txn: Transaction) -> Meta:
        """Read what the shard knows about itself."""
        value = txn.get(_META_KEY, db=self.meta_db)
        if value is None:
            raise DamagedValueError("the shard's description is missing")
        return Meta.unpacked(value)

    def sequence(self, txn: Transaction) -> int:
        """Read the position of the last log entry applied: of `meta`, what every reader needs."""
        value = txn.get(_META_KEY, db=self.meta_db)
        if value is None:
            raise DamagedValueError("the shard's description is missing")
        sequence: int = _SEQUENCE.unpack_from(unseal(value, 0, "the shard's description"))[0]
        return sequence

    def put_meta(self, txn: Transaction, meta: Meta) -> None:
        """Store what the shard knows about itself."""
        txn.put(_META_KEY, meta.packed(), db=self.meta_db)

    # Records.

    def record(self, txn: Transaction, row: int) -> Record | None:
        """Read the record of a row; None if there is none (any more)."""
        value = txn.get(_U32.pack(row), db=self.records)
        return None if value is None else self.decode_record(row, value)

    def has_row(self, txn: Transaction, row: int) -> bool:
        """Whether a row has a record."""
        return txn.get(_U32.pack(row), db=self.records) is not None

    def key_of(self, txn: Transaction, row: int) -> int:
        """Read the key of a row's vector, and nothing else; 0 if the row has no record."""
        value = txn.get(_U32.pack(row), db=self.records)
        if value is None:
            return 0
        end = len(value) - SEAL_BYTES
        if xxhash.xxh3_64_intdigest(value[:end], row) & 0xFFFFFFFF != int.from_bytes(
            value[end:], "little"
        ):
            raise DamagedValueError(
                f"the record of row {row} is damaged: its checksum does not fit"
            )
        version, _, key = _RECORD.unpack_from(value)
        if version != _RECORD_FORMAT:
            raise DamagedValueError(f"the record of row {row} has the unknown format {version}")
        return int(key)

    def decode_record(self, row: int, value: memoryview) -> Record:
        """Read the stored form of a record."""
        payload = unseal(value, row, "the record of row")
        version, ordinal, key = _RECORD.unpack_from(payload)
        if version != _RECORD_FORMAT:
            raise DamagedValueError(f"the record of row {row} has the unknown format {version}")
        return Record(row, ordinal, key, payload[_RECORD.size :].decode())

    def records_of(
        self, txn: Transaction, rows: Sequence[int]
    ) -> tuple[list[str], list[int], list[int]]:
        """Read IDs, ordinals and keys of rows, in the order of the rows.

        Raises:
            DamagedValueError: If one has no record.
        """
        payloads = _payloads(txn, self.records, rows, "the record of row")
        unpack, head_bytes = _RECORD.unpack_from, _RECORD.size
        ids: list[str] = []
        ordinals: list[int] = []
        keys: list[int] = []
        for row, payload in zip(rows, payloads, strict=True):
            if payload is None:
                raise DamagedValueError(f"row {row} has a vector and no record")
            version, ordinal, key = unpack(payload)
            if version != _RECORD_FORMAT:
                raise DamagedValueError(f"the record of row {row} has the unknown format {version}")
            ids.append(payload[head_bytes:].decode())
            ordinals.append(ordinal)
            keys.append(key)
        return ids, ordinals, keys

    def heads_of(self, txn: Transaction, rows: Sequence[int]) -> list[tuple[int, bytes] | None]:
        """Read ordinals and encoded IDs of rows, in their order; None where there is no record."""
        payloads = _payloads(txn, self.records, rows, "the record of row")
        head_bytes, unpack = _RECORD.size, _RECORD.unpack_from
        return [
            None if payload is None else (unpack(payload)[1], payload[head_bytes:])
            for payload in payloads
        ]

    def encode_record(self, row: int, ordinal: int, key: int, record_id: str) -> bytes:
        """Give the stored form of a record."""
        return seal(_RECORD.pack(_RECORD_FORMAT, ordinal, key) + record_id.encode(), row)

    def find(self, txn: Transaction, record_id: str) -> Record | None:
        """Read the record of an ID; None if there is none."""
        value = txn.get(id_key(record_id), db=self.ids)
        if value is None:
            return None
        (row,) = _U32.unpack(value)
        record = self.record(txn, row)
        if record is None or record.id != record_id:
            raise DamagedValueError(f"the entry of ID {record_id!r} leads to row {row}, wrongly")
        return record

    def rows_from(self, txn: Transaction, row: int) -> Iterator[tuple[int, memoryview]]:
        """Walk over rows and stored records, ascending, from a row on."""
        with txn.cursor(db=self.records) as cursor:
            if not cursor.set_range(_U32.pack(row)):
                return
            for key, value in cursor:
                yield _U32.unpack(key)[0], value

    # Values.

    def value(self, txn: Transaction, database: Database, row: int) -> bytes | None:
        """Read metadata, a document or a URI of a row, copied; None if there is none."""
        value = txn.get(_U32.pack(row), db=database)
        return None if value is None else unseal(value, row, "a value of row")

    def values(
        self, txn: Transaction, database: Database, rows: Sequence[int]
    ) -> list[bytes | None]:
        """Read metadata, documents or URIs of rows, copied, in the order of the rows."""
        return _payloads(txn, database, rows, "a value of row")

    def documents_of(self, txn: Transaction) -> Iterator[tuple[int, bytes]]:
        """Walk over the rows that have a document, ascending, and their documents, copied."""
        with txn.cursor(db=self.documents) as cursor:
            for key, value in cursor:
                (row,) = _U32.unpack(key)
                yield row, unseal(value, row, "a value of row")

    # Vectors.

    def encode_vector(self, key: int, row: int, vector: bytes | memoryview) -> bytes:
        """Give the stored form of a vector, little-endian float32 numbers."""
        return seal(bytes(vector) + _ROW_IN_VECTOR.pack(row), key)

    def vector(self, txn: Transaction, key: int) -> bytes | None:
        """Read one vector as little-endian float32 bytes; None if it is not current."""
        value = txn.get(_U64.pack(key), db=self.vectors)
        if value is None:
            return None
        return unseal(value, key, "the vector of key")[: -_ROW_IN_VECTOR.size]

    def vectors_of(
        self,
        txn: Transaction,
        keys: Sequence[int],
        dimension: int,
        among: BitMap | None = None,
    ) -> tuple[VectorBatch, npt.NDArray[np.intp] | None]:
        """Read the vectors of keys, in the order of the keys, without those that are not current.

        Args:
            txn: The transaction.
            keys: Their keys.
            dimension: Numbers in each.
            among: If given, vectors of other rows are left out, too.

        Returns:
            The vectors, and the positions in `keys` of those found, or None if all were.
        """
        get, pack, database = txn.get, _U64.pack, self.vectors
        values = [get(pack(key), None, database) for key in keys]
        if among is not None:
            values = self._rows_among(keys, values, among)
        present = [value for value in values if value is not None]
        if len(present) == len(keys):
            return self._decode_vectors(keys, present, dimension), None
        positions = [i for i, value in enumerate(values) if value is not None]
        found = self._decode_vectors([keys[i] for i in positions], present, dimension)
        return found, np.array(positions, np.intp)

    @staticmethod
    def _rows_among(
        keys: Sequence[int], values: Sequence[memoryview | None], among: BitMap
    ) -> list[memoryview | None]:
        """Give stored vectors, with None for those of other rows.

        Those are checked here, for a damaged row would leave a match out; the others when they are
        decoded.
        """
        digest, row_and_seal = xxhash.xxh3_64_intdigest, _ROW_AND_SEAL.unpack_from
        kept: list[memoryview | None] = []
        for key, value in zip(keys, values, strict=True):
            if value is not None:
                end = len(value) - SEAL_BYTES
                row, sealed = row_and_seal(value, end - _ROW_IN_VECTOR.size)
                if row not in among:
                    if digest(value[:end], key) & 0xFFFFFFFF != sealed:
                        raise DamagedValueError(
                            f"the vector of key {key} is damaged: its checksum does not fit"
                        )
                    value = None
            kept.append(value)
        return kept

    def vectors_between(
        self, txn: Transaction, first_key: int, end_key: int, dimension: int, count: int
    ) -> VectorBatch:
        """Read at most `count` vectors with ``first_key <= key < end_key``, by ascending key."""
        found: list[int] = []
        values: list[memoryview] = []
        with txn.cursor(db=self.vectors) as cursor:
            if cursor.set_range(_U64.pack(first_key)):
                for packed, value in cursor:
                    (key,) = _U64.unpack(packed)
                    if key >= end_key or len(found) == count:
                        break
                    found.append(key)
                    values.append(value)
        return self._decode_vectors(found, values, dimension)

    def _decode_vectors(
        self, keys: Sequence[int], values: Sequence[memoryview], dimension: int
    ) -> VectorBatch:
        numbers_bytes = 4 * dimension
        stored_bytes = numbers_bytes + _ROW_IN_VECTOR.size + SEAL_BYTES
        joined = b"".join(values)
        if len(joined) != stored_bytes * len(keys):
            raise DamagedValueError(f"a vector does not have {dimension} numbers")
        stored = np.frombuffer(joined, _vector_layout(dimension))
        digest = xxhash.xxh3_64_intdigest
        payload_bytes = stored_bytes - SEAL_BYTES
        for key, value, sealed in zip(keys, values, stored["seal"].tolist(), strict=True):
            if digest(value[:payload_bytes], key) & 0xFFFFFFFF != sealed:
                raise DamagedValueError(
                    f"the vector of key {key} is damaged: its checksum does not fit"
                )
        return VectorBatch(
            np.array(keys, np.uint64), stored["row"].astype(np.uint32), stored["vector"]
        )

    def exact_keys(self, txn: Transaction) -> list[int]:
        """Give the keys of the current vectors that no graph is to take, ascending."""
        with txn.cursor(db=self.exact) as cursor:
            return [_U64.unpack(key)[0] for key in cursor.iternext(values=False)]

    def vector_keys(self, txn: Transaction) -> npt.NDArray[np.uint64]:
        """Give the keys of all current vectors, ascending. Reads every page of them."""
        with txn.cursor(db=self.vectors) as cursor:
            packed = b"".join(cursor.iternext(values=False))
        return np.frombuffer(packed, ">u8").astype(np.uint64)

    def hold_back(self, txn: Transaction, keys: Iterable[int]) -> None:
        """Leave vectors out of every graph from now on, as far as they are still current."""
        for key in keys:
            packed = _U64.pack(key)
            if txn.get(packed, db=self.vectors) is not None:
                txn.put(packed, b"", db=self.exact)

    def vector_count_from(self, txn: Transaction, first_key: int, bound: int) -> int:
        """Count the vectors with ``key >= first_key``, up to a bound."""
        count = 0
        with txn.cursor(db=self.vectors) as cursor:
            if cursor.set_range(_U64.pack(first_key)):
                for _ in cursor.iternext(values=False):
                    count += 1
                    if count == bound:
                        break
        return count
