"""What a worker can be told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shoal.server.settings import RoleSettings, setting
from shoal.wire.limits import DEFAULT_LIMITS

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(RoleSettings):
    """The settings of the role `worker`."""

    data_dir: Path = setting(
        Path("shoal-worker-data"), help="Directory of the shards; one process may use it."
    )
    coordinator: str = setting("127.0.0.1:7710", help="host:port of the coordinator.")
    advertise: str | None = setting(
        None, help="host:port at which others reach this worker; by default where it listens."
    )
    max_open_shards: int = setting(
        2048,
        help="Shards whose files are open at a time; the one unused for longest is closed.",
        minimum=1,
        maximum=65536,
    )
    close_after_s: int = setting(
        60,
        help="Seconds without use after which a small shard is closed; opening it again takes some"
        " milliseconds.",
        minimum=1,
        maximum=10 * 365 * 24 * 60 * 60,
    )
    memory_bytes: int = setting(
        4 * 1024 * 1024 * 1024,
        help="Vectors outside of graphs that open shards may hold in memory, bytes; half of it one"
        " shard whose graph and vector file are lost.",
        minimum=1024 * 1024,
    )
    max_answer_bytes: int = setting(
        DEFAULT_LIMITS.max_answer_bytes, help="Bytes of one shard's answer.", minimum=1024
    )
    read_threads: int = setting(
        min(8, 2 + (os.cpu_count() or 1)),
        help="Threads for reads that would hold up the event loop.",
        minimum=1,
        maximum=256,
    )
    commit_threads: int = setting(
        4, help="Threads that commit; one at a time for each shard.", minimum=1, maximum=256
    )
    erase_after_s: int = setting(
        60 * 60,
        help="Seconds after which what was deleted or replaced is removed from the files, too.",
        minimum=0,
        maximum=10 * 365 * 24 * 60 * 60,
    )
