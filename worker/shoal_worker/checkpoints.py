"""Which of a shard's checkpoints is used.

A checkpoint is a cache. It is used if it is whole, of this shard and configuration, and not newer
than the shard's records; otherwise the reason is told and the graph is built again.
"""

from __future__ import annotations

from pathlib import Path

from shoal_worker.checkpoint_files import checkpoints_in
from shoal_worker.graph import DamagedCheckpointError, Fit, Graph

__all__ = ["newest_checkpoint"]


def newest_checkpoint(
    directory: Path, fit: Fit, shard_id: str, dimension: int, sequence: int, ef_search: int
) -> tuple[Graph | None, list[tuple[Path, DamagedCheckpointError]]]:
    """Open the newest checkpoint that can be used.

    Args:
        directory: The shard's.
        fit: What the graph must be like.
        shard_id: Whose it must be.
        dimension: Numbers in each vector.
        sequence: The shard's; a checkpoint beyond it belongs to another history.
        ef_search: Candidates that a search considers.

    Returns:
        The graph, or None, and why newer ones were passed over.
    """
    refused = []
    for path in checkpoints_in(directory):
        try:
            graph = Graph.open(path, fit, shard_id, dimension, ef_search)
        except DamagedCheckpointError as error:
            refused.append((path, error))
            continue
        if graph.sequence > sequence:
            newer = DamagedCheckpointError(
                "newer", f"it covers sequence {graph.sequence}, the records end at {sequence}"
            )
            refused.append((path, newer))
            continue
        return graph, refused
    return None, refused
