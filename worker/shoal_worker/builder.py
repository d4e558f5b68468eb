"""The builder: a process that makes graphs, so that nobody who searches waits for it.

``python -m shoal_worker.builder``, started by a worker, one at a time, for all its shards. It reads
jobs from its standard input and answers on its standard output; it opens no records. A job is a
line of JSON, then batches of vectors (a count, the keys, the numbers), then an empty batch. What
it makes is a checkpoint beside the shard's others, synced and renamed into place.

It ends when its standard input is closed, also in the middle of a job: whoever started it is gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from shoal.server.crash import crash_point
from shoal_worker.checkpoint_files import checkpoint_path
from shoal_worker.distances import Space
from shoal_worker.durable import rename_durably
from shoal_worker.graph import DamagedCheckpointError, Fit, GraphWriter, Quantization

__all__ = ["BATCH_HEADER", "Job", "main"]

BATCH_HEADER: Final = struct.Struct("<Q")

_NICENESS: Final = 5
"""Builds give way to searches where both want a core."""

_ADD_STEP: Final = 1024

_KEPT_S: Final = 30.0
"""How long the graph made last stays in memory after its job: while a shard is written to, its next
extension comes within this, and an idle worker does not pay for a graph twice."""


@dataclass(frozen=True, slots=True)
class Job:
    """One graph to make.

    Attributes:
        directory: The shard's.
        shard_id: The shard.
        dimension: Numbers in each vector.
        space: The distance.
        quantization: The graph's number type.
        max_neighbors: HNSW's M.
        ef_construction: Candidates considered when a vector is linked.
        base: Name of the checkpoint to extend; empty: begin anew.
        sequence: Every log entry up to here is covered.
        last_key: Every key up to here was considered.
    """

    directory: str
    shard_id: str
    dimension: int
    space: str
    quantization: str
    max_neighbors: int
    ef_construction: int
    base: str
    sequence: int
    last_key: int

    def encode(self) -> bytes:
        """Give the line that carries it."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @staticmethod
    def decode(line: bytes) -> Job:
        """Read the line that carries it."""
        return Job(**json.loads(line))

    @property
    def fit(self) -> Fit:
        """How the vectors lie in the graph."""
        return Fit(
            Space(self.space),
            Quantization(self.quantization),
            self.max_neighbors,
            self.ef_construction,
        )


def main() -> int:
    """Do jobs until the standard input ends, and give the exit code."""
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    last = _Last()
    while line := _next_line(source, last):
        answer = _answer(Job.decode(line), source, last)
        sink.write(json.dumps(answer).encode() + b"\n")
        sink.flush()
    return 0


class _Last:
    """The graph made last, as long as it may be the base of the next job.

    A shard that grows is extended again and again: keeping its graph spares each extension the
    verifying and loading of the checkpoint, 3.6 s of a million vectors.
    """

    def __init__(self) -> None:
        self._place: tuple[str, str] | None = None
        self._writer: GraphWriter | None = None

    def keep(self, job: Job, writer: GraphWriter) -> None:
        """Keep the graph whose checkpoint a job has written."""
        self._place = (job.directory, checkpoint_path(Path(job.directory), job.sequence).name)
        self._writer = writer

    def take(self, job: Job) -> GraphWriter | None:
        """Give the graph that a job extends, if it is this one; it is kept no longer."""
        writer, place = self._writer, self._place
        self.drop()
        return writer if job.base and place == (job.directory, job.base) else None

    def drop(self) -> None:
        """Let go of it."""
        self._place = self._writer = None


def _next_line(source: BinaryIO, last: _Last) -> bytes:
    """Wait for a job. Between two jobs nothing is in the buffer: the pipe itself says when."""
    if not select.select([source], [], [], _KEPT_S)[0]:
        last.drop()
    return source.readline()


def _end_with_parent() -> None:
    """End at once when the other end of the standard input is closed, whatever is under way."""
    poll = select.poll()
    # No event asked for: only the hang-up, which needs no asking, wakes it.
    poll.register(sys.stdin.fileno(), 0)
    poll.poll()
    os._exit(0)


def _answer(job: Job, source: BinaryIO, last: _Last) -> dict[str, object]:
    """Do a job. All of its batches are read whatever happens: the next job comes after them."""
    problem = ""
    writer = last.take(job)
    try:
        if writer is None:
            base = Path(job.directory) / job.base if job.base else None
            writer = GraphWriter(job.fit, job.dimension, job.shard_id, base)
    except DamagedCheckpointError as error:
        problem = f"the checkpoint to extend cannot be used: {error}"
    while batch := _read_batch(source, job.dimension):
        if writer is not None:
            keys, vectors = batch
            for first in range(0, len(keys), _ADD_STEP):
                writer.add(keys[first : first + _ADD_STEP], vectors[first : first + _ADD_STEP])
    if writer is None:
        return {"problem": problem}
    try:
        size = _write_checkpoint(job, writer)
    except OSError as error:
        return {"problem": f"the checkpoint cannot be written: {error}"}
    last.keep(job, writer)
    return {"problem": "", "vectors": len(writer), "bytes": size}


def _read_batch(
    source: BinaryIO, dimension: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]] | None:
    (count,) = BATCH_HEADER.unpack(source.read(BATCH_HEADER.size))
    if not count:
        return None
    keys = np.frombuffer(source.read(8 * count), np.uint64)
    vectors = np.frombuffer(source.read(4 * count * dimension), np.float32)
    return keys, vectors.reshape(count, dimension)


def _write_checkpoint(job: Job, writer: GraphWriter) -> int:
    frame, graph = writer.checkpoint(job.sequence, job.last_key)
    path = checkpoint_path(Path(job.directory), job.sequence)
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb") as file:
            file.write(frame)
            file.write(graph)
            file.flush()
            os.fsync(file.fileno())
        crash_point("checkpoint_written_aside")
        rename_durably(aside, path)
    except OSError:
        # What is half written helps nobody, least of all on a full disk.
        aside.unlink(missing_ok=True)
        raise
    crash_point("checkpoint_renamed")
    return len(frame) + len(graph)


if __name__ == "__main__":
    sys.exit(main())
