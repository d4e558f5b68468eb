"""What runs in a data directory, as `shoal up` writes it and `shoal status` reads it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["RoleState", "RunState"]

_FILE: Final = "run.json"


@dataclass(frozen=True, slots=True)
class RoleState:
    """One role's process.

    Attributes:
        name: For example ``worker-1``; unique.
        role: ``coordinator``, ``worker`` or ``gateway``; ``all`` where they share a process.
        process: Its ID; 0 if it does not run.
        host: Where others reach its ports.
        port: Of its gRPC services.
        health_port: Of grpc.health.v1.
        metrics_port: Of HTTP ``/metrics``.
        restarts: How often it was started again since `shoal up`.
    """

    name: str
    role: str
    process: int
    host: str
    port: int
    health_port: int
    metrics_port: int
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class RunState:
    """A cluster that runs, or the last one that ran.

    Attributes:
        process: ID of `shoal up`.
        worker_count: Workers that were asked for.
        is_ready: Whether it has been ready.
        roles: Coordinator, workers, gateway.
    """

    process: int
    worker_count: int
    is_ready: bool
    roles: tuple[RoleState, ...]

    @property
    def gateway(self) -> RoleState:
        """The role that serves the public API."""
        return self.roles[-1]

    def write(self, directory: Path) -> None:
        """Replace what the directory says. Readers see the former or the new one whole."""
        beside = directory / f"{_FILE}.new"
        beside.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        beside.replace(directory / _FILE)

    @classmethod
    def read(cls, directory: Path) -> RunState | None:
        """Read what a directory says; None if it says nothing, or nothing that makes sense."""
        try:
            content = json.loads((directory / _FILE).read_text(encoding="utf-8"))
            roles = tuple(RoleState(**role) for role in content.pop("roles"))
            return cls(**content, roles=roles) if roles else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # Only ports are remembered here: without it new ones are taken.
            return None
