"""The vectors in protos/testdata are what Shoal's own code makes and reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message

from shoal import errors
from shoal.v1 import collection_service_pb2, record_service_pb2
from shoal.wire import filters, metadata, status

TESTDATA = Path(__file__).parents[2] / "protos" / "testdata"
# Importing them registers every message of the API.
REGISTERED = (collection_service_pb2, record_service_pb2)


def cases(*names: str) -> list[Any]:
    return [
        pytest.param(case, id=f"{name}: {case['name']}")
        for name in names
        for case in json.loads((TESTDATA / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    ]


def message(case: dict[str, Any]) -> Message:
    made = message_factory.GetMessageClass(Default().FindMessageTypeByName(case["message"]))
    return made.FromString(bytes.fromhex(case["hex"]))


@pytest.mark.parametrize("case", cases("metadata", "filters", "messages"))
def test_bytes_and_json_say_the_same(case: dict[str, Any]) -> None:
    decoded = message(case)

    assert json_format.MessageToDict(decoded) == case["json"]
    again = json_format.ParseDict(case["json"], type(decoded)())
    assert again.SerializeToString(deterministic=True).hex() == case["hex"]


@pytest.mark.parametrize("case", cases("filters"))
def test_the_short_form_of_a_filter_is_its_message(case: dict[str, Any]) -> None:
    made = (
        filters.where_from_dict(case["where"])
        if "where" in case
        else filters.where_document_from_dict(case["where_document"])
    )

    assert made == message(case)


def python_metadata() -> list[Any]:
    """Cases without what no Python value stands for: the absence of a key."""
    return [c for c in cases("metadata") if c.values[0].get("key") != "gone"]


@pytest.mark.parametrize("case", python_metadata())
def test_metadata_reads_back_with_its_types(case: dict[str, Any]) -> None:
    decoded: Any = message(case)

    held = metadata.metadata_from_message(decoded)

    assert (metadata.metadata_to_message(held) if held else type(decoded)()) == decoded


@pytest.mark.parametrize("case", cases("errors"))
def test_a_trailer_says_the_error(case: dict[str, Any]) -> None:
    code = next(name for name, number in status.CODES.items() if number == case["code"])

    error = status.decode(code, case["message"], bytes.fromhex(case["trailer_hex"]))

    assert error.reason == case["reason"]
    assert {**error.metadata, **case["metadata"]} == error.metadata
    assert error.retry_after_s == case.get("retry_after_seconds")
    assert [{"field": v.field, "description": v.description} for v in error.violations] == case.get(
        "violations", []
    )
    if isinstance(error, errors.PartialWriteError):
        stated = [(s.shard_id, s.outcome, list(s.positions), s.reason) for s in error.shards]
        assert stated == [
            (s["shard_id"], s["outcome"], s["positions"], s["reason"]) for s in case["shards"]
        ]
