"""Requests that no client of ours would send: made from the descriptors, so that none is forgotten.

A request is filled by its message's structure with values that have broken something somewhere
(lengths that disagree, NaN, the ends of every integer, names that are none, filters a thousand
deep), or is a sound one with a few of its fields changed, and sometimes its bytes are damaged
besides. All follow from one seed.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from shoal.server.methods import find_service
from shoal.v1 import collection_pb2, filter_pb2, value_pb2

__all__ = ["COLLECTIONS", "DIMENSION", "Hostile", "Request", "grpc_frame"]

DIMENSION: Final = 8
COLLECTIONS: Final = ("fuzz-a", "fuzz-b", "fuzz-c")
"""Those that requests are about, and may delete; few, so that they meet."""

_SERVICES: Final = (
    "shoal.v1.RecordService",
    "shoal.v1.CollectionService",
    "shoal.v1.AdminService",
    "shoal.v1.SnapshotService",
)

_NAMES: Final = (
    *COLLECTIONS,
    *COLLECTIONS,
    *COLLECTIONS,
    "",
    "x",
    "a..b",
    "1.2.3.4",
    "default_tenant",
    "default_database",
    "../../etc/passwd",
    "name\nwith: lines",
    "\u202e",
    "a" * 513,
    "a" * 100_000,
    "00000000-0000-0000-0000-000000000000",
)
_TEXTS: Final = (
    "",
    "word",
    "(a+)+$",
    "((((((((((a{0,50}){0,50}){0,50}",
    "[" * 500,
    "(?=x)",
    "\\p{Greek}" * 200,
    "\0",
    "\U0010ffff",
    "$eq",
    "#rank",
    "chroma:document",
    "x" * 2_000_000,
    "ab " * 1_000,
)
_INTEGERS: Final = (0, 1, 2, 7, 8, 9, 10, 63, 100, 1_000, 16_384, 16_385, 1_000_000)
_LIMITS: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
}
_FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 1e30, -1e308, 5e-324, math.nan, math.inf, -math.inf)

# What takes longer than a test has, or is a test of its own: a request in a hundred.
_SELDOM: Final = frozenset(
    {
        "CreateApiKey", "CreateBackup", "CreateCollection", "CreateDatabase", "CreateSnapshot",
        "CreateTenant", "CloneCollection", "DeleteCollection", "DeleteDatabase", "GetStatus",
        "Reset", "RestoreBackup", "RestoreSnapshot",
    }
)  # fmt: skip
_DEEPEST: Final = 5


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send.

    Attributes:
        path: Of the method.
        body: What is sent as the message.
        story: How it was made, for a failure's report.
    """

    path: str
    body: bytes
    story: str


