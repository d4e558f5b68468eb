"""Between messages and our own types: rankings of texts and sparse vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidArgumentError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal_worker.columns import packed_ordinals
from shoal_worker.occurrences import RankedRows
from shoal_worker.state import Pinned
from shoal_worker.text_ranking import Weights

__all__ = ["decode_dimensions", "decode_weights", "encode_ranked"]


def decode_weights(request: pb.RankTextRequest) -> Weights:
    """Decode how documents are to be scored."""
    if len(request.terms) != len(request.weights):
        raise InvalidArgumentError(
            f"weights has {len(request.weights)} entries for {len(request.terms)} terms"
        )
    return Weights(
        dict(zip(request.terms, request.weights, strict=True)),
        request.average_length,
        request.saturation,
        request.length_share,
    )


def decode_dimensions(
    request: pb.MeasureSparseRequest | pb.RankSparseRequest,
) -> npt.NDArray[np.uint32]:
    """Decode the dimensions of a query."""
    indices = np.array(request.indices, np.uint32)
    if not len(indices) or (indices[1:] <= indices[:-1]).any():
        raise InvalidArgumentError("indices must ascend, at least one")
    return indices


def encode_ranked(pinned: Pinned, ranked: RankedRows) -> pb.ShardMatches:
    """Encode the matches of one text or sparse vector: IDs, ordinals and distances alone."""
    ids, ordinals, _ = pinned.store.records_of(pinned.txn, ranked.rows.tolist())
    return pb.ShardMatches(
        match_counts=[len(ids)],
        records=pb.RecordColumns(ids=ids),
        distances=ranked.distances.astype(np.dtype("<f8")).tobytes(),
        ordinals=packed_ordinals(ordinals),
    )
