"""USearch: graphs as immutable views, and how they are built. The only module that imports usearch.

What USearch 2.26 does, and what is done about it here:

- One mutex for the whole index: an `add` blocks every search. So a graph that is searched is never
  changed; it is a view of a checkpoint, and building happens in a process of its own (`builder`).
- `add` with several threads leaves vectors that no search can reach (unum-cloud/usearch#735):
  building uses one.
- A flipped bit loads silently, or crashes the process at a search: a checkpoint is verified before
  USearch sees a byte of it (`checkpoint_format`).
- `load` silently takes the file's dimension and type: its metadata is compared with what is
  expected.
- `load` and `view` reset nothing we rely on, but `restore` forgets the expansion: it is not used,
  and the expansion is set after opening.
- NaN and infinity are accepted, f16 overflows beyond 65,504, and squared distances overflow near
  1e19: `Fit.holds` says which vectors a graph must not take.
- Keys are uint64 arrays, never lists; 2^64 - 1 is its tombstone and refused; a batch with a
  duplicate is half applied, so keys must rise.
- `threads=0` means all cores, `dtype=None` depends on the hardware: both are always given.
- Its public `search` returns another type for one query than for two; the compiled one does not,
  and costs 10 µs less.
- Its wheel has a C++ library of its own. If it comes before the system's, whatever is loaded later
  and needs that one crashes at its import, as ONNX Runtime does in an embedded client: gRPC, which
  loads the system's, is imported first.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import grpc  # noqa: F401 - see above
import numpy as np
import numpy.typing as npt
from usearch.compiled import Index as CompiledIndex
from usearch.compiled import MetricKind, MetricSignature, ScalarKind
from usearch.index import Index

from shoal.internal.v1.storage_pb2 import CheckpointHeader
from shoal_worker.checkpoint_format import (
    CheckpointContent,
    DamagedCheckpointError,
    checkpoint_parts,
    read_checkpoint,
)
from shoal_worker.distances import Space, norms
from shoal_worker.stored import Stored, stored_vectors

__all__ = [
    "DamagedCheckpointError",
    "Fit",
    "Graph",
    "GraphWriter",
    "Quantization",
]

_MAX_KEY: Final = 2**64 - 2

_LARGEST_NORM: Final = 1e18
"""Norm up to which a squared distance between two vectors stays far from float32's limit
(3.4e38)."""

_SMALLEST_SQUARE: Final = 1e-18
_LARGEST_SQUARE: Final = 1e18
"""Of a query's squared norm, between which it may be compared as it is."""

_LARGEST_F16: Final = 65_504.0


