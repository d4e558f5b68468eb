"""The file of a checkpoint: what it says of itself, and whether that and its content are whole.

A page with the header (`CheckpointHeader`), the graph as USearch serialises it, and from the next
multiple of eight bytes on the keys of its vectors in the order of adding, which is the order of the
file that holds them exactly (`vector_file`). A flipped bit in a graph loads silently, or crashes
the process at a search: graph and keys have a checksum each, verified before USearch sees a byte.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from google.protobuf.message import DecodeError

from shoal.internal.v1.storage_pb2 import CheckpointHeader
from shoal_worker.header_page import (
    HEADER_PAGE_BYTES,
    DamagedHeaderError,
    encoded_header,
    header_page,
)

__all__ = [
    "CHECKPOINT_FORMAT",
    "CheckpointContent",
    "DamagedCheckpointError",
    "checkpoint_parts",
    "read_checkpoint",
    "read_header",
]

CHECKPOINT_FORMAT: Final = 2
"""Version of a checkpoint. 1: the graph alone. 2: with the keys of its vectors, which lie in a file
of their own, too. One of format 1 is built again."""

_MAGIC: Final = b"SHOALGR\x01"

_CHECKSUM_STEP: Final = 8 * 1024 * 1024
"""Bytes hashed at a time: under a millisecond, after which other threads may run."""

_KEY_BYTES: Final = 8


class DamagedCheckpointError(Exception):
    """A checkpoint cannot be used: missing, damaged, or of something else. It is rebuilt.

    Attributes:
        reason: One word for the counter: ``missing``, ``damaged``, ``mismatch``, ``stale``,
            ``newer``, ``format``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CheckpointContent(NamedTuple):
    """A checkpoint, whole.

    Attributes:
        header: What it says of itself.
        graph: As USearch serialises it, mapped.
        keys: Of its vectors, in the order of adding.
    """

    header: CheckpointHeader
    graph: memoryview
    keys: npt.NDArray[np.uint64]


def read_header(content: memoryview) -> CheckpointHeader:
    """Read and verify the header of a checkpoint.

    Raises:
        DamagedCheckpointError: If it is not one, or damaged, or newer.
    """
    try:
        header = CheckpointHeader.FromString(encoded_header(_MAGIC, content))
    except DamagedHeaderError as error:
        raise DamagedCheckpointError("damaged", str(error)) from error
    except DecodeError as error:
        raise DamagedCheckpointError("damaged", "its header cannot be read") from error
    if header.format != CHECKPOINT_FORMAT:
        raise DamagedCheckpointError(
            "format", f"it has format {header.format}, this release reads {CHECKPOINT_FORMAT}"
        )
    return header


def read_checkpoint(path: Path, expected: CheckpointHeader) -> CheckpointContent:
    """Map a checkpoint and verify it.

    Args:
        path: Its place.
        expected: Shard, dimension, number type, metric and neighbours that it must have.

    Raises:
        DamagedCheckpointError: If it is not whole, or not such a one.
    """
    content = _mapped(path)
    header = read_header(content)
    keys_offset = _keys_offset(header.graph_bytes)
    expected_bytes = keys_offset + _KEY_BYTES * header.vector_count
    if len(content) != expected_bytes:
        raise DamagedCheckpointError(
            "damaged", f"it has {len(content)} bytes instead of {expected_bytes}"
        )
    if _kind_of(header) != _kind_of(expected):
        raise DamagedCheckpointError(
            "mismatch", f"it is of {_kind_of(header)}, expected {_kind_of(expected)}"
        )
    graph = content[HEADER_PAGE_BYTES : HEADER_PAGE_BYTES + header.graph_bytes]
    if _checksum(graph) != header.graph_checksum:
        raise DamagedCheckpointError("damaged", "the checksum of its graph does not fit")
    if _checksum(content[keys_offset:]) != header.keys_checksum:
        raise DamagedCheckpointError("damaged", "the checksum of its keys does not fit")
    keys = np.frombuffer(content, "<u8", header.vector_count, keys_offset)
    return CheckpointContent(header, graph, keys)


def checkpoint_parts(
    header: CheckpointHeader, graph: bytearray, keys: bytes
) -> tuple[bytes, bytearray, bytes]:
    """Give the parts of a checkpoint: what goes before the graph, the graph, what goes behind it.

    Args:
        header: Completed here by what describes the file.
        graph: As USearch serialises it.
        keys: Of its vectors, little-endian, in the order of adding.
    """
    header.format = CHECKPOINT_FORMAT
    header.graph_bytes = len(graph)
    header.graph_checksum = _checksum(memoryview(graph))
    header.keys_checksum = _checksum(memoryview(keys))
    padding = bytes(_keys_offset(len(graph)) - HEADER_PAGE_BYTES - len(graph))
    return header_page(_MAGIC, header), graph, padding + keys


def _kind_of(header: CheckpointHeader) -> tuple[str, int, str, str, int]:
    return (
        header.shard_id,
        header.dimension,
        header.quantization,
        header.metric,
        header.max_neighbors,
    )


def _checksum(content: memoryview) -> int:
    digest = xxhash.xxh3_64()
    for first in range(0, len(content), _CHECKSUM_STEP):
        digest.update(content[first : first + _CHECKSUM_STEP])
    return digest.intdigest()


def _keys_offset(graph_bytes: int) -> int:
    """Give where the keys begin in a file: behind the graph, aligned."""
    return HEADER_PAGE_BYTES + -(-graph_bytes // _KEY_BYTES) * _KEY_BYTES


def _mapped(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise DamagedCheckpointError("missing", "it is not there") from error
    except ValueError as error:
        raise DamagedCheckpointError("damaged", "it is empty") from error
