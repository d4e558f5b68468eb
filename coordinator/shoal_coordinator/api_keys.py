"""API keys in the catalog: created, revoked, and the one that an operator brings in a file.

The coordinator never sees a key: a gateway makes it, gives it to its creator, and sends the SHA-256
of its secret. The exception is the bootstrap key, by which the first administrator comes in, and
the last one comes in again after a mishap: it lies in a file that the operator gives to the
coordinator's process, and stands in the catalog exactly as long as the file says so. Replacing the
file replaces the key, within seconds and without a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shoal.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ShoalError,
)
from shoal.internal.v1.catalog_pb2 import ApiKeyEntry
from shoal.server import logs
from shoal.server.keys import ApiKey
from shoal.v1 import admin_service_pb2
from shoal_coordinator.changes import Changes
from shoal_coordinator.lifecycle import Lifecycle
from shoal_coordinator.state import MAX_API_KEYS, CatalogState, Change, check_room

__all__ = ["ApiKeys", "BootstrapKey"]

_log: Final = logs.get_logger(__name__)

_LOOK_EVERY_S: Final = 1.0
"""How often the bootstrap key's file is looked at."""

_MAX_FILE_BYTES: Final = 1024

_EVERYTHING: Final = admin_service_pb2.Grant(
    scope=admin_service_pb2.Scope(level=admin_service_pb2.SCOPE_LEVEL_CLUSTER),
    rights=[
        admin_service_pb2.RIGHT_READ,
        admin_service_pb2.RIGHT_WRITE,
        admin_service_pb2.RIGHT_ADMIN,
    ],
)


class ApiKeys:
    """Takes in and removes API keys.

    Args:
        now: Seconds since 1970.
    """

    def __init__(self, changes: Changes, lifecycle: Lifecycle, now: Callable[[], float]) -> None:
        self._changes = changes
        self._lifecycle = lifecycle
        self._now = now

    async def create(
        self, description: admin_service_pb2.ApiKey, secret_sha256: bytes
    ) -> ApiKeyEntry:
        """Take in a key, and have gateways know it.

        Raises:
            AlreadyExistsError: Its ID is another's.
            QuotaExceededError: There are too many keys.
        """

        def decide(state: CatalogState) -> tuple[Change, ApiKeyEntry]:
            if description.id in state.api_keys:
                raise AlreadyExistsError(f"API key {description.id} exists already")
            check_room("api_keys", len(state.api_keys), MAX_API_KEYS)
            entry = self._entry(state, description, secret_sha256)
            return Change(api_keys=(entry,)), entry

        entry, version = await self._changes.make(decide)
        await self._lifecycle.confirm(version)
        _log.info("api_key_created", key_id=description.id, name=description.name)
        return entry

    async def revoke(self, key_id: str) -> None:
        """Remove a key, and have gateways refuse it.

        Raises:
            NotFoundError: There is no such key.
            FailedPreconditionError: It is the one from the file.
        """

        def decide(state: CatalogState) -> tuple[Change, None]:
            entry = state.api_keys.get(key_id)
            if entry is None:
                raise NotFoundError(
                    f"there is no API key with ID {key_id}; it was revoked, or never existed"
                )
            if entry.description.bootstrap:
                raise FailedPreconditionError(
                    f"API key {key_id} is the one that the coordinator was started with: replace"
                    " it in the file that bootstrap_key_file names, or start the coordinator"
                    " without that setting"
                )
            quotas = tuple(
                quota_id
                for quota_id, quota in state.quotas.items()
                if quota.subject.api_key_id == key_id
            )
            return Change(removed_api_keys=(key_id,), removed_quotas=quotas), None

        _, version = await self._changes.make(decide)
        await self._lifecycle.confirm(version)
        _log.info("api_key_revoked", key_id=key_id)

    async def set_bootstrap(self, key: ApiKey | None) -> None:
        """Let this be the one bootstrap key; None: there is none.

        Raises:
            AlreadyExistsError: Its ID is that of an ordinary key.
        """

        def decide(state: CatalogState) -> tuple[Change | None, bool]:
            former = {i: e for i, e in state.api_keys.items() if e.description.bootstrap}
            if key is None:
                return (Change(removed_api_keys=tuple(former)) if former else None), bool(former)
            known = state.api_keys.get(key.key_id)
            if known is not None and not known.description.bootstrap:
                raise AlreadyExistsError(
                    f"the bootstrap key's ID {key.key_id} is that of another API key: generate"
                    " another bootstrap key"
                )
            if known is not None and known.secret_sha256 == key.digest and len(former) == 1:
                return None, False
            description = admin_service_pb2.ApiKey(
                id=key.key_id, name="bootstrap", grants=[_EVERYTHING], bootstrap=True
            )
            removed = tuple(key_id for key_id in former if key_id != key.key_id)
            entry = self._entry(state, description, key.digest)
            return Change(api_keys=(entry,), removed_api_keys=removed), True

        has_changed, _ = await self._changes.make(decide)
        if has_changed:
            _log.info("bootstrap_key_set", key_id=None if key is None else key.key_id)

    def _entry(
        self, state: CatalogState, description: admin_service_pb2.ApiKey, secret_sha256: bytes
    ) -> ApiKeyEntry:
        entry = ApiKeyEntry(
            description=description,
            secret_sha256=secret_sha256,
            creation_number=state.next_creation_number,
        )
        entry.description.created_at.FromMicroseconds(int(self._now() * 1e6))
        return entry


class BootstrapKey:
    """Keeps the bootstrap key that of its file.

    Args:
        api_keys: Where it is set.
        path: The file; None: there is no bootstrap key.
    """

    def __init__(self, api_keys: ApiKeys, path: Path | None) -> None:
        self._api_keys = api_keys
        self._path = path
        self._content = b""

    async def start(self) -> None:
        """Set it from the file.

        Raises:
            InvalidArgumentError: The file cannot be read, or holds no key.
        """
        key = None
        if self._path is not None:
            self._content = await asyncio.to_thread(_read, self._path)
            key = _parse(self._path, self._content)
        await self._api_keys.set_bootstrap(key)

    async def follow(self) -> None:
        """Set it again whenever the file changes, until cancelled.

        A file that is gone, or holds no key, changes nothing: it may be about to be replaced.
        """
        problem = ""
        while self._path is not None:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                content = await asyncio.to_thread(_read, self._path)
                if content != self._content:
                    await self._api_keys.set_bootstrap(_parse(self._path, content))
                    self._content = content
                problem = ""
            except ShoalError as error:
                if error.message != problem:
                    problem = error.message
                    _log.warning("bootstrap_key_not_replaced", message=problem)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise InvalidArgumentError(
            f"bootstrap_key_file {path} cannot be read: {error.strerror}"
        ) from None


def _parse(path: Path, content: bytes) -> ApiKey:
    key = ApiKey.parse(content.decode("ascii", errors="replace").strip())
    if key is None:
        raise InvalidArgumentError(
            f"bootstrap_key_file {path} holds no API key: one line as `shoal keys generate` prints"
            " it would be right"
        )
    return key
