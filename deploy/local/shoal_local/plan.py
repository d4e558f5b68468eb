"""From settings to what is started: directories, addresses, ports, flags.

A role's settings keep their names and sources: flag (here ``--set worker.name=value``),
environment, file, default. `shoal up` itself decides what holds the roles together, and gives it
to them by flags, which come before everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from shoal.errors import FailedPreconditionError, InvalidArgumentError
from shoal.server.settings import RoleSettings, load
from shoal_coordinator.settings import CoordinatorSettings
from shoal_gateway.settings import GatewaySettings
from shoal_local.child import ChildPlan
from shoal_local.directory import DataDirectory
from shoal_local.ports import Ports
from shoal_local.settings import UpSettings
from shoal_local.state import RunState
from shoal_worker.settings import WorkerSettings

__all__ = ["Plan", "child_environment", "make_plan", "reachable"]

_Role = TypeVar("_Role", bound=RoleSettings)

_INTERNAL_HOST: Final = "127.0.0.1"

# What `shoal up` gives each role by flags. In the environment they mean the gateway, or nothing.
_DECIDED_HERE: Final = (
    "SHOAL_HOST",
    "SHOAL_PORT",
    "SHOAL_HEALTH_PORT",
    "SHOAL_METRICS_PORT",
    "SHOAL_DATA_DIR",
    "SHOAL_COORDINATOR",
    "SHOAL_ADVERTISE",
    "SHOAL_EXPECTED_WORKERS",
    "SHOAL_SET",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started.

    Attributes:
        coordinator: Its settings as they were read.
        worker: Those of every worker.
        gateway: Its settings.
        gateway_flags: The gateway's flags, its ports among them.
        children: Processes to start: coordinator, workers, gateways. None if all roles share one.
    """

    coordinator: CoordinatorSettings
    worker: WorkerSettings
    gateway: GatewaySettings
    gateway_flags: Sequence[str]
    children: Sequence[ChildPlan]


def make_plan(
    up: UpSettings, directory: DataDirectory, environment: Mapping[str, str], ports: Ports
) -> Plan:
    """Settle everything that is to be started.

    Args:
        up: What was asked for.
        directory: Held by the caller.
        environment: Of the caller.
        ports: Finds those of the roles; open for as long as these run.

    Raises:
        InvalidArgumentError: A role's setting is wrong, or a port is taken.
        FailedPreconditionError: The directory has more workers than are to be started.
    """
    left = directory.worker_numbers()
    if up.workers and left and left[-1] > up.workers:
        raise FailedPreconditionError(
            f"{directory.path} holds the shards of {left[-1]} workers: "
            f"start it with --workers {left[-1]} or more, or with --workers 0",
            metadata={"workers": str(left[-1])},
        )
    if up.gateways > 1 and not up.workers:
        raise InvalidArgumentError(
            f"--gateways {up.gateways} needs processes of their own for the roles: "
            "give --workers 1 or more"
        )
    flags = _role_flags(up)
    if up.gateways > 1:
        flags["gateway"].append("--share-port")
    inherited = child_environment(environment)
    coordinator = _read("coordinator", CoordinatorSettings, flags["coordinator"], inherited)
    if coordinator.snapshot_store is None:
        flags["coordinator"].append(f"--snapshot-store={directory.snapshots}")
        coordinator = _read("coordinator", CoordinatorSettings, flags["coordinator"], inherited)
    worker = _read("worker", WorkerSettings, flags["worker"], inherited)
    wished = _read("gateway", GatewaySettings, flags["gateway"], environment)
    public, health, metrics = _gateway_ports(up, wished, ports)
    if wished.auth and coordinator.bootstrap_key_file is None:
        flags["coordinator"].append(f"--bootstrap-key-file={directory.admin_key()}")
        coordinator = _read("coordinator", CoordinatorSettings, flags["coordinator"], inherited)
    flags["gateway"] += ["--host", wished.host]
    flags["gateway"] += _port_flags(public, health, metrics)
    if "SHOAL_CONFIG" in environment:
        # Where all roles share this process, its environment may not say so.
        flags["gateway"].append(f"--config={environment['SHOAL_CONFIG']}")
    gateway = _read("gateway", GatewaySettings, flags["gateway"], inherited)
    children: list[ChildPlan] = []
    if up.workers:
        children = _children(up, directory, flags, (coordinator, worker, gateway), ports)
    return Plan(coordinator, worker, gateway, flags["gateway"], children)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What roles inherit: all but what is decided here."""
    return {name: value for name, value in environment.items() if name not in _DECIDED_HERE}


def _role_flags(up: UpSettings) -> dict[str, list[str]]:
    """Each role's flags: those of `--set`, and the gateway's that are flags of `shoal up`, too."""
    flags: dict[str, list[str]] = {"coordinator": [], "worker": [], "gateway": []}
    for text in up.set:
        name, has_value, value = text.partition("=")
        role, _, field = name.partition(".")
        if not has_value or role not in flags or not field:
            raise InvalidArgumentError(
                f"--set {text}: a role, a setting and a value would be right, "
                "for example --set coordinator.allow_reset=true"
            )
        flag = field.replace("_", "-")
        if value in ("true", "false"):
            flags[role].append(f"--{flag}" if value == "true" else f"--no-{flag}")
        else:
            flags[role].append(f"--{flag}={value}")
    for role_flags in flags.values():
        logs = {"log-level": up.log_level, "log-format": up.log_format}
        role_flags += [f"--{name}={value}" for name, value in logs.items() if value is not None]
    own = {"host": up.host, "port": up.port}
    own |= {"health-port": up.health_port, "metrics-port": up.metrics_port}
    flags["gateway"] += [f"--{name}={v}" for name, v in own.items() if v is not None]
    switches = {"auth": up.auth, "insecure": up.insecure}
    flags["gateway"] += [
        f"--{name}" if v else f"--no-{name}" for name, v in switches.items() if v is not None
    ]
    return flags


def _read(
    role: str, settings_class: type[_Role], flags: Sequence[str], environment: Mapping[str, str]
) -> _Role:
    """Read a role's settings as its own process will, so that what is wrong is said before."""
    return load(
        settings_class,
        role=role,
        program=f"shoal-{role}",
        description="",
        arguments=flags,
        environment=environment,
    )


