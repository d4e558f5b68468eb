"""Certificates on disk, as an operator would put them there."""

from __future__ import annotations

from pathlib import Path

import grpc
import trustme

__all__ = ["NAMES", "Files"]

NAMES = ("localhost", "127.0.0.1", "shoal.test")


class Files:
    """A directory with a certificate, its key, and an authority.

    Args:
        directory: Made if it is not there.
        names: In the certificate.
    """

    def __init__(self, directory: Path, names: tuple[str, ...] = NAMES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.chain = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.authorities = directory / "ca.crt"
        self._names = names
        self.renew()

    def renew(self) -> None:
        """Replace all by those of another authority."""
        authority = trustme.CA()
        issued = authority.issue_cert(*self._names)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self._replace(self.authorities, authority.cert_pem.bytes())
        self._replace(self.chain, chain)
        self._replace(self.key, issued.private_key_pem.bytes())

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client that trusts the authority and shows the certificate."""
        return grpc.ssl_channel_credentials(
            self.authorities.read_bytes(), self.key.read_bytes(), self.chain.read_bytes()
        )

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.replace(path)
