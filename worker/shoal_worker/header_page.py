"""The first page of a file that a builder makes: magic, length and checksum of the header, the
header, zeros.

A whole page, so that what follows it is aligned like a file of its own.
"""

from __future__ import annotations

import struct
from typing import Final

import xxhash
from google.protobuf.message import Message

__all__ = ["HEADER_PAGE_BYTES", "DamagedHeaderError", "encoded_header", "header_page"]

HEADER_PAGE_BYTES: Final = 4096

_FRAME: Final = struct.Struct("<8sIQ")


class DamagedHeaderError(Exception):
    """What should be a header page is not one."""


def header_page(magic: bytes, header: Message) -> bytes:
    """Give the page with a header."""
    encoded = header.SerializeToString()
    frame = _FRAME.pack(magic, len(encoded), xxhash.xxh3_64_intdigest(encoded))
    return (frame + encoded).ljust(HEADER_PAGE_BYTES, b"\0")


def encoded_header(magic: bytes, content: bytes | memoryview) -> bytes:
    """Give the encoded header of a file that begins with a header page.

    Raises:
        DamagedHeaderError: If it does not, or the header is not what was written.
    """
    if len(content) < HEADER_PAGE_BYTES:
        raise DamagedHeaderError(f"it has only {len(content)} bytes")
    found, length, digest = _FRAME.unpack_from(content)
    encoded = bytes(content[_FRAME.size : _FRAME.size + length])
    if found != magic or length > HEADER_PAGE_BYTES - _FRAME.size:
        raise DamagedHeaderError("its first bytes are not those of such a file")
    if xxhash.xxh3_64_intdigest(encoded) != digest:
        raise DamagedHeaderError("the checksum of its header does not fit")
    return encoded
