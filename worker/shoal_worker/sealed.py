"""Values with a checksum, for LMDB's pages have none.

A value ends in four bytes of XXH3-64 of what goes before, seeded with the place it is stored under,
so that both a flipped bit and a value that turns up under a wrong key are noticed before it is
served. XXH3 costs 0.1 µs for a vector of 384 floats, crc32 0.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import xxhash

__all__ = [
    "SEAL_BYTES",
    "DamagedIndexError",
    "DamagedValueError",
    "seal",
    "unseal",
    "unseal_derived",
    "unseal_each",
]

SEAL_BYTES: Final = 4
_SEAL: Final = struct.Struct("<I")
_digest = xxhash.xxh3_64_intdigest
_digest_bytes = xxhash.xxh3_64_digest


class DamagedValueError(Exception):
    """A stored value is not what was stored. The shard reports it as DATA_LOSS."""


class DamagedIndexError(Exception):
    """Something derived is not what was stored. It is dropped and made again; nothing is lost."""


def seal(payload: bytes, place: int) -> bytes:
    """Append the checksum to a payload.

    Args:
        payload: What is stored.
        place: What it is stored under: a row, a key, a sequence.
    """
    return payload + _SEAL.pack(_digest(payload, place) & 0xFFFFFFFF)


def unseal(value: bytes | memoryview, place: int, what: str) -> bytes:
    """Give the payload of a sealed value, copied.

    Raises:
        DamagedValueError: If the checksum does not fit.
    """
    # Copied first: bytes are sliced and compared several times faster than a memoryview.
    stored = bytes(value)
    payload = stored[:-SEAL_BYTES]
    if stored[-SEAL_BYTES:] != _SEAL.pack(_digest(payload, place) & 0xFFFFFFFF):
        raise DamagedValueError(f"{what} {place} is damaged: its checksum does not fit")
    return payload


def unseal_each(
    values: Iterable[bytes | memoryview | None], places: Sequence[int], what: str
) -> list[bytes | None]:
    """Give the payloads of many sealed values, copied; None for None.

    Raises:
        DamagedValueError: If a checksum does not fit.
    """
    digest = _digest_bytes
    payloads: list[bytes | None] = []
    for value, place in zip(values, places, strict=True):
        if value is None:
            payloads.append(None)
            continue
        stored = bytes(value)
        payload = stored[:-SEAL_BYTES]
        # A digest begins with its highest byte, a seal is its four lowest, the lowest first: they
        # are compared without making numbers of them.
        if stored[-SEAL_BYTES:] != digest(payload, place)[: -SEAL_BYTES - 1 : -1]:
            raise DamagedValueError(f"{what} {place} is damaged: its checksum does not fit")
        payloads.append(payload)
    return payloads


def unseal_derived(value: bytes | memoryview, place: int, what: str) -> bytes:
    """Give the payload of a sealed value of something derived, copied.

    Raises:
        DamagedIndexError: If the checksum does not fit.
    """
    stored = bytes(value)
    payload = stored[:-SEAL_BYTES]
    if stored[-SEAL_BYTES:] != _SEAL.pack(_digest(payload, place) & 0xFFFFFFFF):
        raise DamagedIndexError(f"{what} {place} is damaged: its checksum does not fit")
    return payload
