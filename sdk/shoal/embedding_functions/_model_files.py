"""Find a model's files on this machine, or download them once.

A download is used only if its SHA-256 is the pinned one, and is checked again each time it is
loaded from the cache: a cache is never trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from shoal.embedding_functions._encoder import check_directory
from shoal.errors import DataLossError, FailedPreconditionError, UnavailableError

__all__ = ["ModelFile", "ModelSource", "find_model"]

DIRECTORY_VARIABLE: Final = "SHOAL_MODEL_DIR"
URL_VARIABLE: Final = "SHOAL_MODEL_URL"

_TIMEOUT_S: Final = 30.0
"""For a connection, and for each block of an answer: a slow line may take its time."""

_BLOCK_BYTES: Final = 1 << 20

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model.

    Attributes:
        name: Below the source's URL, and in the cache.
        size_bytes: Its exact size.
        sha256: Its SHA-256 in hexadecimal.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: Of the model, and of its directory in the cache.
        url: The directory of its files.
        homepage: Where a person finds it.
        files: All that is needed.
    """

    name: str
    url: str
    homepage: str
    files: tuple[ModelFile, ...]


def find_model(source: ModelSource, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of a model, downloading it if need be.

    In this order: the directory that ``SHOAL_MODEL_DIR`` names, which is taken as it is; the cache
    (``$XDG_CACHE_HOME/shoal/models``, by default below ``~/.cache``); a download into the cache,
    from ``SHOAL_MODEL_URL`` if that is set.

    Raises:
        FailedPreconditionError: ``SHOAL_MODEL_DIR`` does not hold a model, or the cache cannot be
            written.
        UnavailableError: It is not here and cannot be downloaded; says how to get it.
        DataLossError: What was downloaded is not what is expected.
    """
    named = environ.get(DIRECTORY_VARIABLE)
    if named:
        directory = Path(named).expanduser()
        try:
            check_directory(directory)
        except FailedPreconditionError as error:
            raise FailedPreconditionError(f"{DIRECTORY_VARIABLE}: {error}") from error
        return directory
    directory = _cache_directory(environ) / source.name
    for file in source.files:
        if not _is_whole(directory / file.name, file):
            _download(source, file, directory, environ.get(URL_VARIABLE) or source.url)
    return directory


def _cache_directory(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shoal" / "models"


def _is_whole(path: Path, file: ModelFile) -> bool:
    try:
        with path.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size != file.size_bytes:
                return False
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    except OSError:
        # Not there, or not readable: then it is fetched, and that says what is in the way.
        return False


def _download(source: ModelSource, file: ModelFile, directory: Path, base_url: str) -> None:
    url = f"{base_url.rstrip('/')}/{file.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Beside it and renamed when it is whole, so that processes may do this at the same time.
        opened = tempfile.NamedTemporaryFile(dir=directory, prefix=file.name, delete=False)  # noqa: SIM115
    except OSError as error:
        raise FailedPreconditionError(
            f"the model {source.name} cannot be kept in {directory}: {error}; "
            f"set XDG_CACHE_HOME to a directory that can be written"
        ) from error
    _log.info("downloading %s (%.1f MB) to %s", url, file.size_bytes / 1e6, directory)
    try:
        with opened:
            digest = _fetch(url, file, opened, source)
        if digest != file.sha256:
            raise DataLossError(
                f"{url} gave a file with SHA-256 {digest}, expected {file.sha256}; it is not used"
            )
        Path(opened.name).replace(directory / file.name)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(opened.name).unlink()
        raise


def _fetch(url: str, file: ModelFile, target: IO[bytes], source: ModelSource) -> str:
    """Write what a URL gives, never more than is expected, and return its SHA-256."""
    # Loaded when there is something to fetch: everybody imports this module.
    import http.client
    import urllib.request

    digest = hashlib.sha256()
    written = 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            while block := answer.read(min(_BLOCK_BYTES, file.size_bytes + 1 - written)):
                written += len(block)
                digest.update(block)
                target.write(block)
    # A URLError, a timeout and a lost connection are OSErrors; a disk that is full is one, too,
    # and its message says so.
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"the model {source.name} is not on this machine, and downloading it failed: "
            f"{url}: {error}. {_how_to_get(source)}",
            metadata={"address": url},
        ) from error
    if written != file.size_bytes:
        least = "more than " if written > file.size_bytes else ""
        raise DataLossError(
            f"{url} gave {least}{min(written, file.size_bytes)} bytes, expected {file.size_bytes}; "
            f"they are not used"
        )
    return digest.hexdigest()


def _how_to_get(source: ModelSource) -> str:
    names = " and ".join(file.name for file in source.files)
    return (
        f"To use it offline, put {names} of {source.homepage} into a directory, and name that "
        f"directory in the environment variable {DIRECTORY_VARIABLE}; for a mirror, set "
        f"{URL_VARIABLE}; or give embeddings instead of texts"
    )
