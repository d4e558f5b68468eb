"""Between messages and our own types: rankings of text."""

from __future__ import annotations

import numpy as np

from shoal.errors import InvalidArgumentError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal_worker.columns import packed_ordinals
from shoal_worker.sealed import DamagedValueError
from shoal_worker.state import Pinned
from shoal_worker.text_ranking import RankedRows, Weights

__all__ = ["decode_weights", "encode_ranked"]


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


def encode_ranked(pinned: Pinned, ranked: RankedRows) -> pb.ShardMatches:
    """Encode the matches of one text: IDs and ordinals, with negative scores as distances."""
    ids: list[str] = []
    ordinals: list[int] = []
    for row in ranked.rows.tolist():
        record = pinned.store.record(pinned.txn, row)
        if record is None:
            raise DamagedValueError(f"row {row} has a document and no record")
        ids.append(record.id)
        ordinals.append(record.ordinal)
    return pb.ShardMatches(
        match_counts=[len(ids)],
        records=pb.RecordColumns(ids=ids),
        distances=(-ranked.scores).astype(np.dtype("<f8")).tobytes(),
        ordinals=packed_ordinals(ordinals),
    )
