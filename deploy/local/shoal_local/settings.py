"""What `shoal up` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shoal.server.settings import setting

__all__ = ["UpSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What `shoal up` can be told."""

    data: Path = setting(Path("shoal-data"), help="Directory that holds everything.")
    workers: int = setting(
        1,
        help="Worker processes; 0 runs all roles in one process.",
        minimum=0,
        maximum=64,
    )
    gateways: int = setting(
        1,
        help="Gateway processes, which share the port of the public API: the kernel spreads "
        "connections, so one client with one connection uses one of them. More than one pays on "
        "machines with more cores than the workers and a gateway keep busy.",
        minimum=1,
        maximum=64,
    )
    host: str | None = setting(
        None, help="Address of the public API; 0.0.0.0 for all. Default: the gateway's setting."
    )
    port: int | None = setting(
        None,
        help="Port of the public API; 0 for a free one. Default: the gateway's setting (7700).",
        minimum=0,
        maximum=65535,
    )
    health_port: int | None = setting(
        None,
        help="The gateway's health port. Default: the gateway's setting, else port + 1.",
        minimum=0,
        maximum=65535,
    )
    metrics_port: int | None = setting(
        None,
        help="The gateway's metrics port. Default: the gateway's setting, else port + 2.",
        minimum=0,
        maximum=65535,
    )
    log_level: Literal["debug", "info", "warning", "error"] | None = setting(
        None, help="Least severe events to log, of all roles. Default: each role's setting."
    )
    log_format: Literal["console", "json"] | None = setting(
        None, help="Lines for people, or one JSON object a line, of all roles."
    )
    auth: bool | None = setting(
        None,
        help="Ask for an API key in every call. The first key, with all rights, is made in the "
        "file admin.key in the data directory. Default: the gateway's setting.",
    )
    insecure: bool | None = setting(
        None,
        help="Serve other machines (--host) although callers are not authenticated. Default: the "
        "gateway's setting.",
    )
    set: tuple[str, ...] = setting(
        (),
        help="A role's setting, as ROLE.NAME=VALUE, for example coordinator.allow_reset=true; "
        "repeatable. The settings are those that shoal-coordinator, shoal-worker and shoal-gateway "
        "list with --help.",
    )
