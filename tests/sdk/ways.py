"""The ways in: a test is written once, and runs through each of them.

An asyncio client is driven from a loop in a thread, so that it looks like a blocking one.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import shoal
from shoal.server import rpc
from shoal_local.directory import DataDirectory
from shoal_local.roles import LocalCluster
from tests.sdk.raw import Raw

Result = TypeVar("Result")

WAYS = ("embedded", "grpc", "async", "async-embedded")
"""By the client."""

EVERY_WAY = ("raw", *WAYS)
"""And by bare stubs."""


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    def close(self) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Blocking:
    """An asyncio client or collection that is used like a blocking one."""

    def __init__(self, wrapped: Any, loop: LoopThread) -> None:
        self.wrapped = wrapped
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.wrapped, name)
        if not inspect.ismethod(attribute):
            return attribute

        @functools.wraps(attribute)
        def method(*args: Any, **kwargs: Any) -> Any:
            result = attribute(
                *(_unwrapped(argument) for argument in args),
                **{key: _unwrapped(value) for key, value in kwargs.items()},
            )
            if inspect.isawaitable(result):
                return self._wrap(self._loop.run(_awaited(result)))
            return self._iterate(result) if inspect.isasyncgen(result) else result

        return method

    def _wrap(self, result: Any) -> Any:
        if isinstance(result, shoal.AsyncCollection):
            return Blocking(result, self._loop)
        if isinstance(result, list) and not isinstance(result, shoal.IdPage):
            return [self._wrap(item) for item in result]
        return result

    def _iterate(self, iterator: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run(_awaited(anext(iterator)))
            except StopAsyncIteration:
                return

    def __repr__(self) -> str:
        return repr(self.wrapped)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blocking) and bool(self.wrapped == other.wrapped)

    def __hash__(self) -> int:
        return hash(self.wrapped)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _unwrapped(value: Any) -> Any:
    return value.wrapped if isinstance(value, Blocking) else value


class Ways:
    """One cluster that is reached by sockets, and one store that is not; and clients of both."""

    def __init__(self, directory: Path, *, allow_reset: bool = False) -> None:
        self._directory = directory
        self._allow_reset = allow_reset
        self.loop = LoopThread()
        self.port = 0
        self._server: Any = None
        self._store: shoal.PersistentClient | None = None
        self._cluster: LocalCluster | None = None

    def client(self, way: str, **options: Any) -> Any:
        """Make a client."""
        embedded = {**options, "allow_reset": self._allow_reset}
        if "embedded" in way and self._store is None:
            # Held open from here on, so that it does not close and open with each test.
            self._store = shoal.PersistentClient(
                self._directory / "store", allow_reset=self._allow_reset
            )
        match way:
            case "embedded":
                return shoal.PersistentClient(self._directory / "store", **embedded)
            case "async-embedded":
                store = self._directory / "store"
                return Blocking(shoal.AsyncPersistentClient(store, **embedded), self.loop)
            case "raw":
                return Raw(self._served(), **options)
            case "grpc":
                return shoal.Client("127.0.0.1", self._served(), **options)
            case _:
                client = shoal.AsyncClient("127.0.0.1", self._served(), **options)
                return Blocking(client, self.loop)

    def admin(self, way: str) -> Any:
        """Make a client for tenants and databases."""
        store = {"path": self._directory / "store", "allow_reset": self._allow_reset}
        match way:
            case "embedded":
                return shoal.AdminClient(**store)  # type: ignore[arg-type]
            case "async-embedded":
                return Blocking(shoal.AsyncAdminClient(**store), self.loop)  # type: ignore[arg-type]
            case "grpc" | "raw":
                return shoal.AdminClient("127.0.0.1", self._served())
            case _:
                return Blocking(shoal.AsyncAdminClient("127.0.0.1", self._served()), self.loop)

    def _served(self) -> int:
        if self._server is None:
            self.loop.run(self._serve())
        return self.port

    async def _serve(self) -> None:
        directory = DataDirectory(self._directory / "cluster")
        directory.worker(1)
        directory.worker(2)
        self._cluster = LocalCluster(directory, allow_reset=self._allow_reset)
        await self._cluster.start()
        self._server = rpc.server()
        for name, instance in self._cluster.services.items():
            rpc.add_service(self._server, name, instance)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
        if self._cluster is not None:
            await self._cluster.close()

    def close(self) -> None:
        """Stop everything."""
        if self._store is not None:
            self._store.close()
        self.loop.run(self._stop())
        self.loop.close()


@contextmanager
def ways_in(directory: Path, *, allow_reset: bool = False) -> Iterator[Ways]:
    """The ways in, for as long as they are used."""
    ways = Ways(directory, allow_reset=allow_reset)
    try:
        yield ways
    finally:
        ways.close()