class Quantization(Enum):
    """The number type in which a graph holds its vectors."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I8 = "i8"


DEFAULT_QUANTIZATION: Final = Quantization.BF16
"""Measured on 30,000 MiniLM vectors of 384, one thread, M 16, ef 100, of the ten nearest among the
20 that are ranked exactly: bf16 .993 at 158-180 µs a query and 8.0-8.7 k vectors/s built, f16 .992
at 192-197 µs and 6.8-7.1 k, i8 .993 at 144 µs (cosine alone, and .949 before ranking), f32 .992 at
403 µs and 3.4 k."""

_SCALARS: Final = {
    Quantization.F32: ScalarKind.F32,
    Quantization.F16: ScalarKind.F16,
    Quantization.BF16: ScalarKind.BF16,
    Quantization.I8: ScalarKind.I8,
}


@dataclass(frozen=True, slots=True)
class Fit:
    """What decides how a collection's vectors lie in a graph.

    Attributes:
        space: The distance.
        quantization: The graph's number type.
        max_neighbors: HNSW's M.
        ef_construction: Candidates considered when a vector is linked.
    """

    space: Space
    quantization: Quantization
    max_neighbors: int
    ef_construction: int

    @property
    def metric(self) -> MetricKind:
        """The metric as USearch knows it.

        Under cosine the vectors are normalised and compared by their dots, which is a third faster
        than USearch's cosine; a zero vector stays zero and so at distance 1. i8 normalises by
        itself and only knows cosine.
        """
        if self.space is Space.L2:
            return MetricKind.L2sq
        return MetricKind.Cos if self.quantization is Quantization.I8 else MetricKind.IP

    def holds(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Say for each vector, shape ``(n, d)``, whether a graph may take it."""
        result: npt.NDArray[np.bool_]
        if self.space is Space.COSINE:
            if self.quantization is Quantization.I8:
                # Normalised by USearch in single precision, where tiny and huge norms are lost.
                lengths = norms(vectors)
                result = (lengths > 1.0 / _LARGEST_NORM) & (lengths < _LARGEST_NORM)
                return result
            return np.ones(len(vectors), np.bool_)
        result = norms(vectors) < _LARGEST_NORM
        if self.quantization is Quantization.F16:
            result &= np.abs(vectors).max(axis=1) <= _LARGEST_F16
        return result

    def prepared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Give vectors as the graph takes them, contiguous, shape ``(n, d)``."""
        if self.space is not Space.COSINE:
            return np.ascontiguousarray(vectors, np.float32)
        lengths = norms(vectors)
        lengths[lengths == 0.0] = 1.0
        return (vectors / lengths[:, None]).astype(np.float32)

    def header(self, shard_id: str, dimension: int) -> CheckpointHeader:
        """Say of a shard's checkpoint what it is of."""
        return CheckpointHeader(
            shard_id=shard_id,
            dimension=dimension,
            quantization=self.quantization.value,
            metric=self.metric.name,
            max_neighbors=self.max_neighbors,
        )

    def _index(self, dimension: int, ef_search: int) -> CompiledIndex:
        return CompiledIndex(
            ndim=dimension,
            dtype=_SCALARS[self.quantization],
            connectivity=self.max_neighbors,
            expansion_add=self.ef_construction,
            expansion_search=ef_search,
            metric_kind=self.metric,
            metric_signature=MetricSignature.ArrayArraySize,
            multi=False,
            # We look vectors up in LMDB, never here: without the table a view opens in no time.
            enable_key_lookups=False,
        )


def _verified(path: Path, fit: Fit, shard_id: str, dimension: int) -> CheckpointContent:
    content = read_checkpoint(path, fit.header(shard_id, dimension))
    described = Index.metadata(content.graph)
    if described is None or (
        described["dimensions"] != dimension
        or described["kind_scalar"] != _SCALARS[fit.quantization]
        or described["kind_metric"] != fit.metric
        or described["count_present"] != content.header.vector_count
    ):
        raise DamagedCheckpointError("mismatch", f"USearch reads another graph: {described}")
    return content


_MATRIX_TYPES: Final[Mapping[Quantization, np.dtype[Any]]] = {
    Quantization.BF16: np.dtype("<u2"),
    Quantization.F16: np.dtype("<f2"),
    Quantization.F32: np.dtype("<f4"),
}
"""Of the vectors in a checkpoint. i8 scales them in a way of its own."""


