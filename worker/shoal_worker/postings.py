"""Terms and the rows that have them, in LMDB.

A term is a few bytes; its rows lie in chunks of 65,536 rows, each a key of its own (the term, then
the chunk), so that a chunk is one container of a roaring bitmap: two bytes a row where they are
few, one bit where they are many, next to nothing where they are all. A term that one record alone
has takes its key and seven bytes.

What is stored is sealed under its key, so that a flipped bit, and a value that turns up under
another key, are noticed before they are believed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import xxhash

from shoal_worker.environment import Database, Transaction
from shoal_worker.rows import BitMap
from shoal_worker.sealed import SEAL_BYTES, DamagedIndexError, seal, unseal_derived

__all__ = ["Postings", "chunk_of"]

_FEW: Final = 8
"""Rows of a chunk that are stored as plain numbers; a bitmap has a header of 16 bytes."""

_CHECK_EVERY: Final = 256
"""Terms that are read before the deadline is looked at: 0.5 ms."""

_NUMBERS: Final = [struct.Struct(f">B{count}H") for count in range(_FEW + 1)]
_CHUNK: Final = struct.Struct(">H")
_CHUNK_BITS: Final = 16
_IS_NUMBERS: Final = 0
_IS_BITMAP: Final = b"\x01"


class _Chunks(dict[int, bytes]):
    """Made when they are first asked for: a million rows have sixteen."""

    def __missing__(self, chunk: int) -> bytes:
        made = self[chunk] = _CHUNK.pack(chunk)
        return made


chunk_of: Final = _Chunks()
"""The end of the key under which a row lies, by ``row >> 16``."""

_place = xxhash.xxh3_64_intdigest


class Postings:
    """A database of terms.

    No term may be the beginning of another one.
    """

    def __init__(self, database: Database, what: str) -> None:
        self.database = database
        self._what = what

    # Writing.

    def changed(
        self,
        txn: Transaction,
        added: Mapping[bytes, Sequence[int]],
        removed: Mapping[bytes, Sequence[int]],
    ) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """Say what to put and what to delete.

        Args:
            txn: What is stored now.
            added: Rows by key (a term and a chunk); each row once.
            removed: The same; rows that are not there are passed over.

        Returns:
            Keys and values by ascending key, and keys to be deleted.
        """
        keys = sorted(added.keys() | removed.keys())
        with txn.cursor(db=self.database) as cursor:
            stored = {bytes(key): value for key, value in cursor.getmulti(keys)}
            puts: list[tuple[bytes, bytes]] = []
            deletes: list[bytes] = []
            for key in keys:
                value = stored.get(key)
                if value is None:
                    rows = added.get(key)
                    if rows:
                        puts.append((key, self._encode_new(key, rows)))
                    continue
                bitmap = self._decode(key, value)
                bitmap.difference_update(BitMap(removed.get(key, ())))
                bitmap.update(added.get(key, ()))
                if bitmap:
                    puts.append((key, self._encode(key, bitmap)))
                else:
                    deletes.append(key)
        return puts, deletes

    def _encode_new(self, key: bytes, rows: Sequence[int]) -> bytes:
        if len(rows) > _FEW:
            return self._encode(key, BitMap(rows))
        numbers = _NUMBERS[len(rows)].pack(_IS_NUMBERS, *[row & 0xFFFF for row in sorted(rows)])
        return seal(numbers, _place(key))

    def _encode(self, key: bytes, rows: BitMap) -> bytes:
        if len(rows) <= _FEW:
            return self._encode_new(key, list(rows))
        rows.run_optimize()
        return seal(_IS_BITMAP + rows.serialize(), _place(key))

    def _decode(self, key: bytes, value: memoryview) -> BitMap:
        payload = unseal_derived(value, _place(key), self._what)
        if payload[0] != _IS_NUMBERS:
            return BitMap.deserialize(payload[1:])
        high = _CHUNK.unpack_from(key, len(key) - _CHUNK.size)[0] << _CHUNK_BITS
        return BitMap([high | low for low in _NUMBERS[len(payload) >> 1].unpack(payload)[1:]])

    # Reading.

    def rows(self, txn: Transaction, term: bytes) -> BitMap:
        """Give the rows of a term.

        Raises:
            DamagedIndexError: If they are not what was stored.
        """
        found = [
            self._decode(key, value)
            for key, value in self._between(txn, term, term + b"\xff\xff\xff")
        ]
        return _union(found)

    def rows_between(
        self,
        txn: Transaction,
        first: bytes,
        end: bytes,
        check: Callable[[], None] | None = None,
    ) -> BitMap:
        """Give the rows of all terms from `first` on and before `end`.

        Args:
            txn: The reader's transaction.
            first: A term.
            end: A term.
            check: Called now and then; what it raises ends the reading.
        """
        found: list[BitMap] = []
        for key, value in self._between(txn, first, end):
            if check is not None and len(found) % _CHECK_EVERY == 0:
                check()
            found.append(self._decode(key, value))
        return _union(found)

    def _between(
        self, txn: Transaction, first: bytes, end: bytes
    ) -> Iterator[tuple[bytes, memoryview]]:
        with txn.cursor(db=self.database) as cursor:
            if not cursor.set_range(first):
                return
            for stored, value in cursor:
                key = bytes(stored)
                if key >= end:
                    return
                if len(value) <= SEAL_BYTES:
                    raise DamagedIndexError(f"{self._what} is cut short")
                yield key, value


def _union(found: list[BitMap]) -> BitMap:
    if len(found) == 1:
        return found[0]
    # Of no set at all pyroaring gives none, but an error.
    return BitMap.union(*found) if found else BitMap()
