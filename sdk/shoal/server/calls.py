"""What a service method is told about its call: its deadline, its ID, who gave up.

Every call has a deadline: the client's, or the server's default. What a method calls downstream
gets what is left of it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

from shoal.errors import DeadlineExceededError

if TYPE_CHECKING:
    from shoal.server.tracing import Begun

__all__ = ["REQUEST_ID_KEY", "Call", "CallContext", "context_for", "current_request_id"]

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata key under which a request's ID comes in, is passed on, and goes back."""

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")

current_request_id: Final[ContextVar[str | None]] = ContextVar("shoal_request_id", default=None)
"""The ID of the request that this task works for; calls downstream carry it on."""


class CallContext(Protocol):
    """What a service method is told about its call."""

    @property
    def request_id(self) -> str:
        """Names the request in logs, on every process that it passes."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's gRPC metadata; of a key given twice the last, binary ones left out."""

    @property
    def caller(self) -> object | None:
        """Who calls, as the service's guard has found out; None where nobody asks."""

    @property
    def span(self) -> object | None:
        """The call's span, while traces are made."""

    def tell(self, **facts: object) -> None:
        """Say what the log of slow calls should tell of this one; nothing of what is in it."""

    def time_remaining(self) -> float:
        """Give the seconds left, above 0.

        Infinite for a stream without a deadline.

        Raises:
            DeadlineExceededError: None are left.
        """

    def check(self) -> None:
        """Stop work that nobody waits for any more. Can be called from any thread.

        Raises:
            DeadlineExceededError: The deadline has passed, or the caller has gone.
        """


class Call:
    """A `CallContext`, for calls that came by gRPC and for those within the process.

    Args:
        timeout_s: Seconds until the deadline; infinite for none.
        metadata: As it came.
        request_id: Of a call from within the process; None: that of the metadata, or a new one.

    Attributes:
        began: When the method began to work on it, by the performance counter.
        begun_span: Its own span, while traces are made.
        caller: Who calls; set by the service's guard.
        span: See `CallContext`.
    """

    __slots__ = (
        "_cancelled",
        "_deadline",
        "_facts",
        "_metadata",
        "_raw_metadata",
        "began",
        "begun_span",
        "caller",
        "request_id",
        "span",
    )

    def __init__(
        self,
        timeout_s: float,
        metadata: Collection[tuple[str, str | bytes]] = (),
        request_id: str | None = None,
    ) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._raw_metadata = metadata
        self._metadata: dict[str, str] | None = None
        self._cancelled = False
        self._facts: dict[str, object] | None = None
        self.began = 0.0
        self.begun_span: Begun | None = None
        self.caller: object | None = None
        self.span: object | None = None
        if request_id is None and metadata:
            given = next((str(v) for k, v in metadata if k == REQUEST_ID_KEY), "")
            # An ID goes into logs: one with line breaks, or a kilobyte long, is replaced.
            request_id = given if _REQUEST_ID.fullmatch(given) else None
        self.request_id = request_id or os.urandom(8).hex()

    @property
    def facts(self) -> Mapping[str, object]:
        """What was told of it."""
        return self._facts or {}

    def tell(self, **facts: object) -> None:
        self._facts = {**self.facts, **facts}

    def begin(self, timeout_s: float) -> None:
        """Set the deadline anew, of a call that was looked at before it was received."""
        self._deadline = time.monotonic() + timeout_s

    @property
    def metadata(self) -> Mapping[str, str]:
        if self._metadata is None:
            self._metadata = {k: v for k, v in self._raw_metadata if isinstance(v, str)}
        return self._metadata

    def values(self, key: str) -> list[str]:
        """Give all values of a metadata key, in their order."""
        return [v for k, v in self._raw_metadata if k == key and isinstance(v, str)]

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; not above 0 once it has passed."""
        return self._deadline - time.monotonic()

    def time_remaining(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceededError("the deadline of the call has passed")
        return left

    def check(self) -> None:
        if self._cancelled:
            raise DeadlineExceededError("the caller has cancelled the call, or gone")
        if self._deadline <= time.monotonic():
            self.time_remaining()  # says so

    def cancel(self) -> None:
        """Say that nobody waits for the answer any more."""
        self._cancelled = True


def context_for(timeout_s: float, request_id: str | None = None) -> CallContext:
    """Make a context for a caller in the same process.

    Args:
        timeout_s: Seconds until the deadline, above 0.
        request_id: Default: the one this task works for, else a new one.
    """
    return Call(timeout_s, request_id=request_id or current_request_id.get())