class Graph:
    """An immutable graph: a view of a checkpoint. The file may be unlinked while it is in use."""

    def __init__(self, content: CheckpointContent, fit: Fit, ef: int) -> None:
        header = content.header
        # The view points into the mapping: it lives as long as the index.
        self._content = content.graph
        self._index = fit._index(header.dimension, ef)
        self._index.view_index_from_buffer(content.graph)
        self._fit = fit
        self.set_ef_search(ef)
        # Whether its order is far from the exact one.
        self.is_coarse = fit.quantization is Quantization.I8
        self._is_cosine = fit.space is Space.COSINE
        # Whether the number type is one whose vectors `stored` may give.
        self.has_stored = fit.quantization in _MATRIX_TYPES
        self.sequence = header.sequence
        self.last_key = header.last_key
        self.vector_count = header.vector_count
        self.size_bytes = header.graph_bytes
        self.vector_file = header.vector_file
        # Ascending: in the order of adding.
        self.keys = content.keys

    @staticmethod
    def open(path: Path, fit: Fit, shard_id: str, dimension: int, ef_search: int) -> Graph:
        """Open a checkpoint, verified.

        Raises:
            DamagedCheckpointError: If it cannot be used, whatever the reason.
        """
        content = _verified(path, fit, shard_id, dimension)
        try:
            return Graph(content, fit, ef_search)
        except RuntimeError as error:
            raise DamagedCheckpointError("damaged", f"USearch refuses it: {error}") from error

    def search(
        self, queries: npt.NDArray[np.float32], count: int, threads: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """Find candidates.

        Args:
            queries: Shape ``(q, d)``, as the user gave them.
            count: Candidates wanted for each query; above `ef_search` it widens the search.
            threads: How many at most.

        Returns:
            Keys, shape ``(q, count)``, nearest first, and how many of each line count.
        """
        asked = queries
        # A query's own length does not change the order of its dots; only one near the ends of
        # float32's range has to be brought back from there.
        if self._is_cosine and (
            len(queries) > 1 or not _SMALLEST_SQUARE < queries[0].dot(queries[0]) < _LARGEST_SQUARE
        ):
            asked = self._fit.prepared(queries)
        keys, _, counts, _, _ = self._index.search_many(
            asked, count, False, threads, None, ScalarKind.F32
        )
        return keys, counts

    @property
    def quantization(self) -> Quantization:
        """The number type of its vectors."""
        return self._fit.quantization

    @functools.cached_property
    def stored(self) -> Stored | None:
        """The vectors as they lie in the checkpoint; None if they are not found there."""
        kind = _MATRIX_TYPES.get(self._fit.quantization)
        if kind is None:
            return None
        return stored_vectors(
            self._content, kind, self._index.ndim, self.vector_count, self.last_key
        )

    def set_ef_search(self, ef: int) -> None:
        """Change how many candidates a search considers."""
        self.ef_search = ef
        self._index.expansion_search = ef


class GraphWriter:
    """A graph under construction, in the builder's process.

    Args:
        fit: How vectors lie in it.
        dimension: Numbers in each vector.
        base: A checkpoint of the same shard to extend, or None.
        shard_id: The shard.
    """

    def __init__(self, fit: Fit, dimension: int, shard_id: str, base: Path | None = None) -> None:
        self._fit = fit
        self._dimension = dimension
        self._shard_id = shard_id
        self._index = fit._index(dimension, fit.ef_construction)
        self._last_key = 0
        self._keys: list[npt.NDArray[np.uint64]] = []
        if base is not None:
            content = _verified(base, fit, shard_id, dimension)
            self._index.load_index_from_buffer(content.graph)
            self._index.expansion_add = fit.ef_construction
            self._last_key = content.header.last_key
            self._keys.append(content.keys.astype(np.uint64))

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]) -> None:
        """Take in vectors.

        Args:
            keys: Rising, above all that were added before.
            vectors: Shape ``(n, dimension)``, as the user gave them.
        """
        if not len(keys):
            return
        keys = np.ascontiguousarray(keys, np.uint64)
        if int(keys[0]) <= self._last_key or int(keys[-1]) > _MAX_KEY or (np.diff(keys) < 1).any():
            raise ValueError("the keys of a graph must rise, and end below 2^64 - 1")
        self._index.add_many(
            keys, self._fit.prepared(vectors), copy=True, threads=1, dtype=ScalarKind.F32
        )
        self._last_key = int(keys[-1])
        self._keys.append(keys)

    def checkpoint(
        self, sequence: int, last_key: int, vector_file: int
    ) -> tuple[bytes, bytearray, bytes]:
        """Give the parts of a checkpoint: what goes before the graph, the graph, the keys.

        Args:
            sequence: Every log entry up to here is covered.
            last_key: Every key up to here was considered, whether the graph holds it or not.
            vector_file: The sequence in the name of the file of its exact vectors.
        """
        graph = self._index.save_index_to_buffer()
        self._keys = [np.concatenate(self._keys)] if self._keys else []
        keys = self._keys[0].astype("<u8").tobytes() if self._keys else b""
        header = self._fit.header(self._shard_id, self._dimension)
        header.sequence = sequence
        header.last_key = max(last_key, self._last_key)
        header.vector_count = len(self._index)
        header.vector_file = vector_file
        return checkpoint_parts(header, graph, keys)
