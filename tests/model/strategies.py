"""Random records, batches and filters, small enough that they often meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

DIMENSION = 3
IDS = st.sampled_from([f"id-{n}" for n in range(12)] + ["ä", "🐟", "x" * 600, "x" * 599 + "y"])

# Small whole numbers, so that distances are exact in floating point and ties are frequent.
VECTORS = st.tuples(*[st.integers(-2, 2).map(float)] * DIMENSION)

KEYS = st.sampled_from(["a", "b", "schlüssel"])
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 2),
    st.sampled_from([-1.0, 0.0, 0.5, 1.0, float(2**53), 1e300]),
    st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)]),
    st.booleans(),
    st.sampled_from(["", "a", "b", "ab", "é", "\U0001f41f", "\uffff"]),
)
LISTS: st.SearchStrategy[Any] = st.one_of(
    st.lists(st.integers(-1, 1), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=1, max_size=2),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2),
)
METADATA = st.dictionaries(KEYS, SCALARS | LISTS, min_size=1, max_size=3)
CHANGES = st.dictionaries(KEYS, st.none() | SCALARS | LISTS, min_size=1, max_size=3)
DOCUMENTS = st.text(alphabet="ab\n é", max_size=12)
URIS = st.sampled_from(["file:///a", "https://example.org/b"])

_ORDERED = SCALARS.filter(lambda value: not isinstance(value, bool))
_CONDITIONS = st.one_of(
    st.builds(lambda k, v: {k: v}, KEYS, SCALARS),
    st.builds(lambda k, o, v: {k: {o: v}}, KEYS, st.sampled_from(["$eq", "$ne"]), SCALARS),
    st.builds(
        lambda k, o, v: {k: {o: v}}, KEYS, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), _ORDERED
    ),
    st.builds(lambda k, o, v: {k: {o: v}}, KEYS, st.sampled_from(["$in", "$nin"]), LISTS),
    st.builds(
        lambda k, o, v: {k: {o: v}}, KEYS, st.sampled_from(["$contains", "$not_contains"]), SCALARS
    ),
    st.builds(lambda k, v: {k: {"$exists": v}}, KEYS, st.booleans()),
)


def _combined(clauses: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(
            lambda o, c: {o: c},
            st.sampled_from(["$and", "$or"]),
            st.lists(clauses, min_size=2, max_size=3),
        ),
        st.builds(lambda c: {"$not": c}, clauses),
    )


FILTERS: st.SearchStrategy[Any] = st.recursive(_CONDITIONS, _combined, max_leaves=5)
DOCUMENT_FILTERS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.builds(
            lambda o, v: {o: v},
            st.sampled_from(["$contains", "$not_contains"]),
            st.text(alphabet="ab\n é", min_size=1, max_size=3),
        ),
        st.builds(
            lambda o, v: {o: v},
            st.sampled_from(["$regex", "$not_regex"]),
            st.sampled_from(["a+b", "^a", "b$", "a.b", "(ab|é)", "[ab]{2,}", " "]),
        ),
    ),
    _combined,
    max_leaves=3,
)


@st.composite
def batches(draw: st.DrawFn, *, with_vectors: bool = True, with_nulls: bool = False) -> Any:
    """Columns by ID; a column is there for all records or for none, its entries may be None."""
    ids = draw(st.lists(IDS, min_size=1, max_size=6, unique=True))
    columns: dict[str, st.SearchStrategy[Any]] = {}
    if with_vectors or draw(st.booleans()):
        columns["vector"] = VECTORS
    if draw(st.booleans()):
        columns["metadata"] = st.none() | (CHANGES if with_nulls else METADATA)
    # A collection that embeds nothing takes no document without a vector.
    if "vector" in columns and draw(st.booleans()):
        columns["document"] = st.none() | DOCUMENTS
    if draw(st.booleans()):
        columns["uri"] = st.none() | URIS
    if not columns:
        columns["metadata"] = METADATA
    return {record_id: {c: draw(s) for c, s in columns.items()} for record_id in ids}
