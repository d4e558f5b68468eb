"""Of each group of ranked records only some: which stay, decided over the whole collection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shoal.v1 import ranking_pb2
from shoal.wire.limits import Limits
from shoal.wire.validation import check_metadata_key, invalid

__all__ = ["check_group_by", "kept"]

MAX_KEYS: Final = 16
"""To group by, and to order by."""

_MISSING: Final = ("missing",)

_NUMBER, _TEXT, _TRUTH, _NEITHER = range(4)
"""In which order values of different kinds stand."""


def check_group_by(group_by: ranking_pb2.GroupBy, limits: Limits, field: str) -> None:
    """Check how records are to be grouped.

    Raises:
        InvalidArgumentError: It breaks a rule; the field at fault is named.
    """
    for name, count in (("keys", len(group_by.keys)), ("order", len(group_by.order))):
        if not 1 <= count <= MAX_KEYS:
            raise invalid(
                f"{field}.{name}", f"{field}.{name} holds {count}; 1 to {MAX_KEYS} are allowed"
            )
    for key in group_by.keys:
        check_metadata_key(key, limits, f"{field}.keys")
    if len(set(group_by.keys)) < len(group_by.keys):
        raise invalid(f"{field}.keys", f"{field}.keys holds a key twice")
    for order in group_by.order:
        if order.metadata_key:
            check_metadata_key(order.metadata_key, limits, f"{field}.order.metadata_key")
    if not 1 <= group_by.limit <= limits.max_n_results:
        raise invalid(
            f"{field}.limit",
            f"{field}.limit is {group_by.limit}; it must be 1 to {limits.max_n_results}",
        )


def kept(
    group_by: ranking_pb2.GroupBy,
    metadatas: Sequence[Mapping[str, Any] | None],
    scores: Sequence[float],
) -> list[int]:
    """Choose the records that stay.

    Args:
        group_by: Checked.
        metadatas: Of the ranked records, best first.
        scores: Of each.

    Returns:
        Places of those that stay, ascending.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, metadata in enumerate(metadatas):
        name = tuple(_named(metadata, key) for key in group_by.keys)
        groups.setdefault(name, []).append(place)
    staying: list[int] = []
    for members in groups.values():
        if len(members) > group_by.limit:
            # By the last of the orders first: each later sort keeps what it finds equal in place.
            for order in reversed(group_by.order):
                members = _sorted(members, order, metadatas, scores)
        staying += members[: group_by.limit]
    return sorted(staying)


def _named(metadata: Mapping[str, Any] | None, key: str) -> Any:
    value = None if metadata is None else metadata.get(key)
    if value is None:
        return _MISSING
    if isinstance(value, list):
        return ("list", tuple((_kind(item), item) for item in value))
    return (_kind(value), value) if isinstance(value, bool | int | float | str) else (repr(value),)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return _TRUTH
    if isinstance(value, int | float):
        return _NUMBER
    return _TEXT if isinstance(value, str) else _NEITHER


def _sorted(
    members: Sequence[int],
    order: ranking_pb2.GroupOrder,
    metadatas: Sequence[Mapping[str, Any] | None],
    scores: Sequence[float],
) -> list[int]:
    if order.metadata_key:
        values = {place: (metadatas[place] or {}).get(order.metadata_key) for place in members}
    else:
        values = {place: scores[place] for place in members}
    last = [place for place in members if not _is_ordered(values[place])]
    rest = [place for place in members if _is_ordered(values[place])]
    rest.sort(key=lambda place: (_kind(values[place]), values[place]), reverse=order.descending)
    return [*rest, *last]


def _is_ordered(value: Any) -> bool:
    # Only a score may be no number.
    return _kind(value) != _NEITHER and not (isinstance(value, float) and math.isnan(value))
