"""What the coordinator can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shoal.server.settings import RoleSettings, setting
from shoal_coordinator.membership import HEARTBEAT_S, LEASE_S, MAX_WORKERS

__all__ = ["CoordinatorSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings(RoleSettings):
    """The settings of the role `coordinator`."""

    # Others must find it, and it is one in a cluster: a port that can be known beforehand.
    port: int = setting(
        7710, help="Port of the role's gRPC services; 0 for a free one.", minimum=0, maximum=65535
    )
    data_dir: Path = setting(
        Path("shoal-coordinator-data"), help="Directory of the catalog; one process may use it."
    )
    expected_workers: int = setting(
        1,
        help="Workers that must have registered before the cluster says that it is ready.",
        minimum=0,
        maximum=MAX_WORKERS,
    )
    allow_reset: bool = setting(False, help="Allow the call that deletes everything.")
    recover_catalog: bool = setting(
        False,
        help="After the loss of the catalog, or with an older one from a backup: take in the"
        " collections that registering workers hold and the catalog does not know. With an empty"
        " data directory the coordinator joins the first worker's cluster.",
    )
    bootstrap_key_file: Path | None = setting(
        None,
        help="File with an API key, as `shoal keys generate` prints it, that has all rights as"
        " long as it stands there; the first key, and the way back in. Looked at every second.",
    )
    snapshot_store: str | None = setting(
        None,
        help="Where snapshots and backups lie: a directory that the coordinator and all workers"
        " share, or an object store: s3://BUCKET/PREFIX, gs://…, az://…, whose credentials each"
        " process takes from its environment. Without it there are none.",
    )
    heartbeat_s: float = setting(
        HEARTBEAT_S, help="Time between a worker's heartbeats, seconds.", minimum=0.05, maximum=60
    )
    lease_s: float = setting(
        LEASE_S,
        help="Time without a heartbeat after which a worker counts as lost, seconds.",
        minimum=0.1,
        maximum=600,
    )

    def __post_init__(self) -> None:
        RoleSettings.__post_init__(self)
        if self.lease_s < 2 * self.heartbeat_s:
            raise ValueError(
                f"lease_s is {self.lease_s}, heartbeat_s {self.heartbeat_s}:"
                " a lease of at least two heartbeats would be right"
            )