class Hostile:
    """Makes requests.

    Args:
        seed: All of them follow from it.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        found = [m for service in _SERVICES for m in find_service(service).methods]
        self._methods: Sequence[MethodDescriptor] = found
        self._weights = [
            0.1
            if m.name in _SELDOM
            else 6.0
            if m.name in ("Query", "Search", "Add", "Upsert")
            else 2
            for m in found
        ]

    def requests(self, count: int) -> Iterator[Request]:
        """Give so many requests."""
        for number in range(count):
            yield self._request(number)

    def _request(self, number: int) -> Request:
        chance = self._chance
        (method,) = chance.choices(self._methods, self._weights)
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = chance.random()
        if kind < 0.02:
            return Request(path, chance.randbytes(chance.choice((0, 1, 5, 100, 10_000))), "noise")
        if kind < 0.06 and "where" in method.input_type.fields_by_name:
            return Request(path, self._deep_filter(method), "a deep filter")
        if kind < 0.5:
            message = self._sound(method)
            for _ in range(chance.randint(1, 4)):
                self._change(message)
            story = "changed"
        else:
            message = message_factory.GetMessageClass(method.input_type)()
            self._fill(message, 0)
            story = "filled"
        body = message.SerializeToString()
        if chance.random() < 0.25:
            body, damage = self._damaged(body)
            story += f", {damage}"
        return Request(path, body, f"request {number}: {method.name} {story}")

    # By structure

    def _fill(self, message: Any, depth: int) -> None:
        chance = self._chance
        for field in message.DESCRIPTOR.fields:
            if chance.random() < 0.55 + 0.08 * depth:
                continue
            self._set(message, field, depth)
        if message.DESCRIPTOR is collection_pb2.CollectionReference.DESCRIPTOR:
            self._aim(message)
        if message.DESCRIPTOR is value_pb2.VectorBlock.DESCRIPTOR and chance.random() < 0.7:
            message.CopyFrom(self._vectors(chance.choice((1, 1, 2, 3, 50))))

    def _set(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        chance = self._chance
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(chance.choice((0, 1, 3, 300))):
                key = chance.choice((*_TEXTS[:12], "field", "n", f"k{chance.randrange(9)}"))
                value = field.message_type.fields_by_name["value"]
                entries = getattr(message, field.name)
                if value.message_type is None:
                    entries[key] = self._scalar(value)
                elif depth < _DEEPEST:
                    self._fill(entries[key], depth + 1)
            return
        if field.is_repeated:
            count = chance.choice((0, 1, 1, 2, 3, 17, 1_100 if depth < 2 else 4))
            values = getattr(message, field.name)
            for _ in range(count):
                if field.message_type is None:
                    values.append(self._scalar(field))
                elif depth < _DEEPEST:
                    self._fill(values.add(), depth + 2 if count > 3 else depth + 1)
            return
        if field.message_type is not None:
            if depth < _DEEPEST:
                getattr(message, field.name).SetInParent()
                self._fill(getattr(message, field.name), depth + 1)
            return
        setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        chance = self._chance
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.name in ("name", "tenant", "database", "new_name", "source", "id", "into"):
                return chance.choice(_NAMES)
            if field.name in ("ids", "values"):
                return chance.choice(
                    (f"r{chance.randrange(40)}", f"r{chance.randrange(40)}", *_NAMES)
                )
            # The largest are for the few: a request may hold a thousand of them.
            return chance.choice(_TEXTS if chance.random() < 0.02 else _TEXTS[:12])
        if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 4, 8, 16, 17, 32, 333)))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        if field.type == FieldDescriptor.TYPE_ENUM:
            numbers = [v.number for v in field.enum_type.values] if field.enum_type else [0]
            return chance.choice((*numbers, *numbers, 99, -1, 2**31 - 1))
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            value = chance.choice((*_FLOATS, chance.gauss(0, 1)))
            return (
                value if field.type == FieldDescriptor.TYPE_DOUBLE else max(-3e38, min(3e38, value))
            )
        low, high = _LIMITS[field.type]
        return max(
            low, min(high, chance.choice((*_INTEGERS, low, high, -1, chance.randint(1, 40))))
        )

    def _aim(self, reference: Any) -> None:
        """Mostly at a collection that there is: what is behind the look-up should be met."""
        if self._chance.random() < 0.8:
            reference.Clear()
            reference.name = self._chance.choice(COLLECTIONS)

    def _vectors(self, count: int) -> value_pb2.VectorBlock:
        chance = self._chance
        numbers = np.array(
            [chance.gauss(0, 1) for _ in range(count * DIMENSION)], dtype="<f4"
        )  # fmt: skip
        kind = chance.random()
        if kind < 0.15:
            numbers[chance.randrange(len(numbers))] = chance.choice(
                (math.nan, math.inf, -math.inf, 3e38, 1e-45)
            )
        values = numbers.tobytes()
        if 0.15 < kind < 0.3:
            values = values[: chance.randrange(len(values))]
        dimension = DIMENSION if kind < 0.85 else self._chance.choice((0, 1, 7, 16, 2**32 - 1))
        return value_pb2.VectorBlock(dimension=dimension, values=values)

    # By changing what is sound

    def _sound(self, method: MethodDescriptor) -> Any:
        chance = self._chance
        request: Any = message_factory.GetMessageClass(method.input_type)()
        fields = method.input_type.fields_by_name
        if "collection" in fields:
            request.collection.name = chance.choice(COLLECTIONS)
        if "records" in fields:
            count = chance.choice((1, 2, 5, 40))
            ids = [f"r{chance.randrange(40)}-{n}" for n in range(count)]
            request.records.ids.extend(ids)
            numbers = np.array([chance.gauss(0, 1) for _ in range(count * DIMENSION)], dtype="<f4")
            request.records.vectors.dimension = DIMENSION
            request.records.vectors.values = numbers.tobytes()
            request.records.documents.values.extend(f"text {i}" for i in ids)
            for _ in ids:
                request.records.metadatas.add().fields["n"].int_value = chance.randrange(9)
        if "query_vectors" in fields:
            numbers = np.array([chance.gauss(0, 1) for _ in range(2 * DIMENSION)], dtype="<f4")
            request.query_vectors.dimension = DIMENSION
            request.query_vectors.values = numbers.tobytes()
            request.n_results = chance.choice((1, 10, 1_000))
            request.include.extend(chance.sample((1, 2, 3, 4, 5), chance.randint(0, 5)))
        if "where" in fields and chance.random() < 0.6:
            request.where.condition.field = "n"
            request.where.condition.operator = filter_pb2.WHERE_OPERATOR_EQ
            request.where.condition.operand.int_value = chance.randrange(9)
        if "searches" in fields:
            self._fill(request.searches.add(), 1)
        if "name" in fields and fields["name"].type == FieldDescriptor.TYPE_STRING:
            request.name = chance.choice(COLLECTIONS)
        return request

    def _change(self, message: Any) -> None:
        """Change a field somewhere in a message."""
        chance = self._chance
        for _ in range(6):
            fields = message.DESCRIPTOR.fields
            if not fields:
                return
            field = chance.choice(fields)
            inner = field.message_type is not None and not field.is_repeated
            if inner and message.HasField(field.name) and chance.random() < 0.75:
                message = getattr(message, field.name)
                continue
            if chance.random() < 0.2:
                message.ClearField(field.name)
            else:
                self._set(message, field, 2)
            return

    # By bytes

    def _deep_filter(self, method: MethodDescriptor) -> bytes:
        """A negation of a negation of …: deeper than a parser that recurses can follow."""
        request: Any = message_factory.GetMessageClass(method.input_type)()
        self._aim_all(request)
        inner = b""
        for _ in range(self._chance.choice((5, 31, 33, 90, 120, 1_000, 20_000))):
            inner = b"\x22" + _varint(len(inner)) + inner  # Where.negation
        number = method.input_type.fields_by_name["where"].number
        head = _varint(number << 3 | 2) + _varint(len(inner))
        body: bytes = request.SerializeToString()
        return body + head + inner

    def _aim_all(self, request: Any) -> None:
        if "collection" in request.DESCRIPTOR.fields_by_name:
            request.collection.name = self._chance.choice(COLLECTIONS)

    def _damaged(self, body: bytes) -> tuple[bytes, str]:
        chance = self._chance
        data = bytearray(body)
        kind = chance.randrange(6)
        if kind == 0 or not data:
            return bytes(data) + _varint(chance.getrandbits(64)) + chance.randbytes(
                20
            ), "with a tail"
        at = chance.randrange(len(data))
        if kind == 1:
            return bytes(data[:at]), "cut off"
        if kind == 2:
            data[at] ^= 1 << chance.randrange(8)
            return bytes(data), "with a bit flipped"
        if kind == 3:
            data[at:at] = chance.choice((b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\x80"))
            return bytes(data), "with what is no UTF-8"
        if kind == 4:
            data[at:at] = _varint(2**63) * 3
            return bytes(data), "with huge lengths"
        return bytes(data) + bytes(data[: chance.randrange(len(data)) + 1]), "with a part twice"


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def grpc_frame(body: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """A message as gRPC frames it, or pretends to."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body
