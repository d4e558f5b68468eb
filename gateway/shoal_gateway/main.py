"""The gateway's process: ``shoal-gateway``, or ``python -m shoal_gateway``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.internal.v1.worker_service_pb2_grpc import (
    ShardControlServiceStub,
    ShardDataServiceStub,
)
from shoal.server.rpc import channel
from shoal.server.settings import RoleSettings, setting
from shoal.server.transport import AddressedChannel
from shoal.wire.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from shoal.internal.v1.worker_service_pb2_grpc import (
        ShardControlServiceAsyncStub,
        ShardDataServiceAsyncStub,
    )

__all__ = ["GatewaySettings", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(RoleSettings):
    """What the gateway can be told."""

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
    coordinator: str = setting("127.0.0.1:7710", help="host:port of the coordinator.")
    max_batch_records: int = setting(
        DEFAULT_LIMITS.max_batch_records, help="Records in one write.", minimum=1, maximum=1_000_000
    )
    max_n_results: int = setting(
        DEFAULT_LIMITS.max_n_results,
        help="Matches wanted of one query.",
        minimum=1,
        maximum=1_000_000,
    )

    @property
    def limits(self) -> Limits:
        """The bounds of requests and answers."""
        return Limits()


class _Workers:
    """Channels to workers, by worker and address."""

    def __init__(self) -> None:
        self._channels: dict[tuple[str, str], AddressedChannel] = {}

    def data_stub(self, worker_id: str, address: str) -> ShardDataServiceAsyncStub:
        return ShardDataServiceStub(self._channel(worker_id, address))

    def control_stub(self, worker_id: str, address: str) -> ShardControlServiceAsyncStub:
        return ShardControlServiceStub(self._channel(worker_id, address))

    async def release(self, worker_id: str, address: str) -> None:
        open_channel = self._channels.pop((worker_id, address), None)
        if open_channel is not None:
            await open_channel.close()

    def _channel(self, worker_id: str, address: str) -> AddressedChannel:
        key = (worker_id, address)
        if key not in self._channels:
            self._channels[key] = channel(address)
        return self._channels[key]
