"""What can go wrong, as exceptions.

```
ShoalError
├── InvalidArgumentError(ValueError)      the request is wrong; change it
│   ├── DimensionMismatchError · DuplicateIDError · BatchTooLargeError
├── NotFoundError(KeyError)               what it names is not there
│   ├── CollectionNotFoundError · TenantNotFoundError · DatabaseNotFoundError
│   ├── SnapshotNotFoundError · BackupNotFoundError
├── AlreadyExistsError(ValueError)        the name is taken
│   ├── CollectionExistsError · TenantExistsError · DatabaseExistsError · SnapshotExistsError
│   ├── BackupExistsError
├── FailedPreconditionError               the state forbids it; change the state first
├── UnauthenticatedError · PermissionDeniedError
├── QuotaExceededError · OverloadedError  too much; wait, or ask for more
├── UnavailableError(ConnectionError)     cannot be reached now; repeat later
├── DeadlineExceededError(TimeoutError)   not done in time; the outcome of a write is unknown
├── DataLossError                         data is damaged or gone; an operator must act
├── PartialWriteError                     some shards applied their part, others did not
├── DataDirectoryLockedError              another process uses the directory
├── UnimplementedError · InternalError    not offered by this server · a defect of it
└── StaleRouteError · NotRegisteredError  between Shoal's own processes only
```

Each class fixes the canonical gRPC code and the reason (``google.rpc.ErrorInfo.reason``) under
which it travels, so that what a worker raises is what its user catches. `str(error)` is the
message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

__all__ = [
    "AlreadyExistsError",
    "BackupExistsError",
    "BackupNotFoundError",
    "BatchTooLargeError",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "DataDirectoryLockedError",
    "DataLossError",
    "DatabaseExistsError",
    "DatabaseNotFoundError",
    "DeadlineExceededError",
    "DimensionMismatchError",
    "DuplicateIDError",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "NotRegisteredError",
    "OverloadedError",
    "PartialWriteError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "ShardOutcome",
    "ShoalError",
    "SnapshotExistsError",
    "SnapshotNotFoundError",
    "StaleRouteError",
    "TenantExistsError",
    "TenantNotFoundError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "make",
]

DOMAIN: Final = "shoal"
"""``google.rpc.ErrorInfo.domain`` of every error of ours."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is at fault.

    Attributes:
        field: Path from the request message, for example ``records.vectors.values``.
        description: What is wrong with it, and what would be right.
    """

    field: str
    description: str


class ShoalError(Exception):
    """Any failure that Shoal foresees.

    Attributes:
        code: Name of the canonical gRPC code.
        reason: What clients switch on.
        message: What, which, and what would be right.
        metadata: The facts, as text by name.
        violations: The fields of the request at fault.
        retry_after_s: After how many seconds it makes sense to repeat; None if nobody knows.
    """

    code: ClassVar[str] = "UNKNOWN"
    reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations: tuple[FieldViolation, ...] = tuple(violations)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        # KeyError would show the message in quotes.
        return self.message


class InvalidArgumentError(ShoalError, ValueError):
    """The request is wrong, whatever the state of the server."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"


class DimensionMismatchError(InvalidArgumentError):
    """A vector has another dimension than its collection."""

    reason = "DIMENSION_MISMATCH"


class DuplicateIDError(InvalidArgumentError):
    """An ID is given twice in one call."""

    reason = "DUPLICATE_ID"


class BatchTooLargeError(InvalidArgumentError):
    """A batch has more records, or bytes, than one request may."""

    reason = "BATCH_TOO_LARGE"


class NotFoundError(ShoalError, KeyError):
    """What the request names is not there."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class CollectionNotFoundError(NotFoundError):
    """No such collection."""

    reason = "COLLECTION_NOT_FOUND"


class TenantNotFoundError(NotFoundError):
    """No such tenant."""

    reason = "TENANT_NOT_FOUND"


class DatabaseNotFoundError(NotFoundError):
    """No such database."""

    reason = "DATABASE_NOT_FOUND"


class SnapshotNotFoundError(NotFoundError):
    """No such snapshot."""

    reason = "SNAPSHOT_NOT_FOUND"


class BackupNotFoundError(NotFoundError):
    """No such backup."""

    reason = "BACKUP_NOT_FOUND"


class AlreadyExistsError(ShoalError, ValueError):
    """The name is taken."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class CollectionExistsError(AlreadyExistsError):
    """The collection's name is taken."""

    reason = "COLLECTION_EXISTS"


class TenantExistsError(AlreadyExistsError):
    """The tenant's name is taken."""

    reason = "TENANT_EXISTS"


class DatabaseExistsError(AlreadyExistsError):
    """The database's name is taken."""

    reason = "DATABASE_EXISTS"


