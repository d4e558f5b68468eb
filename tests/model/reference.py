"""A collection as a dict: what Shoal must be indistinguishable from.

It is written from the promises alone, and shares no code with what it is compared to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class ReferenceRecord:
    """A record, with its place in the order of insertion."""

    place: int
    vector: tuple[float, ...]
    document: str | None = None
    metadata: Mapping[str, Any] | None = None
    uri: str | None = None


@dataclass
class ReferenceCollection:
    """Records by ID, and the rules of writing them."""

    records: dict[str, ReferenceRecord] = field(default_factory=dict)
    next_place: int = 0

    def _insert(self, record_id: str, columns: Mapping[str, Any]) -> None:
        metadata = {k: v for k, v in (columns.get("metadata") or {}).items() if v is not None}
        self.records[record_id] = ReferenceRecord(
            self.next_place,
            tuple(columns["vector"]),
            columns.get("document"),
            metadata or None,
            columns.get("uri"),
        )
        self.next_place += 1

    def _merge(self, record_id: str, columns: Mapping[str, Any]) -> None:
        old = self.records[record_id]
        metadata = dict(old.metadata or {})
        for key, value in (columns.get("metadata") or {}).items():
            if value is None:
                metadata.pop(key, None)
            else:
                metadata[key] = value
        self.records[record_id] = replace(
            old,
            vector=tuple(columns["vector"]) if columns.get("vector") is not None else old.vector,
            document=columns["document"] if columns.get("document") is not None else old.document,
            metadata=metadata or None,
            uri=columns["uri"] if columns.get("uri") is not None else old.uri,
        )

    def add(self, batch: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        new = [i for i in batch if i not in self.records]
        for record_id in new:
            self._insert(record_id, batch[record_id])
        return {"added": len(new), "updated": 0, "ignored": len(batch) - len(new)}

    def upsert(self, batch: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        new = [i for i in batch if i not in self.records]
        for record_id, columns in batch.items():
            if record_id in self.records:
                self._merge(record_id, columns)
            else:
                self._insert(record_id, columns)
        return {"added": len(new), "updated": len(batch) - len(new), "ignored": 0}

    def update(self, batch: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        known = [i for i in batch if i in self.records]
        for record_id in known:
            self._merge(record_id, batch[record_id])
        return {"added": 0, "updated": len(known), "ignored": len(batch) - len(known)}

    def delete(self, ids: Iterable[str]) -> int:
        return sum(self.records.pop(i, None) is not None for i in set(ids))

    def in_order(
        self,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        ids: Iterable[str] | None = None,
    ) -> list[str]:
        """IDs of the records that match, in order of insertion."""
        wanted = None if ids is None else set(ids)
        found = [
            (record.place, record_id)
            for record_id, record in self.records.items()
            if (wanted is None or record_id in wanted)
            and (where is None or matches(where, record.metadata or {}))
            and (where_document is None or document_matches(where_document, record.document))
        ]
        return [record_id for _, record_id in sorted(found)]

    def nearest(
        self, query: tuple[float, ...], space: str, candidates: Iterable[str]
    ) -> list[tuple[float, str]]:
        """(distance, ID), nearest first, equal distances in order of insertion."""
        scored = [
            (distance(space, query, self.records[i].vector), self.records[i].place, i)
            for i in candidates
        ]
        return [(d, i) for d, _, i in sorted(scored)]


def distance(space: str, left: tuple[float, ...], right: tuple[float, ...]) -> float:
    dot = float(sum(a * b for a, b in zip(left, right, strict=True)))
    if space == "l2":
        return float(sum((a - b) ** 2 for a, b in zip(left, right, strict=True)))
    if space == "ip":
        return 1.0 - dot
    lengths = sum(a * a for a in left) * sum(b * b for b in right)
    return 1.0 if lengths == 0 else 1.0 - dot / float(lengths) ** 0.5


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "string"


def _equal(stored: Any, operand: Any) -> bool:
    if isinstance(stored, list):
        return False
    return _kind(stored) == _kind(operand) and bool(stored == operand)


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(stored: Any, operand: Any) -> bool:
        if isinstance(stored, list) or _kind(stored) == "bool" or _kind(stored) != _kind(operand):
            return False
        return test(stored, operand)

    return compared


def _has_element(stored: Any, operand: Any) -> bool:
    return isinstance(stored, list) and any(
        type(element) is type(operand) and element == operand for element in stored
    )


_POSITIVE: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equal,
    "$gt": _compare(lambda a, b: a > b),
    "$gte": _compare(lambda a, b: a >= b),
    "$lt": _compare(lambda a, b: a < b),
    "$lte": _compare(lambda a, b: a <= b),
    "$in": lambda stored, operand: any(_equal(stored, element) for element in operand),
    "$contains": _has_element,
}
_COMPLEMENTS = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}


def matches(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    [(key, operand)] = where.items()
    if key == "$and":
        return all(matches(clause, metadata) for clause in operand)
    if key == "$or":
        return any(matches(clause, metadata) for clause in operand)
    if key == "$not":
        return not matches(operand, metadata)
    if not isinstance(operand, dict):
        operand = {"$eq": operand}
    [(operator, value)] = operand.items()
    if operator == "$exists":
        return (key in metadata) is value
    if operator in _COMPLEMENTS:
        return not (key in metadata and _POSITIVE[_COMPLEMENTS[operator]](metadata[key], value))
    return key in metadata and _POSITIVE[operator](metadata[key], value)


def document_matches(where_document: Mapping[str, Any], document: str | None) -> bool:
    [(operator, operand)] = where_document.items()
    if operator == "$and":
        return all(document_matches(clause, document) for clause in operand)
    if operator == "$or":
        return any(document_matches(clause, document) for clause in operand)
    if operator == "$not":
        return not document_matches(operand, document)
    if operator.startswith("$not_"):
        return not document_matches({"$" + operator.removeprefix("$not_"): operand}, document)
    if document is None:
        return False
    if operator == "$contains":
        return bool(operand in document)
    return re.search(operand, document) is not None
