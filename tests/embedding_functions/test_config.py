"""Configurations as they are stored."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from shoal.embedding_functions.config import (
    check_config,
    check_unchanged,
    config_from_struct,
    config_to_struct,
)
from shoal.errors import InvalidArgumentError

keys = st.text(max_size=4)  # Too short to look like a secret.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


def shape(value: Any) -> Any:
    """Tell apart what `==` does not: bools from numbers."""
    match value:
        case bool():
            return bool
        case dict():
            return {key: shape(item) for key, item in value.items()}
        case list():
            return [shape(item) for item in value]
        case _:
            return None


@given(st.dictionaries(keys, values, max_size=5))
def test_a_configuration_comes_back_as_it_was(config: dict[str, Any]) -> None:
    struct = config_to_struct("f", config)

    back = config_from_struct(struct_pb2.Struct.FromString(struct.SerializeToString()))

    assert back == config
    assert shape(back) == shape(config)


def test_an_int_comes_back_as_an_int() -> None:
    back = config_from_struct(config_to_struct("f", {"dimensions": 256, "nested": [{"n": 2**53}]}))

    assert type(back["dimensions"]) is int
    assert back["nested"] == [{"n": 2**53}]
    assert type(back["nested"][0]["n"]) is int


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["a"], "must give a dict, got list"),
        ({"a": {1, 2}}, r"config\['a'\] of embedding function 'f' is a set"),
        ({"a": [1, b"x"]}, r"config\['a'\]\[1\] of embedding function 'f' is a bytes"),
        ({"a": float("nan")}, r"config\['a'\] .* is nan"),
        ({"a": 2**53 + 1}, r"within ±2\*\*53"),
        ({1: "a"}, "the key 1; keys must be strings"),
        ({"a": nested(12)}, "deeper than 24"),
    ],
)
def test_what_cannot_be_stored_is_named(config: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_config("f", config)


@pytest.mark.parametrize(
    "key",
    [
        *("api_key", "API_KEY", "apikey", "openai_api_key", "x-api-key"),
        *("token", "auth_token", "password", "client_secret", "Authorization"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(key: str) -> None:
    for config in ({key: "hunter2"}, {"headers": [{key: "hunter2"}]}):
        with pytest.raises(InvalidArgumentError, match="looks like a secret") as caught:
            check_config("f", config)
        assert "hunter2" not in str(caught.value)


def test_what_only_sounds_like_a_secret_is_stored() -> None:
    check_config(
        "f",
        {"api_key_env_var": "OPENAI_API_KEY", "max_tokens": 256, "token": None, "tokenizer": "t"},
    )


def test_a_change_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="model_name 'a'; it cannot become 'b'"):
        check_unchanged("f", {"model_name": "a"}, {"model_name": "b"}, ["model_name"])

    check_unchanged("f", {"x": 1, "y": None}, {"x": 1.0, "z": 2}, ["x", "y"])
