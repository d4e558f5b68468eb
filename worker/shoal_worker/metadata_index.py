"""The metadata index: (field, typed value) to rows, for every value of every field.

| Database | Key | Value |
|---|---|---|
| `metadata_fields` | a field's name | its number, given in order of first use |
| `metadata_terms` | field, kind, value, chunk of rows | rows, see `postings` |
| `metadata_numbers` | field, first entry of a block | numbers and rows, see `runs` |

Scalar numbers lie in runs, which serve equality and ranges of integers and floats alike. All else
is a term: scalar strings (ordered by code point: UTF-8 sorts so), bools, the elements of lists by
their exact type, that a record has the field, and under the field 0 that the record exists, from
which complements are taken.

A string of more than `_LONG_BYTES` is indexed by its beginning and a digest. What such a term says
is not taken for certain: the rows concerned are told as doubtful, and examined directly.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shoal_worker.apply import METADATA_CHANGES
from shoal_worker.environment import Database, Transaction
from shoal_worker.filters import Field, Scalar, fields_of
from shoal_worker.indexes import Batch
from shoal_worker.journal import RowChange
from shoal_worker.postings import Postings, chunk_of
from shoal_worker.rows import BitMap
from shoal_worker.runs import NumberRuns, entries_of
from shoal_worker.sealed import seal, unseal_derived

__all__ = ["MetadataIndex"]

_FIELD: Final = struct.Struct(">I")
_INTEGER: Final = struct.Struct(">q")
_DOUBLE: Final = struct.Struct(">d")

# Kinds of terms; part of the format.
EXISTS: Final = b"\x01"
BOOL: Final = b"\x02"
STRING: Final = b"\x03"
STRING_ELEMENT: Final = b"\x04"
INTEGER_ELEMENT: Final = b"\x05"
DOUBLE_ELEMENT: Final = b"\x06"
BOOL_ELEMENT: Final = b"\x07"

_ALIVE: Final = _FIELD.pack(0) + b"\x00"
"""The term of every record."""

_LONG_BYTES: Final = 192
"""A string's bytes in its key. LMDB allows 500; these are enough to tell most strings apart, and
pages hold twice as many keys."""

_DIGEST_BYTES: Final = 16
_END: Final = b"\x00"
_LONG: Final = b"\xff"

_ABOVE_END: Final = bytes(min(byte + 1, 255) for byte in range(256))
"""Makes every byte of UTF-8 (at most 0xF4) greater than the end mark, in the same order."""


def string_term(value: str) -> bytes:
    """Encode a string so that terms sort as the strings do, and none begins another."""
    encoded = value.encode()
    if len(encoded) <= _LONG_BYTES:
        return encoded.translate(_ABOVE_END) + _END
    digest = hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()
    return encoded[:_LONG_BYTES].translate(_ABOVE_END) + _LONG + digest


def is_long(value: str) -> bool:
    """Whether a string's term is not certain to be this string's alone."""
    return len(value.encode()) > _LONG_BYTES


def long_terms_like(value: str) -> tuple[bytes, bytes]:
    """Give the bounds of the terms of long strings that begin as a long string does."""
    beginning = value.encode()[:_LONG_BYTES].translate(_ABOVE_END) + _LONG
    return beginning, beginning + b"\xff" * (_DIGEST_BYTES + 1)


def element_term(value: Scalar) -> bytes:
    """Encode an element of a list, with its type."""
    if isinstance(value, str):
        return STRING_ELEMENT + string_term(value)
    if isinstance(value, bool):
        return BOOL_ELEMENT + (b"\x01" if value else b"\x00")
    if isinstance(value, int):
        return INTEGER_ELEMENT + _INTEGER.pack(value)
    # 0.0 and -0.0 are equal.
    return DOUBLE_ELEMENT + _DOUBLE.pack(value + 0.0)


def scalar_term(value: str | bool) -> bytes:
    """Encode a scalar that is not a number."""
    if isinstance(value, str):
        return STRING + string_term(value)
    return BOOL + (b"\x01" if value else b"\x00")


@dataclass(slots=True)
class _Gathered:
    """What a step adds or removes.

    Attributes:
        terms: Rows by key.
        numbers: Values and rows by field.
    """

    terms: defaultdict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))
    numbers: defaultdict[bytes, tuple[list[float], list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )


class _Fields:
    """Numbers of fields, with those that a step gives."""

    def __init__(self, txn: Transaction, database: Database) -> None:
        self._txn = txn
        self._database = database
        self._next: int = txn.stat(database)["entries"] + 1
        self._known: dict[str, bytes] = {}
        self.new: list[tuple[bytes, bytes]] = []

    def number_of(self, name: str) -> bytes:
        number = self._known.get(name)
        if number is None:
            number = _field_number(self._txn, self._database, name)
            if number is None:
                number = _FIELD.pack(self._next)
                self._next += 1
                self.new.append((name.encode(), seal(number, 0)))
            self._known[name] = number
        return number


def _field_number(txn: Transaction, database: Database, name: str) -> bytes | None:
    value = txn.get(name.encode(), db=database)
    return None if value is None else unseal_derived(value, 0, "the number of a field")


class MetadataIndex:
    """The metadata index of one shard; see `indexes.DerivedIndex`."""

    name: Final = "metadata"
    format: Final = 1  # 1: the first
    databases: Final = ("metadata_fields", "metadata_terms", "metadata_numbers")
    concerns: Final = METADATA_CHANGES
    reads: Final = METADATA_CHANGES
    concerns_bare_rows: Final = True
    step_rows: Final = 4096
    step_bytes: Final = 16 * 1024 * 1024

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._fields = databases["metadata_fields"]
        self._terms = Postings(databases["metadata_terms"], "a term of metadata")
        self._numbers = NumberRuns(databases["metadata_numbers"], "a run of numbers")

    # Keeping it up.

    def prepare(self, txn: Transaction, changes: Sequence[RowChange]) -> Batch:
        """See `indexes.DerivedIndex`."""
        fields = _Fields(txn, self._fields)
        added, removed = _Gathered(), _Gathered()
        encoder = _Encoder(fields)
        for change in changes:
            encoder.gather(change, added, removed)
        batch = Batch()
        puts, deletes = self._terms.changed(txn, added.terms, removed.terms)
        batch.puts.append((self._terms.database, puts))
        batch.deletes.append((self._terms.database, deletes))
        for number in sorted(added.numbers.keys() | removed.numbers.keys()):
            puts, deletes = self._numbers.changed(
                txn,
                number,
                entries_of(*added.numbers.get(number, ((), ()))),
                entries_of(*removed.numbers.get(number, ((), ()))),
            )
            batch.puts.append((self._numbers.database, puts))
            batch.deletes.append((self._numbers.database, deletes))
        batch.puts.append((self._fields, sorted(fields.new)))
        return batch

    # Reading.

    def alive(self, txn: Transaction) -> BitMap:
        """Give every row."""
        return self._terms.rows(txn, _ALIVE)

    def field_number(self, txn: Transaction, name: str) -> bytes | None:
        """Give what stands for a field in keys; None if no record ever had it."""
        return _field_number(txn, self._fields, name)

    def rows_of_term(self, txn: Transaction, term: bytes) -> BitMap:
        """Give the rows of a field's term."""
        return self._terms.rows(txn, term)

    def rows_of_terms(
        self,
        txn: Transaction,
        first: bytes,
        end: bytes,
        check: Callable[[], None] | None = None,
    ) -> BitMap:
        """Give the rows of a field's terms from one on and before another."""
        return self._terms.rows_between(txn, first, end, check)

    def rows_of_numbers(
        self,
        txn: Transaction,
        number: bytes,
        first: bytes,
        last: bytes,
        version: object = None,
        check: Callable[[], None] | None = None,
    ) -> BitMap:
        """Give the rows whose number lies between two entries, both included.

        Args:
            txn: The reader's transaction.
            number: The field's.
            first: An entry (`runs`).
            last: An entry.
            version: Names what the index holds in this transaction; None: nothing is remembered.
            check: Called now and then; what it raises ends the reading.
        """
        return self._numbers.rows_between(txn, number, first, last, version, check)