class SnapshotExistsError(AlreadyExistsError):
    """The snapshot's name is taken."""

    reason = "SNAPSHOT_EXISTS"


class BackupExistsError(AlreadyExistsError):
    """The backup's name is taken."""

    reason = "BACKUP_EXISTS"


class FailedPreconditionError(ShoalError):
    """The state of the system forbids it; repeating alone does not help."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class UnauthenticatedError(ShoalError):
    """No valid API key was given."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(ShoalError):
    """The caller may not do this, or the server's settings do not allow it."""

    code = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"


class QuotaExceededError(ShoalError):
    """A quota of the tenant, collection or key is used up."""

    code = "RESOURCE_EXHAUSTED"
    reason = "QUOTA_EXCEEDED"


class OverloadedError(ShoalError):
    """A bound of the server is reached: queue, backlog, answer, disk."""

    code = "RESOURCE_EXHAUSTED"
    reason = "OVERLOADED"


class UnavailableError(ShoalError, ConnectionError):
    """Who should answer cannot be reached. The outcome of a write is unknown."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"


class DeadlineExceededError(ShoalError, TimeoutError):
    """No answer in time. The outcome of a write is unknown."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class DataLossError(ShoalError):
    """Stored data is damaged or gone."""

    code = "DATA_LOSS"
    reason = "DATA_LOSS"


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What became of one shard's part of a write.

    Attributes:
        shard_id: The shard's UUID.
        outcome: ``applied`` whole, ``refused`` whole, or ``unknown``: it may have been applied.
        positions: Positions in the caller's batch of the records concerned, ascending.
        reason: If it was not applied, the reason of the error.
        message: If it was not applied, the error in words.
    """

    shard_id: str
    outcome: Literal["applied", "refused", "unknown"]
    positions: tuple[int, ...] = field(repr=False)
    reason: str = ""
    message: str = ""


class PartialWriteError(ShoalError):
    """Some records of a write were applied and others were not.

    The same call can be repeated: with its write ID nothing is applied twice.

    Attributes:
        shards: What became of each shard's part (of the last request, if the SDK split the call).
        written_count: Records of the call that are known to be applied.
    """

    code = "ABORTED"
    reason = "PARTIAL_WRITE"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
        shards: Sequence[ShardOutcome] = (),
        written_count: int | None = None,
    ) -> None:
        super().__init__(
            message, metadata=metadata, violations=violations, retry_after_s=retry_after_s
        )
        self.shards: tuple[ShardOutcome, ...] = tuple(shards)
        if written_count is None:
            written_count = sum(len(s.positions) for s in self.shards if s.outcome == "applied")
        self.written_count = written_count


class DataDirectoryLockedError(ShoalError):
    """Another process uses the data directory."""

    code = "FAILED_PRECONDITION"
    reason = "DATA_DIRECTORY_LOCKED"


class UnimplementedError(ShoalError):
    """This server does not offer it."""

    code = "UNIMPLEMENTED"
    reason = "UNIMPLEMENTED"


class InternalError(ShoalError):
    """A defect of the server; its log says more."""

    code = "INTERNAL"
    reason = "INTERNAL"


class StaleRouteError(ShoalError):
    """The worker does not hold the shard at the caller's epoch. Gateways handle it."""

    code = "FAILED_PRECONDITION"
    reason = "STALE_ROUTE"


class NotRegisteredError(ShoalError):
    """The coordinator does not know this run of the worker. Workers handle it."""

    code = "NOT_FOUND"
    reason = "NOT_REGISTERED"


def _descendants(root: type[ShoalError]) -> list[type[ShoalError]]:
    return [root, *(d for child in root.__subclasses__() for d in _descendants(child))]


_BY_REASON: Final = {cls.reason: cls for cls in _descendants(ShoalError)}

# What a status without our ErrorInfo means: gRPC itself made it, or something between us did.
_BY_CODE: Final[Mapping[str, type[ShoalError]]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "OUT_OF_RANGE": InvalidArgumentError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "UNAVAILABLE": UnavailableError,
    "CANCELLED": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "DATA_LOSS": DataLossError,
    "UNIMPLEMENTED": UnimplementedError,
    "INTERNAL": InternalError,
}


def make(
    code: str,
    reason: str,
    message: str,
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[FieldViolation] = (),
    retry_after_s: float | None = None,
) -> ShoalError:
    """Make the error that travelled as a status.

    The reason decides; an unknown one (of a newer server, or none at all) falls back to the code,
    and an unknown code to `ShoalError` itself.
    """
    cls = _BY_REASON.get(reason) or _BY_CODE.get(code, ShoalError)
    return cls(message, metadata=metadata, violations=violations, retry_after_s=retry_after_s)
