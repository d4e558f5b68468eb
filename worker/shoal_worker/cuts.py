"""A cut of a worker's shards, behind its point in time: what was cut, and the copies of it."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal.errors import ShoalError, UnavailableError
from shoal.server import logs
from shoal.server.crash import crash_point
from shoal_worker import metrics
from shoal_worker.copying import Copy, Throttle, copy_shard
from shoal_worker.shard import Cut
from shoal_worker.store import Meta, Store
from shoal_worker.storing import Storing

__all__ = ["CutPart", "WorkerCut"]

_logger: Final = logs.get_logger(__name__)


@dataclass(slots=True)
class CutPart:
    """One shard of a cut.

    Attributes:
        shard_id: The shard.
        meta: What it knew about itself.
        source: What is copied; None when that is done, for then the shard may be closed.
        copied: Its copy, once it is written; None if it was not needed.
        is_known: Whether the store has a copy of it, so that none is needed.
    """

    shard_id: str
    meta: Meta
    source: tuple[Cut, Store] | None
    copied: Future[Copy | None] = field(default_factory=Future)
    is_known: bool = False


class WorkerCut:
    """A cut: its parts, and what is done with them.

    Attributes:
        parts: By shard, in the order of the call.
        directory: Where the copies lie.
        is_released: Whether nobody wants it any more.
    """

    def __init__(self, cut_id: str, cluster_id: str, parts: dict[str, CutPart], directory: Path):
        self.cut_id = cut_id
        self.cluster_id = cluster_id
        self.parts = parts
        self.directory = directory
        self.is_released = False
        self.in_use = contextlib.ExitStack()
        self.copied_all: Future[None] = Future()
        self.storing: Storing | None = None
        self.asked_at = time.monotonic()

    def copy_all(self) -> None:
        """Write the copies, small ones first, whose readers then need not stand for long."""
        throttle = Throttle()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for part in sorted(self.parts.values(), key=lambda p: p.meta.record_count):
                self._copy(part, throttle)
        except OSError as error:
            for part in self.parts.values():
                if not part.copied.done():
                    part.copied.set_exception(
                        UnavailableError(f"copies of shards cannot be written: {error}")
                    )
        finally:
            for part in self.parts.values():
                _let_go_of(part)
                if not part.copied.done():
                    part.copied.set_result(None)
            self.in_use.close()
            self.copied_all.set_result(None)

    def _copy(self, part: CutPart, throttle: Throttle) -> None:
        begin = time.perf_counter()
        assert part.source is not None
        cut, store = part.source
        try:
            copy = copy_shard(
                cut,
                store,
                self.directory / part.shard_id,
                lambda: self.is_released or part.is_known,
                throttle,
            )
        except ShoalError as error:
            part.copied.set_exception(error)
            _logger.warning("shard_not_copied", shard_id=part.shard_id, error=str(error))
            return
        finally:
            _let_go_of(part)
        crash_point("shard_copied")
        part.copied.set_result(copy)
        if copy is not None:
            metrics.COPIED_BYTES.inc(copy.size_bytes)
            _logger.info(
                "shard_copied",
                shard_id=part.shard_id,
                sequence=part.meta.sequence,
                size_bytes=copy.size_bytes,
                seconds=round(time.perf_counter() - begin, 3),
            )


def _let_go_of(part: CutPart) -> None:
    if part.source is not None:
        part.source[0].reader.close()
        part.source = None
