"""The configuration of an embedding function, as it is stored with a collection.

It travels as a ``google.protobuf.Struct``, whose only numbers are doubles. So that an int comes
back as an int, every whole number does: 2.0 comes back as 2, which is equal to it, and an int
beyond 2**53, which a double would change, is refused. A configuration is stored in the open: what
looks like a secret is refused, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import struct_pb2

from shoal.errors import InvalidArgumentError

__all__ = ["check_config", "check_unchanged", "config_from_struct", "config_to_struct"]

_MAX_INT: Final = 2**53
"""Up to here every whole number is a double."""

_MAX_DEPTH: Final = 24
"""Protobuf's parsers give up at 100 nested messages, and a level here is up to three of them."""

_SECRET: Final = re.compile(
    r"(.*[_-])?(api[_-]?key|token|secret|password|passwd|credentials?|authorization|bearer)",
    re.IGNORECASE,
)


def check_config(name: str, config: object) -> None:
    """Check that a configuration can be stored, and that it holds no secret.

    Args:
        name: Of the embedding function, for the message.
        config: What its `get_config` returned.

    Raises:
        InvalidArgumentError: Names the place in the configuration, and what may stand there.
    """
    if not isinstance(config, Mapping):
        raise InvalidArgumentError(
            f"get_config() of embedding function {name!r} must give a dict, "
            f"got {type(config).__name__}"
        )
    _check_value(name, "config", config, 0)


def config_to_struct(name: str, config: Mapping[str, Any]) -> struct_pb2.Struct:
    """Check a configuration, and encode it.

    Raises:
        InvalidArgumentError: As `check_config` says.
    """
    check_config(name, config)
    return struct_pb2.Struct(fields={key: _to_value(value) for key, value in config.items()})


def config_from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Decode a configuration; whole numbers are ints."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def check_unchanged(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str]
) -> None:
    """Check that two configurations are equal in these keys; an absent one is as None.

    Raises:
        InvalidArgumentError: Names the first that differs.
    """
    for key in keys:
        before, after = old.get(key), new.get(key)
        if before != after:
            raise InvalidArgumentError(
                f"embedding function {name!r} is stored with {key} {before!r}; "
                f"it cannot become {after!r}, because the vectors would not fit those stored"
            )


def _check_value(name: str, path: str, value: object, depth: int) -> None:
    problem = None
    match value:
        case None | bool() | str():
            pass
        case int():
            if abs(value) > _MAX_INT:
                problem = f"is {value}; whole numbers must be within ±2**53"
        case float():
            if not math.isfinite(value):
                problem = f"is {value}; numbers must be finite"
        case _ if depth >= _MAX_DEPTH:
            problem = f"is nested deeper than {_MAX_DEPTH} levels"
        case Mapping():
            for key, item in value.items():
                _check_item(name, path, key, item, depth)
        case list() | tuple():
            for position, item in enumerate(value):
                _check_value(name, f"{path}[{position}]", item, depth + 1)
        case _:
            problem = (
                f"is a {type(value).__name__}; it must be None, a bool, a number, a string, "
                f"or a list or dict of these"
            )
    if problem:
        raise InvalidArgumentError(f"{path} of embedding function {name!r} {problem}")


def _check_item(name: str, path: str, key: object, item: object, depth: int) -> None:
    if not isinstance(key, str):
        raise InvalidArgumentError(
            f"{path} of embedding function {name!r} has the key {key!r}; keys must be strings"
        )
    if isinstance(item, str) and item and _SECRET.fullmatch(key):
        # The value itself stays out of the message.
        raise InvalidArgumentError(
            f"{path}[{key!r}] of embedding function {name!r} looks like a secret, and "
            f"configurations are stored in the open: put it into an environment variable, and "
            f"that variable's name under 'api_key_env_var'"
        )
    _check_value(name, f"{path}[{key!r}]", item, depth + 1)


def _to_value(value: Any) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case Mapping():
            fields = {key: _to_value(item) for key, item in value.items()}
            return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))
        case _:
            items = [_to_value(item) for item in value]
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))


def _from_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _MAX_INT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return config_from_struct(value.struct_value)
        case "list_value":
            return [_from_value(item) for item in value.list_value.values]
        case _:
            return None
