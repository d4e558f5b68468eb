"""Numbers and the rows that have them, in one order, in LMDB.

An entry is 16 bytes whose order is that of (number, row): the number rounded down to a float64, in
an encoding that sorts; what the rounding took off, which is not 0 only for integers beyond 2^53;
the row. So integers and floats compare exactly, and 1 is 1.0. Entries lie sorted in blocks of about
a page, each under its field and its first entry, as the leaves of a B-tree: a range reads its own
blocks and decodes them at once, and a field whose every value is different costs 16 bytes a record.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from shoal_worker.environment import Cursor, Database, Transaction
from shoal_worker.rows import BitMap, bitmap_of
from shoal_worker.sealed import SEAL_BYTES, DamagedIndexError, seal, unseal_derived

__all__ = ["NumberRuns", "entries_of", "first_entry", "last_entry"]

Entries: TypeAlias = "npt.NDArray[np.bytes_]"
"""Sorted entries, numpy's fixed-length bytes, compared as memory is."""

_ENTRY_BYTES: Final = 16
_ENTRY: Final = np.dtype("S16")

CAPACITY: Final = 508
"""Entries of a block: with its checksum it fits into two pages of LMDB. Half of that doubles what a
range costs beside its rows, twice that doubles what one changed number writes."""

_FILL: Final = CAPACITY * 3 // 4
"""Entries of the blocks that a full one is split into, so that they do not split again at once."""

_FEW: Final = CAPACITY // 4
"""A block of fewer entries is joined with the next one."""

_CHECK_EVERY: Final = 64
"""Blocks that are read before the deadline is looked at: 0.3 ms."""

_MOST_GROUPS: Final = 512
"""Groups of some thousand rows each that are kept in memory: at most some MB."""

_DOUBLE: Final = struct.Struct(">d")
_NUMBER: Final = struct.Struct(">QI")
_SIGN: Final = 1 << 63
_ALL_BITS: Final = 2**64 - 1
_LARGEST_EXACT: Final = 2**53

_place = xxhash.xxh3_64_intdigest


def _encoded(value: float) -> bytes:
    """Encode a number so that bytes compare as numbers do: 12 bytes."""
    rest = 0
    number = float(value)
    if isinstance(value, int) and abs(value) > _LARGEST_EXACT:
        if int(number) > value:
            number = math.nextafter(number, -math.inf)
        rest = value - int(number)
    # Adding 0.0 makes the negative zero positive: they are the same number.
    (bits,) = struct.unpack(">Q", _DOUBLE.pack(number + 0.0))
    return _NUMBER.pack(bits ^ _ALL_BITS if bits & _SIGN else bits | _SIGN, rest)


def first_entry(value: float) -> bytes:
    """Give the entry that comes before every entry of a number but row 0's."""
    return _encoded(value) + b"\x00\x00\x00\x00"


def last_entry(value: float) -> bytes:
    """Give the entry that comes after every entry of a number."""
    return _encoded(value) + b"\xff\xff\xff\xff"


def entries_of(values: Sequence[float], rows: Sequence[int]) -> Entries:
    """Give the entries of numbers and rows, sorted."""
    count = len(values)
    packed = np.zeros((count, 4), ">u4")
    doubles = np.array([float(value) for value in values]) + 0.0
    bits = doubles.view(np.uint64)
    negative = bits >> np.uint64(63) != 0
    codes = np.where(negative, ~bits, bits | np.uint64(_SIGN))
    packed[:, 0] = codes >> np.uint64(32)
    packed[:, 1] = codes & np.uint64(0xFFFFFFFF)
    packed[:, 3] = rows
    for i in np.flatnonzero(np.abs(doubles) >= _LARGEST_EXACT).tolist():
        packed[i, :3] = np.frombuffer(_encoded(values[i]), ">u4")
    entries: Entries = packed.reshape(-1).view(_ENTRY)
    entries.sort()
    return entries


def _from_bytes(data: bytes) -> Entries:
    return np.frombuffer(data, _ENTRY)


def _rows(entries: Entries) -> npt.NDArray[np.uint32]:
    numbers = np.ascontiguousarray(entries).view(">u4").reshape(-1, 4)
    return numbers[:, 3].astype(np.uint32)


