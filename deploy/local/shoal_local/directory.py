"""The data directory of a cluster on one machine: what lies where, and whose it is.

```
DIR/format          version of this layout
DIR/lock            held by whoever runs the cluster, with its process ID inside
DIR/run.json        what runs: roles, processes, ports (see `shoal_local.state`)
DIR/admin.key       the API key with all rights; only where `shoal up` asks for keys
DIR/coordinator/    the catalog
DIR/worker-1/ …     a worker's shards
DIR/snapshots/      the snapshot store, unless another one is set
```

`shoal up` with any number of workers and the embedded client share this layout, so that what the
one has written the other can open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import Final, Self

from shoal.errors import DataDirectoryLockedError, FailedPreconditionError
from shoal.server.durable import write_file_durably
from shoal.server.keys import ApiKey

__all__ = ["ADMIN_KEY", "DataDirectory", "is_held"]

ADMIN_KEY: Final = "admin.key"
"""Name of the file with the first API key."""

FORMAT: Final = 1
"""1: the first."""

# After `shoal up` was killed, its children take a moment to notice and to end.
_ORPHANS_END_S: Final = 15.0
_POLL_S: Final = 0.05


class DataDirectory:
    """A data directory, held by this process until it is closed.

    Args:
        path: Made if it is not there.

    Raises:
        DataDirectoryLockedError: Another process holds it.
        FailedPreconditionError: It was written by a newer Shoal, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock_descriptor = os.open(
                self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise FailedPreconditionError(
                f"the data directory {self.path} cannot be used: {error.strerror}",
                metadata={"path": str(self.path)},
            ) from None
        try:
            self._lock()
            self._check_format()
        except BaseException:
            os.close(self.lock_descriptor)
            raise

    def _lock(self) -> None:
        """Take the lock. A holder that is dead has left children, which are waited for."""
        give_up_at = time.monotonic() + _ORPHANS_END_S
        while True:
            try:
                fcntl.flock(self.lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(self.lock_descriptor, 32, 0).decode().strip()
                if _is_alive(holder) or time.monotonic() > give_up_at:
                    raise DataDirectoryLockedError(
                        f"the data directory {self.path} is in use by process {holder or '?'}: "
                        "stop that, or use another directory",
                        metadata={"path": str(self.path), "process": holder},
                    ) from None
                time.sleep(_POLL_S)
        os.ftruncate(self.lock_descriptor, 0)
        os.pwrite(self.lock_descriptor, f"{os.getpid()}\n".encode(), 0)

    def _check_format(self) -> None:
        file = self.path / "format"
        try:
            found = file.read_text(encoding="ascii", errors="backslashreplace").strip()
        except FileNotFoundError:
            # Whole or not there: an empty one, left by a power cut, would be refused for ever.
            write_file_durably(file, f"{FORMAT}\n".encode())
            return
        if found != str(FORMAT):
            raise FailedPreconditionError(
                f"the data directory {self.path} has format {found!r}; this Shoal knows {FORMAT}: "
                "use the release that wrote it, or a newer one",
                metadata={"path": str(self.path), "format": found},
            )

    @property
    def coordinator(self) -> Path:
        """Directory of the coordinator."""
        return self.path / "coordinator"

    @property
    def snapshots(self) -> Path:
        """Directory of snapshots and backups, unless they lie elsewhere."""
        return self.path / "snapshots"

    def admin_key(self) -> Path:
        """Give the file with the first API key; made if it is not there, readable by its owner."""
        path = self.path / ADMIN_KEY
        if not path.exists():
            # Beside and renamed: a file that is there holds a whole key.
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{ApiKey.generate().text}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        return path

    def worker(self, number: int) -> Path:
        """Directory of a worker, counted from 1."""
        return self.path / f"worker-{number}"

    def worker_numbers(self) -> list[int]:
        """Which workers have left something here, ascending."""
        return sorted(
            int(found[1])
            for child in self.path.iterdir()
            if child.is_dir() and (found := re.fullmatch(r"worker-([1-9]\d*)", child.name))
        )

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(OSError):  # closed already
            os.close(self.lock_descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_held(path: Path) -> bool:
    """Whether some process holds a data directory."""
    try:
        descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_alive(process: str) -> bool:
    if not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process that its parent has not yet fetched holds no file any more.
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2]
        return not state.lstrip().startswith("Z")
    return True
