"""Whose a shard directory is: the file `identity`.

Cluster, worker and shard UUIDs, the epoch and a copy of the collection's catalog entry lie in every
shard directory, so that a restarted worker serves with the coordinator down and a lost catalog can
be rebuilt from the shards.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash
from google.protobuf.message import DecodeError

from shoal.errors import DataLossError
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal.server.durable import write_file_durably
from shoal.v1.collection_pb2 import HnswConfiguration
from shoal.v1.collection_pb2 import Quantization as QuantizationMessage
from shoal.v1.collection_pb2 import Space as SpaceMessage
from shoal.wire.languages import DEFAULT_LANGUAGE
from shoal_worker.distances import Space
from shoal_worker.graph import DEFAULT_QUANTIZATION, Fit, Quantization

__all__ = [
    "IDENTITY_FORMAT",
    "Configuration",
    "configuration_of",
    "read_identity",
    "write_identity",
]

IDENTITY_FORMAT: Final = 1
"""Version of a shard's directory. 1: the first."""

_NAME: Final = "identity"
_FRAME: Final = struct.Struct("<8sQ")
_MAGIC: Final = b"SHOALID\x01"

_SPACES: Final = {
    SpaceMessage.SPACE_L2: Space.L2,
    SpaceMessage.SPACE_COSINE: Space.COSINE,
    SpaceMessage.SPACE_IP: Space.IP,
}
_QUANTIZATIONS: Final = {
    QuantizationMessage.QUANTIZATION_F32: Quantization.F32,
    QuantizationMessage.QUANTIZATION_F16: Quantization.F16,
    QuantizationMessage.QUANTIZATION_BF16: Quantization.BF16,
    QuantizationMessage.QUANTIZATION_I8: Quantization.I8,
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a collection's configuration means to a shard.

    Attributes:
        fit: How its vectors lie in a graph.
        ef_search: Candidates that a search considers.
        batch_size: The least number of fresh vectors before a graph takes them in.
        sync_threshold: The least number of changes before a checkpoint is due.
        num_threads: Upper bound of threads for a batch of queries.
        language: Of documents, by its stemmer's name.
        sparse_keys: The metadata keys that hold sparse vectors, ascending.
    """

    fit: Fit
    ef_search: int
    batch_size: int
    sync_threshold: int
    num_threads: int
    language: str
    sparse_keys: tuple[str, ...]


def configuration_of(entry: CollectionEntry) -> Configuration:
    """Give what a catalog entry configures; what it leaves open has the documented default."""
    configuration = entry.collection.configuration
    hnsw: HnswConfiguration = configuration.hnsw
    return Configuration(
        fit=Fit(
            space=_SPACES.get(hnsw.space, Space.L2),
            quantization=_QUANTIZATIONS.get(hnsw.quantization, DEFAULT_QUANTIZATION),
            max_neighbors=hnsw.max_neighbors or 16,
            ef_construction=hnsw.ef_construction or 100,
        ),
        ef_search=hnsw.ef_search or 100,
        batch_size=hnsw.batch_size or 100,
        sync_threshold=hnsw.sync_threshold or 1000,
        num_threads=hnsw.num_threads or 1,
        language=configuration.documents.language or DEFAULT_LANGUAGE,
        sparse_keys=tuple(sorted(configuration.sparse_vectors)),
    )


def write_identity(directory: Path, identity: ShardIdentity) -> None:
    """Write a shard's identity, or replace it as a whole."""
    payload = identity.SerializeToString(deterministic=True)
    framed = _FRAME.pack(_MAGIC, xxhash.xxh3_64_intdigest(payload)) + payload
    write_file_durably(directory / _NAME, framed, aside_point="identity_written_aside")


def read_identity(directory: Path) -> ShardIdentity:
    """Read a shard's identity.

    Raises:
        DataLossError: If it is missing or damaged, or of a newer format.
    """
    path = directory / _NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataLossError(f"shard directory {directory} has no readable identity") from error
    payload = content[_FRAME.size :]
    magic, digest = _FRAME.unpack_from(content) if len(content) >= _FRAME.size else (b"", 0)
    if magic != _MAGIC or xxhash.xxh3_64_intdigest(payload) != digest:
        raise DataLossError(f"the identity of shard directory {directory} is damaged")
    try:
        identity = ShardIdentity.FromString(payload)
    except DecodeError as error:
        raise DataLossError(f"the identity of shard directory {directory} is damaged") from error
    if identity.format > IDENTITY_FORMAT:
        raise DataLossError(
            f"shard directory {directory} has format {identity.format}, this release reads "
            f"{IDENTITY_FORMAT}"
        )
    return identity
