"""What the gateway can be told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from shoal.server.admission import MAX_WAIT_S
from shoal.server.settings import RoleSettings, check_together, setting
from shoal.server.tls import Certificates
from shoal.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["GatewaySettings"]

_ANY: Final = 2**31 - 1


def _limit(name: str, help_text: str, maximum: int = _ANY) -> Any:
    return setting(getattr(DEFAULT_LIMITS, name), help=help_text, minimum=1, maximum=maximum)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(RoleSettings):
    """The settings of the role `gateway`."""

    # What clients, probes and scrapers have to know beforehand.
    port: int = setting(
        7700, help="Port of the public API; 0 for a free one.", minimum=0, maximum=65535
    )
    health_port: int = setting(
        7701, help="Port of a plaintext grpc.health.v1; 0 for a free one.", minimum=0, maximum=65535
    )
    metrics_port: int = setting(
        7702,
        help="Port of HTTP /metrics (Prometheus), /healthz and /readyz; 0 for a free one.",
        minimum=0,
        maximum=65535,
    )
    share_port: bool = setting(
        False,
        help="Let other gateways of this cluster listen on the port, too (SO_REUSEPORT): the "
        "kernel spreads connections over them. For machines with more cores than one can use.",
    )
    max_wait_s: float = setting(
        MAX_WAIT_S,
        help="How long a call may have to wait for those before it, seconds; one that would wait "
        "longer is refused with RESOURCE_EXHAUSTED. AdminService is exempt.",
        minimum=0.01,
        maximum=60,
    )
    coordinator: str = setting("127.0.0.1:7710", help="host:port of the coordinator.")
    auth: bool = setting(
        False,
        help="Ask for an API key in every call. The first key is the coordinator's "
        "bootstrap_key_file.",
    )
    tls_cert: Path | None = setting(
        None,
        help="PEM certificate chain of the public port, which then speaks TLS only; with tls_key. "
        "Files are read again when they change.",
    )
    tls_key: Path | None = setting(None, help="PEM private key of tls_cert, not encrypted.")
    tls_client_ca: Path | None = setting(
        None,
        help="PEM certificates of authorities: clients must show a certificate that one of them "
        "has signed. Says who may connect; what they may do is what API keys say.",
    )
    reflection: bool = setting(True, help="Tell callers the protos of the public API.")

    max_batch_records: int = _limit("max_batch_records", "Records in one write.")
    # More than the defaults of these two does not fit into a message between our processes.
    max_message_bytes: int = _limit(
        "max_message_bytes", "Bytes of one request.", DEFAULT_LIMITS.max_message_bytes
    )
    max_answer_bytes: int = _limit(
        "max_answer_bytes", "Bytes of one answer.", DEFAULT_LIMITS.max_answer_bytes
    )
    # Beyond these the coordinator, and the keys in a shard, go no further.
    max_dimension: int = _limit(
        "max_dimension", "Numbers in a vector.", DEFAULT_LIMITS.max_dimension
    )
    max_shards: int = _limit("max_shards", "Shards of a collection.", DEFAULT_LIMITS.max_shards)
    max_id_bytes: int = _limit(
        "max_id_bytes", "Bytes of a record ID in UTF-8.", DEFAULT_LIMITS.max_id_bytes
    )
    max_document_bytes: int = _limit("max_document_bytes", "Bytes of a document in UTF-8.")
    max_uri_bytes: int = _limit("max_uri_bytes", "Bytes of a URI in UTF-8.")
    max_metadata_key_bytes: int = _limit(
        "max_metadata_key_bytes",
        "Bytes of a metadata key in UTF-8.",
        DEFAULT_LIMITS.max_metadata_key_bytes,
    )
    max_metadata_keys: int = _limit("max_metadata_keys", "Keys of a record's metadata.")
    max_metadata_bytes: int = _limit(
        "max_metadata_bytes", "Bytes of a record's metadata, keys and values."
    )
    max_n_results: int = _limit("max_n_results", "Matches wanted of one query.")
    max_queries: int = _limit("max_queries", "Queries in one call.")
    max_query_results: int = _limit(
        "max_query_results", "Queries times matches wanted, in one call."
    )
    max_filter_depth: int = _limit(
        "max_filter_depth", "Depth of a filter.", DEFAULT_LIMITS.max_filter_depth
    )
    max_filter_clauses: int = _limit(
        "max_filter_clauses", "Conditions and combinations in a filter."
    )
    max_page_records: int = _limit(
        "max_page_records", "Records in one page; also IDs given to one get or delete."
    )

    def __post_init__(self) -> None:
        RoleSettings.__post_init__(self)
        check_together(self, "tls_cert", "tls_key")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca is given without tls_cert and tls_key: give all three")

    @property
    def authenticates(self) -> bool:
        """Whether callers must show who they are."""
        return self.auth or self.tls_client_ca is not None

    @property
    def wanted_authentication(self) -> str:
        """What would make them."""
        return "auth, or tls_client_ca"

    @property
    def public_certificates(self) -> Certificates | None:
        """Certificates of the public port; None: plaintext.

        Raises:
            InvalidArgumentError: They cannot be used.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Certificates(self.tls_cert, self.tls_key, self.tls_client_ca, use="public")

    @property
    def limits(self) -> Limits:
        """The bounds of requests and answers."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})
