"""API keys: how one is made, read, and compared.

A key is ``shoal_<id>_<secret>``: 64 bits that name it, and 256 random bits, both in hexadecimal.
Who holds the catalog or the routing table holds no key: they have the SHA-256 of the secret. A slow
hash would protect passwords, which people choose; 256 random bits cannot be searched for, and a
slow hash would only let strangers keep the gateway busy.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, Self

__all__ = ["ID_PATTERN", "ApiKey", "digest_matches"]

_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32

ID_PATTERN: Final = re.compile(r"[0-9a-f]{16}")
"""What a key's ID looks like."""

_KEY: Final = re.compile(r"shoal_([0-9a-f]{16})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key with its secret. Its representation, in logs and tracebacks, leaves the secret out.

    Attributes:
        key_id: Names the key.
        secret: 32 bytes.
    """

    key_id: str
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the operating system's randomness."""
        return cls(secrets.token_hex(_ID_BYTES), secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a key; None if this is none."""
        found = _KEY.fullmatch(text)
        return None if found is None else cls(found[1], bytes.fromhex(found[2]))

    @property
    def text(self) -> str:
        """The key as its holder gets it."""
        return f"shoal_{self.key_id}_{self.secret.hex()}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret: what is stored."""
        return hashlib.sha256(self.secret).digest()


def digest_matches(key: ApiKey, stored: bytes) -> bool:
    """Compare a key with a stored digest, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(key.digest, stored)
