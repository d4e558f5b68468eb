"""What the failure of a gRPC call means, as an exception that says where it happened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shoal import errors
from shoal.wire import status


def to_error(
    code: str,
    details: str | None,
    trailers: Iterable[Any] | None,
    *,
    method: str,
    address: str,
    timeout_s: float,
) -> errors.ShoalError:
    """Make the exception for a failed call.

    A status that a server of ours made arrives as it was raised. What gRPC itself reports (a
    deadline, a lost connection, a foreign server) is told in terms of the call.

    Args:
        code: Name of the canonical code.
        details: The status's message.
        trailers: The call's trailing metadata, pairs of key and value.
        method: Name of the RPC.
        address: The server.
        timeout_s: What the call was given, seconds.
    """
    trailer = next((v for k, v in trailers or () if k == status.TRAILER), None)
    facts = {"address": address, "method": method}
    if trailer is None:
        if code == "DEADLINE_EXCEEDED":
            return errors.DeadlineExceededError(
                f"{method} was not answered by {address} within {timeout_s:.3g} s", metadata=facts
            )
        if code == "UNAVAILABLE":
            return errors.UnavailableError(
                f"the server at {address} cannot be reached: {details}",
                metadata={**facts, "details": details or ""},
            )
        if code == "CANCELLED":
            # Not by us: a client waits for its calls, or has nobody to tell of it.
            return errors.UnavailableError(
                f"the server at {address} broke {method} off: it is stopping, or has too much to "
                "do to say so",
                metadata=facts,
            )
        if code == "UNIMPLEMENTED":
            return errors.UnimplementedError(
                f"the server at {address} does not offer {method}; is it an older Shoal, or none?",
                metadata=facts,
            )
    return status.decode(code, details or f"{method} failed with {code}", trailer)


def unreached(address: str, timeout_s: float, last_failure: str) -> errors.UnavailableError:
    """Make the exception for a server that has never been reached."""
    because = f" ({last_failure})" if last_failure else ""
    return errors.UnavailableError(
        f"no server could be reached at {address} within {timeout_s:.3g} s{because}; "
        "is it running? `shoal up` starts one",
        metadata={"address": address, "connected": "never"},
    )


def was_never_reached(error: errors.ShoalError) -> bool:
    """Whether a call failed because its server was sought in vain, long enough."""
    return error.metadata.get("connected") == "never"
