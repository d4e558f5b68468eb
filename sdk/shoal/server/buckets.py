"""The bucket of an ID: which of 4096 slots it hashes to.

``bucket = XXH64(UTF-8 of the ID, seed 0) >> 52``, fixed for ever. A collection's catalog entry maps
runs of buckets to shards, so that exactly the chosen buckets move when a shard is split. Test
vectors for other languages are in ``protos/testdata/buckets.json``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["BUCKET_COUNT", "bucket_of", "buckets_of"]

BUCKET_COUNT: Final = 4096
_SHIFT: Final = 52  # 64 bits of hash, of which the upper 12 count to 4096


def bucket_of(record_id: str) -> int:
    """Give the bucket of one ID, in ``[0, 4096)``."""
    return xxhash.xxh64_intdigest(record_id.encode()) >> _SHIFT


def buckets_of(record_ids: Iterable[str]) -> npt.NDArray[np.uint16]:
    """Give the buckets of many IDs, shape ``(n,)``, in their order."""
    digest = xxhash.xxh64_intdigest
    return np.fromiter((digest(i.encode()) >> _SHIFT for i in record_ids), np.uint16)
