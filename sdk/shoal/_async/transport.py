"""How a call leaves the client: the seam between what is asked and how it travels.

Everything above speaks of methods and serialised messages; everything below of channels, or of a
store in this process. A test can put anything in between.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Final, Protocol

import grpc.aio

from shoal import _status, errors
from shoal._address import CHANNEL_OPTIONS, Address
from shoal._async import runtime
from shoal._methods import GET_VERSION, Method
from shoal._retry import CONNECT_TIMEOUT_S

# For asking a channel that cannot connect why.
_DIAGNOSIS_TIMEOUT_S: Final = 0.5


class AsyncTransport(Protocol):
    """Carries calls."""

    async def call(self, method: Method[Any, Any], request: bytes, timeout_s: float) -> bytes:
        """Make one attempt at a call, and return the serialised response.

        Args:
            method: The RPC.
            request: The serialised request.
            timeout_s: How long the attempt may take, > 0.

        Raises:
            ShoalError: What the server says, or how it could not be reached.
        """
        ...

    async def close(self) -> None:
        """Let go of everything. Idempotent; no call may follow."""
        ...


class _Connection:
    """A channel, where it may be used, and what has been learnt of it."""

    __slots__ = ("calls", "channel", "is_connected", "place")

    def __init__(self, place: runtime.Place, channel: grpc.aio.Channel) -> None:
        self.place = place
        self.channel = channel
        self.is_connected = False
        self.calls: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def call(self, method: Method[Any, Any]) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """Return the method's callable, without serialisers: messages pass as bytes."""
        call = self.calls.get(method.path)
        if call is None:
            call = self.calls[method.path] = self.channel.unary_unary(method.path)
        return call


class AsyncChannelTransport:
    """Calls a server over gRPC.

    The channel is made by the first call. It belongs to the process and event loop that it was
    made in: a call from elsewhere (after a fork, in another `asyncio.run`) makes another.
    """

    def __init__(self, address: Address, api_key: str | None) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        # Held while a connection is made or given up: never while anything is waited for.
        self._changing = threading.Lock()
        self._connection: _Connection | None = None
        self._is_closed = False
        # Connections of the process that this one was forked from. Destroying them here could wait
        # for threads that exist only there.
        self._inherited: list[_Connection] = []

    async def call(self, method: Method[Any, Any], request: bytes, timeout_s: float) -> bytes:
        """Make one attempt at a call; the first one seeks the server for a few seconds."""
        connection = self._connection_here()
        if not connection.is_connected:
            await self._connect(connection, min(timeout_s, CONNECT_TIMEOUT_S))
        return await self._attempt(connection, method, request, timeout_s)

    async def close(self) -> None:
        """Close the channel, if it is of this place."""
        place = runtime.current_place()
        with self._changing:
            self._is_closed = True
            connection, self._connection = self._connection, None
            if connection is not None and connection.place != place:
                self._inherited.append(connection)
                return
        if connection is not None:
            await connection.channel.close()

    def _connection_here(self) -> _Connection:
        place = runtime.current_place()
        with self._changing:
            if self._is_closed:
                raise errors.FailedPreconditionError("this client has been closed")
            connection = self._connection
            if connection is None or connection.place != place:
                if connection is not None and connection.place[0] != place[0]:
                    self._inherited.append(connection)
                connection = self._connection = _Connection(place, self._open())
            return connection

    def _open(self) -> grpc.aio.Channel:
        if self._address.credentials is None:
            return grpc.aio.insecure_channel(self._address.target, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(
            self._address.target, self._address.credentials, options=CHANNEL_OPTIONS
        )

    async def _connect(self, connection: _Connection, timeout_s: float) -> None:
        """Seek the server, by a call that waits until there is a connection.

        Watching the channel's state instead would cost a blocking client a thread that polls.
        """
        try:
            await self._attempt(connection, GET_VERSION, b"", timeout_s, wait_for_ready=True)
        except (errors.UnavailableError, errors.DeadlineExceededError):
            await self._diagnose(connection, timeout_s)
        except errors.ShoalError:
            pass  # Somebody answered: what is wrong will be said of the call itself.
        connection.is_connected = True

    async def _diagnose(self, connection: _Connection, sought_s: float) -> None:
        """Ask the channel why it cannot connect, which it tells only to a call that does not wait.

        Returns if it has connected at the last moment.
        """
        try:
            await self._attempt(connection, GET_VERSION, b"", _DIAGNOSIS_TIMEOUT_S)
        except errors.UnavailableError as error:
            details = error.metadata.get("details", str(error))
            raise _status.unreached(str(self._address), sought_s, details) from None
        except errors.DeadlineExceededError:
            raise _status.unreached(str(self._address), sought_s, "") from None
        except errors.ShoalError:
            pass

    async def _attempt(
        self,
        connection: _Connection,
        method: Method[Any, Any],
        request: bytes,
        timeout_s: float,
        *,
        wait_for_ready: bool | None = None,
    ) -> bytes:
        try:
            return await connection.call(method)(
                request, timeout=timeout_s, metadata=self._metadata, wait_for_ready=wait_for_ready
            )
        except grpc.aio.AioRpcError as error:
            raise _status.to_error(
                error.code().name,
                error.details(),
                error.trailing_metadata(),
                method=method.name,
                address=str(self._address),
                timeout_s=timeout_s,
            ) from None
        except runtime.CLOSED as error:
            if not runtime.is_of_closed_channel(error):
                raise
            raise errors.FailedPreconditionError("this client has been closed") from None


class AsyncEmbeddedTransport:
    """Calls a store in this process, which has all the roles of a cluster."""

    def __init__(self, path: Path | None, allow_reset: bool) -> None:
        # Only who uses the embedded store needs what the server needs.
        from shoal import _embedded

        self._process_id = os.getpid()
        self._store: _embedded.Store | None = _embedded.open_store(path, allow_reset=allow_reset)

    async def call(self, method: Method[Any, Any], request: bytes, timeout_s: float) -> bytes:
        """Call the store."""
        store = self._store
        if store is None:
            raise errors.FailedPreconditionError("this client has been closed")
        if self._process_id != os.getpid():
            raise errors.FailedPreconditionError(
                "this client was opened before the process was forked; "
                "a store serves the process that opened it"
            )
        return await runtime.call_store(store, method.service, method.name, request, timeout_s)

    async def close(self) -> None:
        """Close the store, if nobody else in this process uses it."""
        store, self._store = self._store, None
        if store is not None and self._process_id == os.getpid():
            await runtime.in_thread(store.close)