def _gateway_ports(up: UpSettings, wished: GatewaySettings, ports: Ports) -> tuple[int, int, int]:
    """Settle the gateway's ports: its own, health, metrics.

    One that was asked for is taken, or refused. The others are those beside the gateway's own, or
    free ones where these are taken.
    """

    def settle(wanted: int, flag: str) -> int:
        if not wanted:
            return ports.find(wished.host)
        if not ports.take(wished.host, wanted):
            raise FailedPreconditionError(
                f"port {wanted} on {wished.host} is in use: stop what listens there, "
                f"or give another one with {flag}",
                metadata={"port": str(wanted)},
            )
        return wanted

    public = settle(wished.port, "--port")

    def beside(name: str, given: int | None, offset: int) -> int:
        configured: int = getattr(wished, name)
        if given is not None or configured != GatewaySettings.__dataclass_fields__[name].default:
            return settle(configured, f"--{name.replace('_', '-')}")
        return ports.find(wished.host, preferred=(public + offset) % 65536)

    return (
        public,
        beside("health_port", up.health_port, 1),
        beside("metrics_port", up.metrics_port, 2),
    )


def _port_flags(port: int, health_port: int, metrics_port: int) -> list[str]:
    return [
        f"--port={port}",
        f"--health-port={health_port}",
        f"--metrics-port={metrics_port}",
    ]


def _children(
    up: UpSettings,
    directory: DataDirectory,
    flags: Mapping[str, Sequence[str]],
    settings: tuple[CoordinatorSettings, WorkerSettings, GatewaySettings],
    ports: Ports,
) -> list[ChildPlan]:
    coordinator, worker, gateway = settings
    former = RunState.read(directory.path)
    remembered = {role.name: role for role in former.roles} if former else {}

    def internal(name: str, role: RoleSettings, *own: str) -> ChildPlan:
        # The ports of the last run, if they are free: a worker's address is in the catalog, and one
        # that comes back at it is found even while the coordinator is down.
        before = remembered.get(name)
        former_ports = (
            (before.port, before.health_port, before.metrics_port) if before else (0,) * 3
        )
        port, health, metrics = (
            ports.find(_INTERNAL_HOST, preferred=former_port) for former_port in former_ports
        )
        kind = name.partition("-")[0]
        arguments = (
            *flags[kind],
            f"--host={_INTERNAL_HOST}",
            *_port_flags(port, health, metrics),
            *own,
        )
        return ChildPlan(
            name, kind, arguments, _INTERNAL_HOST, port, health, metrics, role.stop_grace_s
        )

    first = internal(
        "coordinator",
        coordinator,
        f"--data-dir={directory.coordinator}",
        f"--expected-workers={up.workers}",
    )
    address = f"--coordinator={_INTERNAL_HOST}:{first.port}"
    workers = [
        internal(f"worker-{n}", worker, f"--data-dir={directory.worker(n)}", address)
        for n in range(1, up.workers + 1)
    ]

    def public(name: str, health: int, metrics: int) -> ChildPlan:
        arguments = (*flags["gateway"], address, *_port_flags(gateway.port, health, metrics))
        return ChildPlan(
            name,
            "gateway",
            arguments,
            reachable(gateway.host),
            gateway.port,
            health,
            metrics,
            stop_grace_s=gateway.stop_grace_s,
        )

    others = [
        public(f"gateway-{n}", ports.find(gateway.host), ports.find(gateway.host))
        for n in range(2, up.gateways + 1)
    ]
    # The one whose ports were asked for comes last: it is what others are told of.
    last = public("gateway", gateway.health_port, gateway.metrics_port)
    return [first, *workers, *others, last]


def reachable(host: str) -> str:
    """Where a process on this machine reaches a server that listens there."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
