"""The builder: a process that makes graphs, so that nobody who searches waits for it.

``python -m shoal_worker.builder``, started by a worker, one at a time, for all its shards. It reads
jobs from its standard input and answers on its standard output; it opens no records. A job is a
line of JSON, then batches of vectors (a count, their heads, the numbers), then an empty batch. What
it makes is a file of the exact vectors, begun or continued, and a checkpoint beside the shard's
others, synced and renamed into place.

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
from shoal.server.durable import rename_durably
from shoal_worker.checkpoint_files import checkpoint_path, vector_file_path
from shoal_worker.distances import Space
from shoal_worker.graph import DamagedCheckpointError, Fit, GraphWriter, Quantization
from shoal_worker.vector_file import HEAD_WORDS, DamagedVectorsError, VectorFileWriter

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
        vector_file: The sequence in the name of the file of exact vectors.
        kept: Vectors of the base, which that file holds; 0: it is begun.
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
    vector_file: int
    kept: int

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


class _Making:
    """A graph and its file of vectors under construction.

    Raises:
        DamagedCheckpointError: If the graph to extend cannot be used.
        DamagedVectorsError: If its vectors cannot.
        OSError: If the disk fails or is full.
    """

    def __init__(self, job: Job, writer: GraphWriter | None) -> None:
        self._job = job
        directory = Path(job.directory)
        if writer is None:
            base = directory / job.base if job.base else None
            writer = GraphWriter(job.fit, job.dimension, job.shard_id, base)
        self.writer = writer
        path = vector_file_path(directory, job.vector_file)
        self._vectors = VectorFileWriter(path, job.shard_id, job.dimension, job.kept)

    def add(self, heads: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]) -> None:
        """Take in vectors."""
        for first in range(0, len(heads), _ADD_STEP):
            part = slice(first, first + _ADD_STEP)
            self._vectors.add(heads[part], vectors[part])
            self.writer.add(heads[part, 0], vectors[part])

    def finish(self) -> int:
        """Put both files into their places, and give the bytes written."""
        size = self._vectors.finish()
        crash_point("vectors_written")
        return size + _write_checkpoint(self._job, self.writer)

    def discard(self) -> None:
        """Take back what can be taken back."""
        try:
            self._vectors.discard()
        except OSError:
            return  # the next extension of the file cuts it off


def _answer(job: Job, source: BinaryIO, last: _Last) -> dict[str, object]:
    """Do a job. All of its batches are read whatever happens: the next job comes after them."""
    problem, base_refused = "", False
    making: _Making | None = None
    try:
        making = _Making(job, last.take(job))
    except (DamagedCheckpointError, DamagedVectorsError) as error:
        problem, base_refused = f"what to extend cannot be used: {error}", True
    except OSError as error:
        problem = f"the vectors cannot be written: {error}"
    while batch := _read_batch(source, job.dimension):
        if making is not None and not problem:
            try:
                making.add(*batch)
            except OSError as error:
                problem = f"the vectors cannot be written: {error}"
    size = 0
    if making is not None and not problem:
        try:
            size = making.finish()
        except OSError as error:
            problem = f"the checkpoint cannot be written: {error}"
    if making is None or problem:
        if making is not None:
            making.discard()
        return {"problem": problem, "base_refused": base_refused}
    last.keep(job, making.writer)
    return {"problem": "", "vectors": len(making.writer), "bytes": size}


def _read_batch(
    source: BinaryIO, dimension: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]] | None:
    (count,) = BATCH_HEADER.unpack(source.read(BATCH_HEADER.size))
    if not count:
        return None
    heads = np.frombuffer(source.read(8 * HEAD_WORDS * count), np.uint64)
    vectors = np.frombuffer(source.read(4 * count * dimension), np.float32)
    return heads.reshape(count, HEAD_WORDS), vectors.reshape(count, dimension)


def _write_checkpoint(job: Job, writer: GraphWriter) -> int:
    parts = writer.checkpoint(job.sequence, job.last_key, job.vector_file)
    path = checkpoint_path(Path(job.directory), job.sequence)
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb") as file:
            for part in parts:
                content, half = memoryview(part), len(part) // 2
                file.write(content[:half])
                file.flush()
                crash_point("checkpoint_half_written")
                file.write(content[half:])
            file.flush()
            os.fsync(file.fileno())
        crash_point("checkpoint_written_aside")
        rename_durably(aside, path)
    except OSError:
        # What is half written helps nobody, least of all on a full disk.
        aside.unlink(missing_ok=True)
        raise
    crash_point("checkpoint_renamed")
    return sum(len(part) for part in parts)


if __name__ == "__main__":
    sys.exit(main())
