"""Puts the copies of a cut into the snapshot store, behind the calls that ask for it.

A copy that the store has already, of an earlier snapshot of the same shard and sequence, is not put
again, nor even written if its turn has not come yet. Objects carry their SHA-256 in their keys: one
that is there, by this or an interrupted attempt, is whole and the same.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from shoal.errors import OverloadedError, ShoalError, UnavailableError
from shoal.internal.v1.snapshot_pb2 import StoredObject, StoredShard
from shoal.server import logs
from shoal.server.crash import crash_point
from shoal.server.objects import ObjectStore, open_store
from shoal_worker import metrics
from shoal_worker.copies import COPY_FORMAT

if TYPE_CHECKING:
    from shoal_worker.copying import Copy
    from shoal_worker.cuts import CutPart, WorkerCut

__all__ = ["Storing"]

_logger: Final = logs.get_logger(__name__)


class _ReleasedError(Exception):
    """Nobody wants the cut any more."""


class Storing:
    """Stores one cut, on a thread.

    Args:
        cut: The cut.
        url: Of the store.
        known: Copies that are in the store.
        before: An attempt that failed, whose work is not done again.
    """

    def __init__(
        self, cut: WorkerCut, url: str, known: Sequence[StoredShard], before: Storing | None
    ) -> None:
        self._cut = cut
        self._url = url
        self._known = {shard.shard_id: shard for shard in known}
        self._lock = threading.Lock()
        self._stored: dict[str, StoredShard] = dict(before._stored) if before else {}
        self._error: ShoalError | None = None
        self._is_over = False
        self.stored_bytes: int = before.stored_bytes if before else 0

    # For who asks.

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on any more."""
        return self._is_over

    @property
    def is_done(self) -> bool:
        """Whether everything is stored."""
        return self._is_over and self._error is None

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without everything being stored."""
        return self._error is not None

    def check(self) -> None:
        """Raise why it failed, if it has.

        Raises:
            ShoalError: Why.
        """
        if self._error is not None:
            raise self._error

    def shards(self) -> list[StoredShard]:
        """Give what is stored so far, in the order of the cut."""
        with self._lock:
            return [self._stored[i] for i in self._cut.parts if i in self._stored]

    # The thread.

    def run(self) -> None:
        """Store what is not stored yet."""
        try:
            store = open_store(self._url)
            rest = {i: part for i, part in self._cut.parts.items() if i not in self._stored}
            for shard_id, part in rest.items():
                self._reuse(store, shard_id, part)
            for shard_id, part in rest.items():
                if shard_id not in self._stored:
                    self._put(store, shard_id, part)
        except _ReleasedError:
            pass
        except ShoalError as error:
            self._error = error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = OverloadedError if full else UnavailableError
            self._error = kind(f"copies of shards cannot be stored: {error}")
        finally:
            if self._error is not None:
                _logger.warning("cut_not_stored", cut_id=self._cut.cut_id, error=str(self._error))
            self._is_over = True

    def _reuse(self, store: ObjectStore, shard_id: str, part: CutPart) -> None:
        """Take the copy that the store has of the same state, if it has."""
        known, meta = self._known.get(shard_id), part.meta
        if (
            known is None
            or (known.sequence, known.record_count, known.last_ordinal)
            != (meta.sequence, meta.record_count, meta.last_ordinal)
            or known.format > COPY_FORMAT
            or store.size(known.records.key) != known.records.size_bytes
        ):
            return
        part.is_known = True
        metrics.REUSED_COPIES.inc()
        # The buckets are the coordinator's to say: they may have been dealt out anew.
        self._note(shard_id, known)

    def _put(self, store: ObjectStore, shard_id: str, part: CutPart) -> None:
        copy = part.copied.result()
        if copy is None or self._cut.is_released:
            raise _ReleasedError
        meta = part.meta
        stored = StoredShard(
            shard_id=shard_id,
            sequence=meta.sequence,
            record_count=meta.record_count,
            last_ordinal=meta.last_ordinal,
            records=StoredObject(
                key=self._key(shard_id, meta.sequence, copy),
                size_bytes=copy.size_bytes,
                sha256=copy.sha256,
            ),
            format=COPY_FORMAT,
        )
        if store.size(stored.records.key) != copy.size_bytes:
            store.put_file(stored.records.key, copy.path, copy.sha256, self._passed)
            metrics.STORED_BYTES.inc(copy.size_bytes)
        crash_point("shard_stored")
        self._note(shard_id, stored)
        # What is stored need not lie here, too.
        copy.path.unlink(missing_ok=True)

    def _key(self, shard_id: str, sequence: int, copy: Copy) -> str:
        return f"{self._cut.cluster_id}/objects/{shard_id}/records-{sequence}-{copy.sha256.hex()}"

    def _passed(self, byte_count: int) -> None:
        if self._cut.is_released:
            raise _ReleasedError
        self.stored_bytes += byte_count

    def _note(self, shard_id: str, stored: StoredShard) -> None:
        with self._lock:
            self._stored[shard_id] = stored
