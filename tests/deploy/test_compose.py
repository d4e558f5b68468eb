"""The compose file: sound by the specification, and made of settings that the roles have."""

from __future__ import annotations

import json
from typing import Any, Final

import jsonschema
import pytest
import yaml

from shoal.server.settings import RoleSettings, load
from shoal_coordinator.settings import CoordinatorSettings
from shoal_gateway.settings import GatewaySettings
from shoal_worker.settings import WorkerSettings
from tests.deploy.tools import DEPLOY
from tools import deploy_tools

FILE: Final = DEPLOY / "compose" / "compose.yaml"
CLASSES: Final[dict[str, type[RoleSettings]]] = {
    "shoal-coordinator": CoordinatorSettings,
    "shoal-gateway": GatewaySettings,
    "shoal-worker": WorkerSettings,
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


@pytest.fixture(scope="module")
def settings(compose: dict[str, Any]) -> dict[str, RoleSettings]:
    """Give what each role's container is told, by the name of its service."""
    found = {}
    for name, service in compose["services"].items():
        command, *arguments = service.get("command", [""])
        if command not in CLASSES:
            continue
        variables = {f"SHOAL_{field}".upper() for field in CLASSES[command].__dataclass_fields__}
        assert set(service["environment"]) <= variables, name
        found[name] = load(
            CLASSES[command],
            role=command.removeprefix("shoal-"),
            program=command,
            description="",
            arguments=arguments,
            environment=service["environment"],
        )
    return found


def test_the_specification_takes_it(compose: dict[str, Any]) -> None:
    if not deploy_tools.COMPOSE_SCHEMA.exists():
        pytest.skip("the specification is not here: `make deploy-tools` brings it")
    schema = json.loads(deploy_tools.COMPOSE_SCHEMA.read_text())
    jsonschema.Draft7Validator(schema).validate(compose)
    compose["services"]["gateway"]["comand"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(compose)
    del compose["services"]["gateway"]["comand"]


def test_everyone_finds_the_others(settings: dict[str, RoleSettings]) -> None:
    coordinator = settings["coordinator"]
    workers = {name: s for name, s in settings.items() if isinstance(s, WorkerSettings)}
    gateway = settings["gateway"]
    assert isinstance(coordinator, CoordinatorSettings)
    assert isinstance(gateway, GatewaySettings)
    assert coordinator.expected_workers == len(workers) > 1
    assert gateway.coordinator == f"coordinator:{coordinator.port}"
    for name, worker in workers.items():
        assert worker.coordinator == f"coordinator:{coordinator.port}"
        assert worker.advertise == f"{name}:{worker.port}"


def test_data_lies_in_a_volume_of_its_own_and_below_its_root(
    compose: dict[str, Any], settings: dict[str, RoleSettings]
) -> None:
    volumes = []
    coordinator = settings["coordinator"]
    assert isinstance(coordinator, CoordinatorSettings)
    for name, role in settings.items():
        if isinstance(role, CoordinatorSettings | WorkerSettings):
            volume, snapshots = compose["services"][name]["volumes"]
            # What the coordinator names is the same directory for all who take part.
            assert snapshots == f"snapshots:{coordinator.snapshot_store}"
            source, _, target = volume.partition(":")
            volumes.append(source)
            assert str(role.data_dir.parent) == target
    assert len(set(volumes)) == len(volumes)
    assert set(volumes) <= set(compose["volumes"])


def test_containers_are_locked_down(
    compose: dict[str, Any], settings: dict[str, RoleSettings]
) -> None:
    for name, role in settings.items():
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert float(service["stop_grace_period"].removesuffix("s")) > role.stop_grace_s


def test_prometheus_scrapes_them_all(settings: dict[str, RoleSettings]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    targets = {
        target: job["job_name"]
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert targets == {
        f"{name}:{role.metrics_port}": f"shoal-{name.partition('-')[0]}"
        for name, role in settings.items()
    }


def test_what_is_mounted_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (FILE.parent / source).exists(), source
