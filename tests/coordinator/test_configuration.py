"""Defaults, bounds and contradictions of configurations."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.errors import InvalidArgumentError, UnimplementedError
from shoal.v1.collection_pb2 import (
    QUANTIZATION_F32,
    QUANTIZATION_I8,
    SPACE_COSINE,
    SPACE_IP,
    SPACE_L2,
    Collection,
    CollectionConfiguration,
    EmbeddingFunction,
    HnswConfiguration,
)
from shoal_coordinator.configuration import (
    DEFAULT_QUANTIZATION,
    check_agreement,
    check_function_update,
    resolve,
    update_hnsw,
)


def configured(function: EmbeddingFunction | None = None, **hnsw: Any) -> CollectionConfiguration:
    return CollectionConfiguration(hnsw=HnswConfiguration(**hnsw), embedding_function=function)


def test_every_setting_has_its_default() -> None:
    hnsw = resolve(CollectionConfiguration(), cores=3).hnsw

    assert hnsw == HnswConfiguration(
        space=SPACE_L2,
        ef_construction=100,
        ef_search=100,
        max_neighbors=16,
        batch_size=100,
        sync_threshold=1000,
        num_threads=3,
        resize_factor=1.2,
        dimension=0,
        quantization=DEFAULT_QUANTIZATION,
        shards=1,
        replicas=1,
    )


def test_what_is_given_is_kept() -> None:
    hnsw = resolve(
        configured(space=SPACE_IP, ef_search=7, dimension=3, quantization=QUANTIZATION_F32), cores=1
    ).hnsw

    assert (hnsw.space, hnsw.ef_search, hnsw.dimension) == (SPACE_IP, 7, 3)
    assert hnsw.quantization == QUANTIZATION_F32


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("ef_construction", 0, "ef_construction is 0, must be 1 to 10,000"),
        ("ef_search", 10_001, "ef_search is 10001, must be 1 to 10,000"),
        ("max_neighbors", 1, "max_neighbors is 1, must be 2 to 512"),
        ("max_neighbors", 513, "must be 2 to 512"),
        ("batch_size", 1, "batch_size is 1, must be 2"),
        ("sync_threshold", 1, "sync_threshold is 1, must be 2"),
        ("num_threads", 257, "must be 1 to 256"),
        ("resize_factor", 0.5, "resize_factor is 0.5, least 1"),
        ("resize_factor", float("nan"), "resize_factor is nan, least 1"),
        ("resize_factor", float("inf"), "resize_factor is inf, least 1"),
        ("dimension", 0, "dimension is 0, must be 1 to 16,384"),
        ("dimension", 16_385, "must be 1 to 16,384"),
        ("shards", 0, "shards is 0, must be 1 to 256"),
        ("shards", 257, "must be 1 to 256"),
        ("replicas", 0, "replicas is 0"),
        ("space", 9, "space has the unknown value 9"),
        ("quantization", 9, "quantization has the unknown value 9"),
    ],
)
def test_a_value_out_of_bounds_is_refused(setting: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as raised:
        resolve(configured(**{setting: value}), cores=1)

    assert raised.value.violations[0].field == f"configuration.hnsw.{setting}"


def test_more_than_one_replica_is_not_offered() -> None:
    with pytest.raises(UnimplementedError, match="replicas is 2"):
        resolve(configured(replicas=2), cores=1)


def test_i8_goes_only_with_cosine() -> None:
    resolve(configured(quantization=QUANTIZATION_I8, space=SPACE_COSINE), cores=1)
    with pytest.raises(InvalidArgumentError, match="only possible with space cosine, not l2"):
        resolve(configured(quantization=QUANTIZATION_I8), cores=1)


def test_the_embedding_function_gives_space_and_dimension() -> None:
    function = EmbeddingFunction(name="f", default_space=SPACE_COSINE, dimension=384)
    resolved = resolve(configured(function), cores=1)

    assert (resolved.hnsw.space, resolved.hnsw.dimension) == (SPACE_COSINE, 384)
    assert resolved.embedding_function == function


def test_an_implied_embedding_function_is_stored_but_fixes_no_dimension() -> None:
    function = EmbeddingFunction(name="f", dimension=384, implied=True)
    resolved = resolve(configured(function), cores=1)

    assert resolved.hnsw.dimension == 0
    assert resolved.embedding_function == EmbeddingFunction(name="f", dimension=384)
    assert resolve(configured(function, dimension=3), cores=1).hnsw.dimension == 3


def test_a_dimension_that_contradicts_the_embedding_function_is_refused() -> None:
    function = EmbeddingFunction(name="f", dimension=384)
    with pytest.raises(InvalidArgumentError, match="dimension 3 contradicts embedding function"):
        resolve(configured(function, dimension=3), cores=1)


def _existing(**options: Any) -> Collection:
    resolved = resolve(configured(**options), cores=1)
    return Collection(name="books", dimension=resolved.hnsw.dimension, configuration=resolved)


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (configured(space=SPACE_IP), "'books' has space cosine, got ip"),
        (configured(dimension=4), "'books' has dimension 3, got 4"),
        (configured(EmbeddingFunction(name="f", dimension=4)), "'books' has dimension 3, got 4"),
        (configured(EmbeddingFunction(name="g")), "has embedding function 'f', got 'g'"),
    ],
    ids=["space", "dimension", "dimension of the function", "function"],
)
def test_what_contradicts_an_existing_collection_is_refused(
    requested: CollectionConfiguration, message: str
) -> None:
    existing = _existing(space=SPACE_COSINE, function=EmbeddingFunction(name="f", dimension=3))
    with pytest.raises(InvalidArgumentError, match=message):
        check_agreement(requested, existing)


def test_another_configuration_of_the_same_function_contradicts() -> None:
    stored, given = EmbeddingFunction(name="f"), EmbeddingFunction(name="f")
    stored.config.update({"model": "small"})
    given.config.update({"model": "large"})
    with pytest.raises(InvalidArgumentError, match=r"'f' with .*small.*, got 'f' with .*large"):
        check_agreement(configured(given), _existing(function=stored))


def test_a_function_contradicts_that_there_is_none() -> None:
    with pytest.raises(InvalidArgumentError, match="has embedding function none, got 'f'"):
        check_agreement(configured(EmbeddingFunction(name="f")), _existing())
    check_agreement(configured(EmbeddingFunction(name="f", implied=True)), _existing())


@pytest.mark.parametrize(
    "requested",
    [
        CollectionConfiguration(),
        configured(space=SPACE_COSINE, dimension=3),
        configured(ef_search=7, max_neighbors=99, shards=5),
        configured(EmbeddingFunction(name="g", dimension=9, default_space=SPACE_L2, implied=True)),
    ],
    ids=["nothing", "the same", "other settings", "an implied function"],
)
def test_what_does_not_contradict_is_content(requested: CollectionConfiguration) -> None:
    existing = _existing(space=SPACE_COSINE, function=EmbeddingFunction(name="f", dimension=3))
    check_agreement(requested, existing)


def test_only_five_settings_can_change() -> None:
    before = resolve(CollectionConfiguration(), cores=1).hnsw
    after = update_hnsw(
        before,
        HnswConfiguration(
            ef_search=1, num_threads=2, batch_size=3, sync_threshold=4, resize_factor=5
        ),
    )

    assert (after.ef_search, after.num_threads, after.resize_factor) == (1, 2, 5)
    assert after.max_neighbors == before.max_neighbors


@pytest.mark.parametrize(
    "fixed",
    [
        {"space": SPACE_L2},
        {"dimension": 3},
        {"max_neighbors": 16},
        {"ef_construction": 100},
        {"quantization": QUANTIZATION_F32},
        {"shards": 1},
        {"replicas": 1},
    ],
    ids=lambda fixed: next(iter(fixed)),
)
def test_the_others_are_fixed(fixed: dict[str, Any]) -> None:
    before = resolve(CollectionConfiguration(), cores=1).hnsw
    with pytest.raises(InvalidArgumentError, match=f"{next(iter(fixed))} cannot change"):
        update_hnsw(before, HnswConfiguration(**fixed))


def test_an_embedding_function_keeps_its_name_and_dimension() -> None:
    existing = _existing(function=EmbeddingFunction(name="f", dimension=3))
    check_function_update(existing, EmbeddingFunction(name="f"))
    with pytest.raises(InvalidArgumentError, match="'f', got 'g'"):
        check_function_update(existing, EmbeddingFunction(name="g"))
    with pytest.raises(InvalidArgumentError, match="dimension 3, got 4"):
        check_function_update(existing, EmbeddingFunction(name="f", dimension=4))
