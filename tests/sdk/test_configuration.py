"""Configuration of collections: every key, its bounds, and what contradicts what."""

from __future__ import annotations

from typing import Any

import pytest

from shoal import DEFAULT, HNSWConfiguration, _definitions, configuration, errors
from shoal.v1 import collection_pb2

BAD_HNSW: list[tuple[dict[str, Any], str]] = [
    ({"spacs": "l2"}, "no key 'spacs'"),
    ({"space": "l3"}, "l2, cosine, ip"),
    ({"space": 2}, "got 2"),
    ({"ef_construction": 0}, "1 to 10000"),
    ({"ef_construction": 10_001}, "1 to 10000"),
    ({"ef_search": 1.5}, "whole number"),
    ({"ef_search": True}, "whole number"),
    ({"ef_search": "100"}, "whole number"),
    ({"max_neighbors": 1}, "2 to 512"),
    ({"max_neighbors": 513}, "2 to 512"),
    ({"batch_size": 1}, "at least 2"),
    ({"sync_threshold": 1}, "at least 2"),
    ({"num_threads": 0}, "1 to 256"),
    ({"resize_factor": 0.9}, "at least 1"),
    ({"resize_factor": float("nan")}, "at least 1"),
    ({"dimension": 0}, "1 to 16384"),
    ({"dimension": 16_385}, "1 to 16384"),
    ({"quantization": "f64"}, "f32, f16, bf16, i8"),
    ({"quantization": "i8", "space": "l2"}, "only for the space cosine"),
    ({"shards": 0}, "1 to 256"),
    ({"shards": 257}, "1 to 256"),
    ({"replicas": 0}, "1 to 256"),
]


@pytest.mark.parametrize(("hnsw", "match"), BAD_HNSW)
def test_a_wrong_key_or_value_is_refused(hnsw: dict[str, Any], match: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=match):
        configuration.split_configuration({"hnsw": hnsw})
    if "spacs" not in hnsw:
        with pytest.raises(errors.InvalidArgumentError, match=match):
            HNSWConfiguration(**hnsw)


@pytest.mark.parametrize(
    ("given", "space"),
    [("l2", "l2"), ("euclidean", "l2"), ("cosine", "cosine"), ("ip", "ip"),
     ("inner_product", "ip"), ("dotproduct", "ip")],
)  # fmt: skip
def test_spaces_have_synonyms(given: str, space: str) -> None:
    hnsw, _ = configuration.split_configuration({"hnsw": {"space": given}})
    assert hnsw == {"space": space}
    assert HNSWConfiguration(space=given).space == space
    assert HNSWConfiguration(distance=given).space == space


def test_hnsw_configuration_alone_is_384_and_cosine() -> None:
    assert HNSWConfiguration().to_dict() == {"dimension": 384, "space": "cosine"}
    assert HNSWConfiguration(dimension=None, space="ip").to_dict() == {"space": "ip"}


def test_space_and_distance_together_are_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="not both"):
        HNSWConfiguration(space="l2", distance="l2")


@pytest.mark.parametrize(
    "given", [{"hnws": {}}, {"hnsw": 3}, [], "l2", {"spann": {}}, {"hnsw": {"M": 3}}]
)
def test_another_form_is_refused(given: Any) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        configuration.split_configuration(given)


def test_a_value_of_none_takes_the_default() -> None:
    assert configuration.split_configuration({"hnsw": {"space": None}}) == ({}, None)
    assert configuration.split_configuration({"hnsw": None}) == ({}, None)


def test_older_metadata_keys_are_honoured_and_must_not_contradict() -> None:
    metadata = {"hnsw:space": "cosine", "hnsw:M": 32, "owner": "me"}
    hnsw = configuration.hnsw_of_metadata(metadata)
    assert hnsw == {"space": "cosine", "max_neighbors": 32}
    assert configuration.merge_hnsw({"space": "cosine", "ef_search": 7}, hnsw) == {
        "space": "cosine",
        "max_neighbors": 32,
        "ef_search": 7,
    }
    with pytest.raises(errors.InvalidArgumentError, match=r"'cosine'.*'l2'"):
        configuration.merge_hnsw({"space": "l2"}, hnsw)
    with pytest.raises(errors.InvalidArgumentError, match="hnsw:spce"):
        configuration.hnsw_of_metadata({"hnsw:spce": "l2"})


def test_the_whole_configuration_comes_back() -> None:
    given = {
        "space": "cosine", "ef_construction": 50, "ef_search": 60, "max_neighbors": 8,
        "batch_size": 10, "sync_threshold": 20, "num_threads": 3, "resize_factor": 1.5,
        "dimension": 4, "quantization": "i8", "shards": 2, "replicas": 1,
    }  # fmt: skip
    message = configuration.hnsw_to_message(given)
    assert configuration.hnsw_from_message(message) == given
    message.dimension = 0
    assert configuration.hnsw_from_message(message)["dimension"] is None


def test_only_what_can_change_is_changed() -> None:
    changes, _ = configuration.check_changes({"hnsw": {"ef_search": 5, "resize_factor": 2}})
    assert changes == {"ef_search": 5, "resize_factor": 2}
    for fixed in ({"space": "l2"}, {"max_neighbors": 4}, {"ef_construction": 4}, {"dimension": 4}):
        with pytest.raises(errors.InvalidArgumentError, match="cannot change"):
            configuration.check_changes({"hnsw": fixed})
    with pytest.raises(errors.InvalidArgumentError, match="as a dict"):
        configuration.check_changes(HNSWConfiguration())


def _define(**arguments: Any) -> _definitions.Definition:
    return _definitions.define(
        "default_tenant",
        "default_database",
        arguments.pop("name", "books"),
        arguments.pop("configuration", None),
        arguments.pop("metadata", None),
        arguments.pop("embedding_function", DEFAULT),
        get_or_create=False,
    )


def test_the_default_function_is_only_implied() -> None:
    function = _define().request.configuration.embedding_function
    assert (function.name, function.implied) == ("default", True)
    assert function.default_space == collection_pb2.SPACE_L2


def test_no_function_is_none_on_the_wire() -> None:
    definition = _define(embedding_function=None)
    assert not definition.request.configuration.HasField("embedding_function")
    assert not definition.embeds


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "ab"}, {"name": "a" * 513}, {"name": "_ab"}, {"name": "a..b"}, {"name": "a b"},
        {"name": "127.0.0.1"}, {"name": 7}, {"name": "abé"},
        {"metadata": {}}, {"metadata": {"x": None}}, {"metadata": {"x": [1]}}, {"metadata": [1]},
        {"metadata": {1: 2}}, {"metadata": {"hnsw:space": "l9"}},
        {"embedding_function": "default"}, {"embedding_function": 3},
        {"embedding_function": dict}, {"embedding_function": lambda a, b: a},
        {"configuration": {"embedding_function": {"nme": "x"}}},
        {"configuration": {"embedding_function": {"name": "unheard-of"}}},
    ],
)  # fmt: skip
def test_a_definition_that_is_wrong_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        _define(**arguments)


def test_names_at_their_bounds_are_taken() -> None:
    for name in ("abc", "a" * 512, "a.b-c_d", "1.2.3", "256.1.1.1"):
        assert _define(name=name).request.name == name
