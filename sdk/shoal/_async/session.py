"""What all calls of one client share: the transport, the time they have, repeating, the limits,
and the token by which what the client has seen stays seen.
"""

from __future__ import annotations

import random
import time
from typing import Any, TypeVar

from google.protobuf.message import Message

from shoal import _limits, _retry, _status, errors
from shoal._async import runtime
from shoal._async.gathering import AsyncGatherer
from shoal._async.transport import AsyncTransport
from shoal._methods import GET_LIMITS, Method
from shoal.v1 import admin_service_pb2
from shoal.wire.limits import Limits

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class AsyncSession:
    """Makes the calls of one client and its collections.

    Attributes:
        known_limits: The server's limits, once `limits` has asked for them.
    """

    def __init__(self, transport: AsyncTransport, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._transport = transport
        self.known_limits: Limits | None = None
        self._token = b""
        self._chance = random.Random()
        self._gatherer: tuple[runtime.Place, AsyncGatherer[Any]] | None = None

    @property
    def gatherer(self) -> AsyncGatherer[Any]:
        """What puts the queries of this client's callers together, where it is used now."""
        place = runtime.current_place()
        if self._gatherer is None or self._gatherer[0] != place:
            self._gatherer = place, AsyncGatherer()
        return self._gatherer[1]

    async def call(self, method: Method[Request, Response], request: Request) -> Response:
        """Call, repeating what may succeed later, until the time is up.

        The request's session token is filled in here, and the answer's kept.

        Raises:
            ShoalError: Of the last attempt.
        """
        if method.has_session_token:
            # Which messages have the field is known to the methods, and to no type.
            tokened: Any = request
            tokened.session_token = self._token
        response = method.decode(await self._repeat(method, request.SerializeToString()))
        if method.has_session_token:
            tokened = response
            self._token = max(self._token, tokened.session_token)
        return response

    async def _repeat(self, method: Method[Any, Any], request: bytes) -> bytes:
        deadline = time.monotonic() + self.timeout_s
        attempt = 0
        while True:
            attempt += 1
            try:
                remaining_s = deadline - time.monotonic()
                return await self._transport.call(method, request, max(remaining_s, 1e-3))
            except errors.ShoalError as error:
                if _status.was_never_reached(error) or not _retry.worth_repeating(error):
                    raise
                if isinstance(error, errors.UnavailableError) and not method.repeatable:
                    raise  # It may have been done; whoever refuses a call says so otherwise.
                wait_s = _retry.backoff_s(attempt, error, self._chance)
                if time.monotonic() + wait_s >= deadline:
                    raise
            await runtime.sleep(wait_s)

    async def limits(self) -> Limits:
        """Return the server's limits; asked for once."""
        if self.known_limits is None:
            response = await self.call(GET_LIMITS, admin_service_pb2.GetLimitsRequest())
            self.known_limits = _limits.from_message(response)
        return self.known_limits

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()
