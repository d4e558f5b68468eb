"""Tokens that clients carry from one answer to the next call: opaque, versioned, held nowhere.

A session token names the state that a client has seen, as the hybrid clock of its last answer; a
write that carries one is ordered after it. A page token names a place in the order of insertion,
and the request that it belongs to: with other IDs or filters it would silently skip records.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import xxhash

from shoal.errors import InvalidArgumentError
from shoal.wire.validation import invalid

__all__ = ["Page", "decode_page", "decode_session", "digest", "encode_page", "encode_session"]

_SESSION_VERSION: Final = 1
_SESSION: Final = struct.Struct(">BQ")
"""Version, clock. Big-endian, so that of two tokens the greater one, as bytes, is the newer, as the
protos promise. A later version may add the positions of shards."""

_PAGE_VERSION: Final = 1
_PAGE: Final = struct.Struct("<BQ8s")
"""Version, ordinal, digest of the request; then the ID in UTF-8."""

DIGEST_BYTES: Final = 8
"""Enough to tell a mistake from a continuation; nobody gains by forging one."""


@dataclass(frozen=True, slots=True)
class Page:
    """A place in the order of insertion: after this record.

    Attributes:
        ordinal: The record's ordinal.
        id: Its ID.
    """

    ordinal: int
    id: str


def encode_session(clock: int) -> bytes:
    """Encode a session token."""
    return _SESSION.pack(_SESSION_VERSION, clock)


def decode_session(token: bytes) -> int:
    """Give the clock of a session token; 0 of an empty one.

    Raises:
        InvalidArgumentError: It is no session token, or of a newer version.
    """
    if not token:
        return 0
    if token[0] != _SESSION_VERSION or len(token) != _SESSION.size:
        raise invalid(
            "session_token",
            "session_token is not one of this server's: give that of a former answer, or none",
        )
    clock: int = _SESSION.unpack(token)[1]
    return clock


def digest(parts: Iterable[bytes]) -> bytes:
    """Digest what a page token belongs to, `DIGEST_BYTES` long."""
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def encode_page(page: Page, request_digest: bytes) -> str:
    """Encode a page token."""
    raw = _PAGE.pack(_PAGE_VERSION, page.ordinal, request_digest) + page.id.encode()
    return base64.urlsafe_b64encode(raw).decode()


def decode_page(token: str, request_digest: bytes) -> Page | None:
    """Give the place that a page token names; None of an empty one.

    Raises:
        InvalidArgumentError: It is no page token, of a newer version, or of another request.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        version, ordinal, belongs_to = _PAGE.unpack_from(raw)
        record_id = raw[_PAGE.size :].decode()
    except (binascii.Error, struct.error, UnicodeDecodeError):
        raise _not_a_page() from None
    if version != _PAGE_VERSION or not record_id:
        raise _not_a_page()
    if belongs_to != request_digest:
        raise invalid(
            "page_token",
            "page_token belongs to another request: go on with the collection, IDs and filters of "
            "the page that it came with",
        )
    return Page(ordinal, record_id)


def _not_a_page() -> InvalidArgumentError:
    return invalid(
        "page_token",
        "page_token is not one of this server's: give that of a former answer, or none",
    )
