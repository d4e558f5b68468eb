"""When a certificate ends, read from its PEM file: the standard library does not tell.

Of X.509 (RFC 5280, section 4.1) only the way to `validity` is walked: a certificate is a sequence
that begins with a sequence of an optional version, a serial number, an algorithm, an issuer, and
the validity, whose second time is the end. What cannot be walked has no end here: it is OpenSSL
that decides whether a certificate is one.
"""

from __future__ import annotations

import datetime
import re
import ssl
from typing import Final

__all__ = ["expiry_of"]

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18


def expiry_of(chain: bytes) -> float | None:
    """Give when the first certificate of a chain to end does so, seconds since 1970.

    None if none of them says so in a way that is understood.
    """
    ends = []
    for found in _PEM.findall(chain):
        try:
            ends.append(_end(ssl.PEM_cert_to_DER_cert(found.decode("ascii"))))
        except (ValueError, IndexError):
            continue
    return min(ends, default=None)


def _end(certificate: bytes) -> float:
    _, signed, _ = _element(certificate, _SEQUENCE)
    _, fields, _ = _element(signed, _SEQUENCE)
    tag, _, after_version = _element(fields)
    if tag == _VERSION:
        fields = after_version
    for _ in ("serial number", "algorithm", "issuer"):
        _, _, fields = _element(fields)
    _, validity, _ = _element(fields, _SEQUENCE)
    _, _, second = _element(validity)
    tag, text, _ = _element(second)
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError(f"a time of kind {tag}")
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # two digits for the year: from 1950 to 2049
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.datetime.strptime(digits, "%Y%m%d%H%M%S%z").timestamp()


def _element(der: bytes, wanted: int | None = None) -> tuple[int, bytes, bytes]:
    """Take the first element of some DER: its tag, its content, and what follows."""
    tag, size, begin = der[0], der[1], 2
    if size & 0x80:  # the length has a length itself
        begin += size & 0x7F
        size = int.from_bytes(der[2:begin], "big")
    if wanted is not None and tag != wanted:
        raise ValueError(f"an element of kind {tag}, not {wanted}")
    if len(der) < begin + size:
        raise ValueError("it is cut off")
    return tag, der[begin : begin + size], der[begin + size :]
