"""The units of systemd: sound, locked down, and made of settings that the roles have."""

from __future__ import annotations

import configparser
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import pytest

from shoal.server.settings import RoleSettings, load
from shoal_coordinator.settings import CoordinatorSettings
from shoal_gateway.settings import GatewaySettings
from shoal_worker.settings import WorkerSettings
from tests.deploy.tools import DEPLOY, require, run

PLACE: Final = DEPLOY / "systemd"
UNITS: Final = sorted(PLACE.glob("*.service"))
_Role = TypeVar("_Role", bound=RoleSettings)

_WORST_EXPOSURE: Final = 15
"""Of `systemd-analyze security`, in tenths; a unit without any protection has 96."""


def _values(unit: Path, section: str, key: str) -> list[str]:
    lines = unit.read_text().partition(f"[{section}]\n")[2].partition("\n[")[0].splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def _read(settings_class: type[_Role], role: str, environment: Mapping[str, str]) -> _Role:
    return load(
        settings_class,
        role=role,
        program="test",
        description="",
        arguments=["--config", str(PLACE / "shoal.toml")],
        environment=environment,
    )


def _settings() -> tuple[CoordinatorSettings, WorkerSettings, GatewaySettings]:
    worker = dict(
        line.split("=", 1)
        for line in (PLACE / "worker-1.env").read_text().splitlines()
        if line and not line.startswith("#")
    )

    return (
        _read(CoordinatorSettings, "coordinator", {}),
        _read(WorkerSettings, "worker", worker),
        _read(GatewaySettings, "gateway", {}),
    )


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    # The program need not be installed where it will be: any will do.
    stand_in = shutil.which("true")
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={stand_in}", unit.read_text(), flags=re.MULTILINE)
    assert stand_in is not None
    copy = tmp_path / unit.name
    copy.write_text(text)
    analyze = require("systemd-analyze", target="apt-get install systemd")
    assert run(analyze, "verify", "--man=no", "--recursive-errors=one", copy) == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_it_is_locked_down(unit: Path) -> None:
    analyze = require("systemd-analyze", target="apt-get install systemd")
    run(analyze, "security", "--offline=yes", f"--threshold={_WORST_EXPOSURE}", unit)


def test_the_settings_are_taken_and_fit_together() -> None:
    coordinator, worker, gateway = _settings()
    assert worker.coordinator == gateway.coordinator == f"{coordinator.host}:{coordinator.port}"
    ports = [
        port
        for role in (coordinator, worker, gateway)
        for port in (role.port, role.health_port, role.metrics_port)
    ]
    assert 0 not in ports
    assert len(set(ports)) == len(ports)


def test_data_lies_where_the_unit_may_write() -> None:
    coordinator, worker, _ = _settings()
    for name, data_dir in (
        ("shoal-coordinator.service", coordinator.data_dir),
        ("shoal-worker@.service", worker.data_dir),
    ):
        (state,) = _values(PLACE / name, "Service", "StateDirectory")
        places = [f"/var/lib/{part.replace('%i', '1')}" for part in state.split()]
        assert str(data_dir) in places


def test_systemd_waits_longer_than_calls_may_take_to_end() -> None:
    grace = max(role.stop_grace_s for role in _settings())
    for unit in UNITS:
        (timeout,) = _values(unit, "Service", "TimeoutStopSec")
        assert float(timeout) > grace


def test_all_units_have_the_same_protections() -> None:
    protections = []
    for unit in UNITS:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(unit.read_text())
        own = {"ExecStart", "StateDirectory", "StateDirectoryMode", "EnvironmentFile"}
        protections.append({k: v for k, v in parser["Service"].items() if k not in own})
    assert protections[0] == protections[1] == protections[2]
