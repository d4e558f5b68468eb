"""Certificates from files, for servers and channels, read again when the files change.

A server asks before each handshake whether its files have changed, a channel at most once a second
before a call, so that a certificate can be renewed without a restart, and without a timer. What was
connected before stays connected. Files that do not fit together, as while they are being replaced
one after the other, are passed over with a warning until they do: what was read before holds on.
"""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import grpc

from shoal.errors import InvalidArgumentError
from shoal.server import logs, metrics
from shoal.server.certificate_expiry import expiry_of

__all__ = ["Certificates", "ChannelTls", "FixedTls"]

_log: Final = logs.get_logger("shoal.tls")

_LOOK_EVERY_S: Final = 1.0
"""How often a channel looks whether its files have changed."""

_loads: Final = metrics.counter(
    "shoal_tls_loads", "Times that changed certificate files were read.", ("outcome",)
)
_loaded_well: Final = _loads.labels("ok")
_not_loaded: Final = _loads.labels("failed")

_expiry: Final = metrics.gauge(
    "shoal_certificate_expiry_timestamp_seconds",
    "When the first certificate of a chain that this process shows ends, seconds since 1970.",
    ("use",),
)

_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What was read.

    Attributes:
        generation: Rises with each reading.
        chain: Certificate chain, PEM.
        key: Its private key, PEM.
        authorities: Of the other side, PEM; None: nobody's, or the system's.
    """

    generation: int
    chain: bytes
    key: bytes
    authorities: bytes | None


class Certificates:
    """A certificate with its key, and the authorities that the other side must be known to.

    Can be used from any thread: gRPC asks from its own.

    Args:
        chain: PEM file with the certificate, followed by those between it and its authority.
        key: PEM file with its private key, not encrypted.
        authorities: PEM file with the authorities that the other side's certificate must come
            from. As a server: None asks for no certificate.
        use: What for, for metrics.

    Raises:
        InvalidArgumentError: A file cannot be read, or the key is not the certificate's.
    """

    def __init__(
        self,
        chain: Path,
        key: Path,
        authorities: Path | None = None,
        *,
        use: Literal["public", "cluster"] = "cluster",
    ) -> None:
        self._chain = chain
        self._key = key
        self._authorities = authorities
        self._use = use
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._stamp = self._look()
        self._loaded = self._load(0)

    def current(self) -> _Loaded:
        """Give what is in the files, or was the last time that they made sense."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    return self._loaded
                # Also where it fails: the same files are not read, and complained of, twice.
                self._stamp = stamp
                self._loaded = self._load(self._loaded.generation + 1)
            except InvalidArgumentError as error:
                _not_loaded.inc()
                _log.warning("certificates_not_reloaded", message=error.message)
            else:
                _loaded_well.inc()
                _log.info("certificates_reloaded", chain=str(self._chain))
            return self._loaded

    def server_credentials(self) -> grpc.ServerCredentials:
        """Make credentials of a server, which asks for a certificate if there are authorities."""
        given = self.current().generation

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            loaded = self.current()
            if loaded.generation == given:
                return None
            given = loaded.generation
            return _server_configuration(loaded)

        return grpc.dynamic_ssl_server_credentials(
            _server_configuration(self.current()),
            changed,  # type: ignore[arg-type]  # None: nothing has changed, as gRPC has it
            require_client_authentication=self._authorities is not None,
        )

    def _look(self) -> _Stamp:
        """Give what differs when a file was replaced, also by way of a link."""
        stamps = []
        for path in (self._chain, self._key, self._authorities):
            if path is not None:
                try:
                    found = path.stat()
                except OSError as error:
                    raise _unreadable(path, error) from None
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _load(self, generation: int) -> _Loaded:
        loaded = _Loaded(
            generation,
            _read(self._chain),
            _read(self._key),
            None if self._authorities is None else _read(self._authorities),
        )
        # gRPC would fail handshakes later, and say nothing of why.
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An encrypted key would else be asked for on the terminal.
            check.load_cert_chain(self._chain, self._key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgumentError(
                f"the certificate in {self._chain} and the key in {self._key} do not fit: {error}; "
                "a PEM certificate chain and its own key, not encrypted, would be right"
            ) from None
        if loaded.authorities is not None:
            try:
                check.load_verify_locations(cadata=loaded.authorities.decode())
            except (ssl.SSLError, ValueError) as error:
                raise InvalidArgumentError(
                    f"{self._authorities} holds no authorities' certificates in PEM: {error}"
                ) from None
        end = expiry_of(loaded.chain)
        if end is not None:
            _expiry.labels(self._use).set(end)
        return loaded


class FixedTls:
    """The TLS of a channel whose credentials do not change, as in a short-lived program.

    Args:
        given: Credentials.
    """

    def __init__(self, given: grpc.ChannelCredentials) -> None:
        self._given = given
        self.options: list[tuple[str, str]] = []

    def credentials(self) -> grpc.ChannelCredentials:
        """Give them."""
        return self._given


class ChannelTls:
    """The TLS of channels to other processes of the cluster, which know each other by authority.

    Args:
        certificates: This process's own, and the authorities of the others.
        name: The name in the others' certificates; None: the host by which they are reached.
    """

    def __init__(self, certificates: Certificates, name: str | None = None) -> None:
        self._certificates = certificates
        self._look_at = 0.0
        self._generation = -1
        self._credentials: grpc.ChannelCredentials
        self.options: list[tuple[str, str]] = []
        if name is not None:
            self.options = [("grpc.ssl_target_name_override", name)]

    def credentials(self) -> grpc.ChannelCredentials:
        """Give credentials for what the files hold now; the same object until they change."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            loaded = self._certificates.current()
            if loaded.generation != self._generation:
                self._generation = loaded.generation
                self._credentials = grpc.ssl_channel_credentials(
                    loaded.authorities, loaded.key, loaded.chain
                )
        return self._credentials


def _server_configuration(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(loaded.key, loaded.chain)], root_certificates=loaded.authorities
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InvalidArgumentError:
    return InvalidArgumentError(f"{path} cannot be read: {error.strerror}")