class _Encoder:
    """Turns records into terms and numbers."""

    def __init__(self, fields: _Fields) -> None:
        self._fields = fields
        # Few values make most of what is written. By type: True is 1 to a dict.
        self._terms: dict[tuple[type, Scalar], bytes] = {}

    def gather(self, change: RowChange, added: _Gathered, removed: _Gathered) -> None:
        """Add what a change adds and removes."""
        row = change.row
        chunk = chunk_of[row >> 16]
        if not change.was_there:
            self._add_all(row, chunk, fields_of(change.new_metadata), added)
            added.terms[_ALIVE + chunk].append(row)
            return
        old = fields_of(change.old_metadata)
        if not change.is_there:
            self._add_all(row, chunk, old, removed)
            removed.terms[_ALIVE + chunk].append(row)
            return
        new = fields_of(change.new_metadata)
        gone = {name: value for name, value in old.items() if not _same(value, new.get(name))}
        come = {name: value for name, value in new.items() if not _same(value, old.get(name))}
        before, after = _Gathered(), _Gathered()
        self._add_all(row, chunk, gone, before)
        self._add_all(row, chunk, come, after)
        # A list that lost one element keeps the others.
        for key in before.terms.keys() - after.terms.keys():
            removed.terms[key].append(row)
        for key in after.terms.keys() - before.terms.keys():
            added.terms[key].append(row)
        for target, source in ((removed, before), (added, after)):
            for number, (values, rows) in source.numbers.items():
                target.numbers[number][0].extend(values)
                target.numbers[number][1].extend(rows)

    def _add_all(self, row: int, chunk: bytes, fields: Mapping[str, Field], to: _Gathered) -> None:
        terms, numbers = to.terms, to.numbers
        for name, value in fields.items():
            number = self._fields.number_of(name)
            terms[number + EXISTS + chunk].append(row)
            if isinstance(value, list):
                for term in {element_term(element) for element in value}:
                    terms[number + term + chunk].append(row)
            elif isinstance(value, str | bool):
                terms[number + self._term(value) + chunk].append(row)
            else:
                run = numbers[number]
                run[0].append(value)
                run[1].append(row)

    def _term(self, value: str | bool) -> bytes:
        key = (type(value), value)
        term = self._terms.get(key)
        if term is None:
            term = self._terms[key] = scalar_term(value)
        return term


def _same(left: object, right: object) -> bool:
    """Whether two values of a field are indexed alike."""
    return type(left) is type(right) and left == right and not isinstance(left, list)