def _bytes_at(entries: Entries, place: int) -> bytes:
    # numpy drops zeros at the end of what it gives out.
    return bytes(entries[place]).ljust(_ENTRY_BYTES, b"\x00")


def _begins_group(key: bytes) -> bool:
    """Whether a group of blocks begins with this one: one in eight, wherever a range begins."""
    return _place(key) & 7 == 0


class _Groups:
    """Rows of neighbouring blocks, as sets, so that a range need not read the blocks again.

    Made while ranges are read, of the groups that lie in them whole. For one state of a database:
    what an index takes in next makes them worthless.

    Args:
        version: Names the state.
    """

    def __init__(self, version: object) -> None:
        self.version = version
        self._found: dict[bytes, tuple[bytes, BitMap]] = {}

    def get(self, start: bytes) -> tuple[bytes, BitMap] | None:
        """Give the key of the block behind the group that begins with a block, and its rows."""
        return self._found.get(start)

    def put(self, start: bytes, end: bytes, rows: BitMap) -> None:
        """Take a group in, if there is room."""
        if len(self._found) < _MOST_GROUPS:
            self._found[start] = (end, rows)


class NumberRuns:
    """A database of numbers. A prefix names a field; all have one length."""

    def __init__(self, database: Database, what: str) -> None:
        self.database = database
        self._what = what
        self._groups = _Groups(None)

    # Writing.

    def changed(
        self, txn: Transaction, prefix: bytes, added: Entries, removed: Entries
    ) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """Say what to put and what to delete.

        Args:
            txn: What is stored now.
            prefix: The field.
            added: Sorted; none of them is there and not in `removed`.
            removed: Sorted; what is not there is passed over.

        Returns:
            Keys and values by ascending key, and keys to be deleted.
        """
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        for keys, block, bound, is_last in self._blocks_for(txn, prefix, added, removed):
            adding, added = _below(added, bound)
            removing, removed = _below(removed, bound)
            append = is_last and (
                not len(block) or (len(adding) > 0 and adding[0] > block[-1] and not len(removing))
            )
            if len(removing):
                block = block[~np.isin(block, removing)]
            merged = np.sort(np.concatenate((block, adding)))
            size = CAPACITY if append else _FILL
            if len(merged) <= CAPACITY:
                size = CAPACITY
            new_keys = set()
            for first in range(0, len(merged), size):
                key = prefix + _bytes_at(merged, first)
                new_keys.add(key)
                data = merged[first : first + size].tobytes()
                puts.append((key, seal(data, _place(key))))
            deletes += [key for key in keys if key not in new_keys]
        return puts, deletes

    def _blocks_for(
        self, txn: Transaction, prefix: bytes, added: Entries, removed: Entries
    ) -> Iterator[tuple[list[bytes], Entries, bytes | None, bool]]:
        """Walk over the blocks that entries fall into.

        Gives for each its keys (more than one if a small one takes in the next), its entries, the
        key's end before which entries fall into it (None: all the rest do), and whether it is the
        last.
        """
        with txn.cursor(db=self.database) as cursor:
            while len(added) or len(removed):
                first = min(_bytes_at(entries, 0) for entries in (added, removed) if len(entries))
                found = self._seek(cursor, prefix, first)
                if not found:
                    yield [], _from_bytes(b""), None, True
                    return
                keys = [bytes(cursor.key())]
                blocks = [self._decode(keys[0], cursor.value())]
                bound = self._next_key(cursor, prefix)
                while bound is not None and sum(map(len, blocks)) < _FEW:
                    keys.append(bound)
                    blocks.append(self._decode(bound, cursor.value()))
                    bound = self._next_key(cursor, prefix)
                end = None if bound is None else bound[len(prefix) :]
                yield keys, np.concatenate(blocks), end, bound is None
                _, added = _below(added, end)
                _, removed = _below(removed, end)

    @staticmethod
    def _next_key(cursor: Cursor, prefix: bytes) -> bytes | None:
        key = bytes(cursor.key()) if cursor.next() else b""
        return key if key.startswith(prefix) else None

    @staticmethod
    def _seek(cursor: Cursor, prefix: bytes, entry: bytes) -> bool:
        """Go to the block that an entry falls into: the last that begins at or before it, or the
        field's first. False if the field has none."""
        key = prefix + entry
        if cursor.set_range(key):
            if bytes(cursor.key()) == key:
                return True
            is_inside = bytes(cursor.key()).startswith(prefix)
            if cursor.prev() and bytes(cursor.key()).startswith(prefix):
                return True
            return is_inside and bool(cursor.set_range(key))
        return bool(cursor.last()) and bytes(cursor.key()).startswith(prefix)

    def _decode(self, key: bytes, value: memoryview) -> Entries:
        return _from_bytes(self._payload(key, value))

    def _payload(self, key: bytes, value: memoryview) -> bytes:
        payload = unseal_derived(value, _place(key), self._what)
        if not payload or len(payload) % _ENTRY_BYTES:
            raise DamagedIndexError(f"{self._what} has a block of {len(payload)} bytes")
        return payload

    # Reading.

    def rows_between(
        self,
        txn: Transaction,
        prefix: bytes,
        first: bytes,
        last: bytes,
        version: object = None,
        check: Callable[[], None] | None = None,
    ) -> BitMap:
        """Give the rows of the entries from `first` to `last`, both included.

        Args:
            txn: The reader's transaction.
            prefix: The field.
            first: An entry.
            last: An entry.
            version: Names what the database holds in this transaction; None: nothing is remembered.
            check: Called now and then; what it raises ends the reading.

        Raises:
            DamagedIndexError: If they are not what was stored.
        """
        groups = self._groups
        if groups.version != version or version is None:
            # Remembered is what a second range in the same state would read again.
            groups, is_remembering = _Groups(None), False
            if version is not None:
                self._groups = _Groups(version)
        else:
            is_remembering = True
        begin, end = prefix + first, prefix + last
        known: list[BitMap] = []
        payloads: list[memoryview] = []
        start: bytes | None = None  # of the group that is being read, and where in `payloads`
        start_at = 0
        with txn.cursor(db=self.database) as cursor:
            is_there = self._seek(cursor, prefix, first)
            while is_there:
                key = bytes(cursor.key())
                if key > end or not key.startswith(prefix):
                    break
                if is_remembering and _begins_group(key):
                    if start is not None:
                        read = _from_bytes(b"".join(payloads[start_at:]))
                        groups.put(start, key, bitmap_of(_rows(read)))
                    start, start_at = key, len(payloads)
                    found = groups.get(key)
                    # All its entries come before the key that ends it.
                    if found is not None and key >= begin and found[0] <= end:
                        known.append(found[1])
                        start = None
                        is_there = bool(cursor.set_range(found[0]))
                        continue
                    if found is not None:
                        start = None
                if check is not None and len(payloads) % _CHECK_EVERY == 0:
                    check()
                payloads.append(self._checked(key, cursor.value()))
                is_there = cursor.next()
            entries = _from_bytes(b"".join(payloads))
        # Sorted also where known groups are left out between.
        low = np.searchsorted(entries, np.bytes_(first), "left")
        high = np.searchsorted(entries, np.bytes_(last), "right")
        return BitMap.union(bitmap_of(_rows(entries[low:high])), *known)

    def _checked(self, key: bytes, value: memoryview) -> memoryview:
        """Do what `unseal_derived` does, without a copy: a range may be of thousands of blocks."""
        payload = value[:-SEAL_BYTES]
        seal_of = int.from_bytes(value[-SEAL_BYTES:], "little")
        if xxhash.xxh3_64_intdigest(payload, _place(key)) & 0xFFFFFFFF != seal_of:
            raise DamagedIndexError(f"{self._what} is damaged: its checksum does not fit")
        return payload


def _below(entries: Entries, bound: bytes | None) -> tuple[Entries, Entries]:
    """Split entries at a bound."""
    if bound is None:
        return entries, entries[:0]
    place = int(np.searchsorted(entries, np.bytes_(bound), "left"))
    return entries[:place], entries[place:]
