"""A snapshot store in an object store: whatever `obstore` reaches, S3, GCS, Azure and their kind.

Credentials and endpoints come from the environment as obstore reads it (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, …), or from the machine's
role.

A large object goes in parts, each of which S3 checks by a SHA-256 of its own, and is there when the
last is: a reader never finds a part of it. What comes back is checked by the whole object's
SHA-256. Parts of interrupted puts cannot be listed by `obstore`: a rule of the bucket that ends
incomplete uploads after some days removes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shoal.errors import (
    DataLossError,
    FailedPreconditionError,
    ShoalError,
    UnavailableError,
)
from shoal.server.crash import crash_point
from shoal.server.objects import (
    ObjectInfo,
    Progress,
    check_key,
    damaged_object,
    missing_object,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Reached

__all__ = ["RemoteStore"]

_PART_BYTES: Final = 16 * 1024 * 1024
"""Of an upload: at most 10,000 parts go into an object, which may so have 156 GiB."""

_PARTS_AT_ONCE: Final = 4
"""In memory and on their way."""

_BLOCK_BYTES: Final = 4 * 1024 * 1024

_REQUEST_TIMEOUT: Final = "120s"
_CONNECT_TIMEOUT: Final = "5s"
_MAX_RETRIES: Final = 5
_RETRY_TIMEOUT_S: Final = 60
"""A store that is away for longer is reported, and the call repeated by who made it."""


class RemoteStore:
    """``shoal.server.objects.ObjectStore`` beyond a network.

    Args:
        url: For example ``s3://bucket/prefix``.

    Raises:
        FailedPreconditionError: If `obstore` is not installed, or does not understand the URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            import obstore
            from obstore import exceptions, store
        except ImportError as error:
            raise FailedPreconditionError(
                f"the snapshot store {url} needs a package: pip install 'shoal[objects]'"
            ) from error
        self._api = obstore
        self._errors = exceptions
        given: dict[str, Any] = {}
        if urlsplit(url).scheme in ("s3", "s3a"):
            given["checksum_algorithm"] = "sha256"
        with self._failures(""):
            self._store: Reached = store.from_url(
                url,
                client_options={
                    "timeout": _REQUEST_TIMEOUT,
                    "connect_timeout": _CONNECT_TIMEOUT,
                    # An endpoint without TLS is used where one is named, and nowhere else.
                    "allow_http": True,
                },
                retry_config={
                    "max_retries": _MAX_RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_TIMEOUT_S),
                },
                **given,
            )

    @property
    def url(self) -> str:
        """What it was opened by."""
        return self._url

    # Putting.

    def put_file(
        self, key: str, path: Path, sha256: bytes, progress: Progress | None = None
    ) -> None:
        """Put a file's content."""
        check_key(key)
        with self._failures(key, is_put=True):
            # Ends with an error before the last part if the content is not what it was: then there
            # is no object.
            self._api.put(
                self._store,
                key,
                _checked_parts(path, sha256, progress),
                use_multipart=True,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
            crash_point("object_renamed")
        size = path.stat().st_size
        stored = self.size(key)
        if stored != size:
            raise damaged_object(self._url, key, f"{stored} of {size} bytes are there")

    def put_bytes(self, key: str, content: bytes) -> None:
        """Put a small object."""
        check_key(key)
        with self._failures(key, is_put=True):
            self._api.put(self._store, key, content, use_multipart=False)

    # Getting.

    def get_to_file(
        self,
        key: str,
        path: Path,
        size_bytes: int,
        sha256: bytes,
        progress: Progress | None = None,
    ) -> None:
        """Get an object into a file, and verify it."""
        check_key(key)
        digest = hashlib.sha256()
        with self._failures(key):
            result = self._api.get(self._store, key)
            size = result.meta["size"]
            if size != size_bytes:
                how = f"it has {size} bytes instead of {size_bytes}"
                raise damaged_object(self._url, key, how)
            with path.open("wb") as file:
                for block in result.stream(min_chunk_size=_BLOCK_BYTES):
                    content = memoryview(block)
                    digest.update(content)
                    file.write(content)
                    if progress:
                        progress(len(content))
        if digest.digest() != sha256:
            raise damaged_object(self._url, key, "its SHA-256 is another one")

    def get_bytes(self, key: str) -> bytes:
        """Get a small object."""
        check_key(key)
        with self._failures(key):
            return bytes(self._api.get(self._store, key).bytes())

    def size(self, key: str) -> int | None:
        """Give an object's bytes; None if there is none."""
        check_key(key)
        with self._failures(key):
            try:
                return int(self._api.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.size(key) is not None

    def local_path(self, key: str) -> Path | None:
        """Give None: it is on no disk of ours."""
        return None

    # All of them.

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Give the objects beneath a prefix, in no order."""
        with self._failures(prefix):
            for batch in self._api.list(self._store, prefix or None):
                for found in batch:
                    at_ms = int(found["last_modified"].timestamp() * 1000)
                    yield ObjectInfo(found["path"], found["size"], at_ms)

    def delete(self, key: str) -> None:
        """Remove an object."""
        check_key(key)
        with self._failures(key):
            try:
                self._api.delete(self._store, key)
            except FileNotFoundError:
                return

    @contextmanager
    def _failures(self, key: str, *, is_put: bool = False) -> Iterator[None]:
        """Say what a failure of the store means."""
        facts = {"object": key, "store": self._url}
        errors = self._errors
        try:
            yield
        except ShoalError:
            raise
        except FileNotFoundError as error:
            if is_put:
                raise FailedPreconditionError(
                    f"the snapshot store {self._url} does not exist: {_first_line(error)}",
                    metadata=facts,
                ) from error
            raise missing_object(self._url, key) from error
        except (
            errors.PermissionDeniedError,
            errors.UnauthenticatedError,
            errors.InvalidPathError,
            errors.NotSupportedError,
            errors.UnknownConfigurationKeyError,
            PermissionError,
        ) as error:
            raise FailedPreconditionError(
                f"the snapshot store {self._url} does not let us in: {_first_line(error)}",
                metadata=facts,
            ) from error
        except (errors.BaseError, OSError) as error:
            raise UnavailableError(
                f"the snapshot store {self._url} fails: {_first_line(error)}", metadata=facts
            ) from error


def _checked_parts(path: Path, sha256: bytes, progress: Progress | None) -> Iterator[bytes]:
    """Give a file's content, the last part only if all of it has this SHA-256.

    Raises:
        DataLossError: If it has another one.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        block = file.read(_BLOCK_BYTES)
        while block:
            digest.update(block)
            following = file.read(_BLOCK_BYTES)
            if not following and digest.digest() != sha256:
                raise DataLossError(
                    f"{path} does not have its SHA-256 any more: it was damaged on its disk"
                )
            yield block
            if progress:
                progress(len(block))
            block = following


def _first_line(error: BaseException) -> str:
    """Give what an error says, without the report that obstore appends."""
    return str(error).split("\n\nDebug source", 1)[0].strip()
