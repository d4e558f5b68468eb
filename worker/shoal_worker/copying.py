"""Writes local copies of shards that were cut, one after another, on a thread of its own.

A copy is read in steps of some milliseconds from a standing reader, so that neither searches nor
writers wait for it; between the steps the thread sleeps for as long as it was kept waiting, and
some more: on a busy worker it gives way, on an idle one it goes at full speed.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb

from shoal.errors import DataLossError, FailedPreconditionError, OverloadedError, UnavailableError
from shoal.internal.v1.storage_pb2 import CopyHeader
from shoal.server.crash import crash_point
from shoal_worker.copies import COPY_FORMAT, CopyWriter, next_entry
from shoal_worker.environment import StandingReaderEndedError
from shoal_worker.sealed import DamagedValueError
from shoal_worker.shard import Cut
from shoal_worker.store import Store

__all__ = ["Copy", "Throttle", "check_disk", "copy_shard", "disk_full"]

_FREE_BYTES_BESIDE: Final = 256 * 1024 * 1024
"""Disk that stays free besides copies: more than writers need, who go first."""

_GIVE_WAY: Final = 1.0
"""How many times as long as it was kept waiting a thread sleeps."""

_LONGEST_PAUSE_S: Final = 0.02
"""For the reader stands meanwhile, and pages that it may read are not used again."""

_LOOK_EVERY_BYTES: Final = 16 * 1024 * 1024
"""How often the disk is looked at."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A local copy.

    Attributes:
        path: Its file.
        size_bytes: Bytes of it.
        sha256: Of its content.
    """

    path: Path
    size_bytes: int
    sha256: bytes


class Throttle:
    """Gives way to others: see the module. Made on the thread that is to give way.

    Args:
        pause_share: Of the time of a step, how much is slept after it in any case.
        sleep: Waits so many seconds.
    """

    def __init__(
        self, pause_share: float = 0.25, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._pause_share = pause_share
        self._sleep = sleep
        self._wall = time.perf_counter()
        self._cpu = time.thread_time()

    def pause(self) -> None:
        """End a step."""
        cpu = max(0.0, time.thread_time() - self._cpu)
        waited = max(0.0, time.perf_counter() - self._wall - cpu)
        self._sleep(min(_LONGEST_PAUSE_S, self._pause_share * cpu + _GIVE_WAY * waited))
        self._wall, self._cpu = time.perf_counter(), time.thread_time()


def disk_full(directory: Path) -> OverloadedError:
    """Make the error for a disk on which there is no room for copies."""
    return OverloadedError(
        f"the disk of {directory} has no room for copies of shards: {_FREE_BYTES_BESIDE} bytes "
        "must stay free"
    )


def check_disk(directory: Path) -> None:
    """Refuse to fill the disk.

    Raises:
        OverloadedError: If it is nearly full.
    """
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize < _FREE_BYTES_BESIDE:
        raise disk_full(directory)


def copy_shard(
    cut: Cut, store: Store, path: Path, is_cancelled: Callable[[], bool], throttle: Throttle
) -> Copy | None:
    """Write the copy of one shard.

    Args:
        cut: The shard at its point in time; its reader is left open.
        store: The shard's schema.
        path: The file to write.
        is_cancelled: Whether nobody wants the copy any more.
        throttle: Called between the steps.

    Returns:
        The copy; None if it was cancelled.

    Raises:
        FailedPreconditionError: If the shard was closed under it.
        DataLossError: If its records are damaged.
        OverloadedError: If the disk is full.
        UnavailableError: If the disk fails.
    """
    meta = cut.meta
    shard_id = str(meta.shard_id)
    facts = {"shard_id": shard_id}
    header = CopyHeader(
        format=COPY_FORMAT,
        cluster_id=str(meta.cluster_id),
        shard_id=shard_id,
        sequence=meta.sequence,
        record_count=meta.record_count,
        last_ordinal=meta.last_ordinal,
        dimension=meta.dimension,
    )
    try:
        check_disk(path.parent)
        writer = CopyWriter(path, header)
        try:
            count = row = looked_at = 0
            while not is_cancelled():
                with cut.reader.step() as txn:
                    entry, row = next_entry(txn, store, meta.dimension, row)
                if not entry.puts.ids:
                    break
                writer.add(entry)
                count += len(entry.puts.ids)
                crash_point("shard_copying")
                if writer.size_bytes - looked_at > _LOOK_EVERY_BYTES:
                    looked_at = writer.size_bytes
                    check_disk(path.parent)
                throttle.pause()
            else:
                return None
            if count != meta.record_count:
                raise DamagedValueError(f"{count} records were found of {meta.record_count}")
            sha256 = writer.finish()
            return Copy(path, writer.size_bytes, sha256)
        finally:
            writer.close()
    except StandingReaderEndedError as error:
        raise FailedPreconditionError(
            f"shard {shard_id} could not be copied to its end: {error}", metadata=facts
        ) from error
    except (DamagedValueError, lmdb.Error) as error:
        raise DataLossError(f"shard {shard_id}: {error}", metadata=facts) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path.parent) from error
        raise UnavailableError(
            f"a copy of shard {shard_id} cannot be written: {error}", metadata=facts
        ) from error
