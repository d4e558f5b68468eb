"""Errors as they travel: google.rpc.Status with one ErrorInfo, in a gRPC trailer.

The messages are those of ``google/rpc/status.proto`` and ``error_details.proto``, built here in a
descriptor pool of their own: registering these files in the default pool would collide with every
program that uses googleapis-common-protos, and needing that package would be a dependency for four
messages.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.message import DecodeError

from shoal import errors
from shoal.v1 import record_service_pb2

__all__ = ["TRAILER", "decode", "encode"]

TRAILER: Final = "grpc-status-details-bin"
"""Metadata key of the trailer that holds a serialised google.rpc.Status."""

CODES: Final = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""The canonical codes' numbers by name."""

_TYPE_PREFIX: Final = "type.googleapis.com/"

# Trailers share HTTP/2's default limit of 8 KiB for all headers, and a gRPC peer that meets more
# drops the whole status. Text, facts and positions are cut so that the rest arrives.
_MAX_MESSAGE_CHARACTERS: Final = 1_000
_MAX_FACT_CHARACTERS: Final = 200
_MAX_VIOLATIONS: Final = 8
_MAX_TRAILER_BYTES: Final = 5_000


def _messages() -> dict[str, Any]:
    """Build the four messages, by their full names."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="google/rpc/shoal_private_copy.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=["google/protobuf/any.proto", "google/protobuf/duration.proto"],
    )

    def add(message: Any, name: str, number: int, type_: Any, *, many: bool = False,
            of: str = "") -> None:  # fmt: skip
        message.field.add(
            name=name,
            number=number,
            type=type_,
            type_name=of or None,
            label=field.LABEL_REPEATED if many else field.LABEL_OPTIONAL,
        )

    status = file.message_type.add(name="Status")
    add(status, "code", 1, field.TYPE_INT32)
    add(status, "message", 2, field.TYPE_STRING)
    add(status, "details", 3, field.TYPE_MESSAGE, many=True, of=".google.protobuf.Any")

    info = file.message_type.add(name="ErrorInfo")
    add(info, "reason", 1, field.TYPE_STRING)
    add(info, "domain", 2, field.TYPE_STRING)
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_STRING)
    add(
        info, "metadata", 3, field.TYPE_MESSAGE, many=True, of=".google.rpc.ErrorInfo.MetadataEntry"
    )

    bad = file.message_type.add(name="BadRequest")
    violation = bad.nested_type.add(name="FieldViolation")
    add(violation, "field", 1, field.TYPE_STRING)
    add(violation, "description", 2, field.TYPE_STRING)
    add(bad, "field_violations", 1, field.TYPE_MESSAGE, many=True,
        of=".google.rpc.BadRequest.FieldViolation")  # fmt: skip

    retry = file.message_type.add(name="RetryInfo")
    add(retry, "retry_delay", 1, field.TYPE_MESSAGE, of=".google.protobuf.Duration")

    pool = descriptor_pool.DescriptorPool()
    for module in (any_pb2, duration_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {
        m.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{m.name}"))
        for m in file.message_type
    }


_MESSAGES: Final = _messages()

_OUTCOMES: Final[dict[Literal["applied", "refused", "unknown"], Any]] = {
    "applied": record_service_pb2.WRITE_OUTCOME_APPLIED,
    "refused": record_service_pb2.WRITE_OUTCOME_REFUSED,
    "unknown": record_service_pb2.WRITE_OUTCOME_UNKNOWN,
}
_OUTCOME_NAMES: Final = {number: name for name, number in _OUTCOMES.items()}


def encode(error: errors.ShoalError) -> bytes:
    """Encode an error as the value of the `TRAILER`.

    What would not fit a trailer is cut: long texts, and in the end the positions of a partial
    write's records.
    """
    status = _MESSAGES["Status"](
        code=CODES[error.code], message=error.message[:_MAX_MESSAGE_CHARACTERS]
    )
    facts = {k: v[:_MAX_FACT_CHARACTERS] for k, v in error.metadata.items()}
    _add(status, _MESSAGES["ErrorInfo"](reason=error.reason, domain=errors.DOMAIN, metadata=facts))
    if error.violations:
        bad = _MESSAGES["BadRequest"]()
        for violation in error.violations[:_MAX_VIOLATIONS]:
            bad.field_violations.add(
                field=violation.field[:_MAX_FACT_CHARACTERS],
                description=violation.description[:_MAX_FACT_CHARACTERS],
            )
        _add(status, bad)
    if error.retry_after_s is not None:
        retry = _MESSAGES["RetryInfo"]()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        _add(status, retry)
    if isinstance(error, errors.PartialWriteError):
        _add_outcomes(status, error)
    encoded: bytes = status.SerializeToString()
    return encoded


def _add(status: Any, detail: Any) -> None:
    status.details.add(
        type_url=_TYPE_PREFIX + detail.DESCRIPTOR.full_name, value=detail.SerializeToString()
    )


def _add_outcomes(status: Any, error: errors.PartialWriteError) -> None:
    partial = record_service_pb2.PartialWrite()
    for shard in error.shards:
        partial.shards.add(
            shard_id=shard.shard_id,
            outcome=_OUTCOMES[shard.outcome],
            positions=shard.positions,
            reason=shard.reason,
            message=shard.message[:_MAX_FACT_CHARACTERS],
        )
    size = status.ByteSize()
    if size + partial.ByteSize() > _MAX_TRAILER_BYTES:
        # Positions of what was not applied matter most: the caller may want to look at these.
        for shard_outcome in partial.shards:
            if shard_outcome.outcome == record_service_pb2.WRITE_OUTCOME_APPLIED:
                del shard_outcome.positions[:]
    for shard_outcome in partial.shards:
        if size + partial.ByteSize() <= _MAX_TRAILER_BYTES:
            break
        del shard_outcome.positions[:]
    for shard_outcome in partial.shards:
        if size + partial.ByteSize() <= _MAX_TRAILER_BYTES:
            break
        shard_outcome.ClearField("message")
    while size + partial.ByteSize() > _MAX_TRAILER_BYTES:
        del partial.shards[-1]
    _add(status, partial)


def decode(code: str, message: str, trailer: bytes | None) -> errors.ShoalError:
    """Make the error that a status says.

    Args:
        code: Name of the canonical code, from the status itself.
        message: Its message.
        trailer: Value of the `TRAILER`, or None; one that is not ours, or damaged, is passed over.
    """
    status = _MESSAGES["Status"]()
    try:
        status.ParseFromString(trailer or b"")
        details = {d.type_url.removeprefix(_TYPE_PREFIX): d.value for d in status.details}
        info = _MESSAGES["ErrorInfo"].FromString(details.get("google.rpc.ErrorInfo", b""))
        bad = _MESSAGES["BadRequest"].FromString(details.get("google.rpc.BadRequest", b""))
        retry = _MESSAGES["RetryInfo"].FromString(details.get("google.rpc.RetryInfo", b""))
        partial = record_service_pb2.PartialWrite.FromString(
            details.get("shoal.v1.PartialWrite", b"")
        )
    except DecodeError:
        return errors.make(code, "", message)
    error = errors.make(
        code,
        info.reason if info.domain == errors.DOMAIN else "",
        message or status.message,
        dict(info.metadata),
        [errors.FieldViolation(v.field, v.description) for v in bad.field_violations],
        retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )
    if isinstance(error, errors.PartialWriteError):
        error.shards = tuple(
            errors.ShardOutcome(
                s.shard_id,
                _OUTCOME_NAMES.get(s.outcome, "unknown"),
                tuple(s.positions),
                s.reason,
                s.message,
            )
            for s in partial.shards
        )
        applied = sum(len(s.positions) for s in error.shards if s.outcome == "applied")
        # The server states the count besides, for when the positions did not fit.
        error.written_count = int(error.metadata.get("written_count", applied))
    return error
