"""Variables that look like settings: which are refused, and which are somebody else's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.errors import InvalidArgumentError
from shoal.server.environment import SETTINGS, unknown
from shoal.server.settings import RoleSettings, load
from shoal_coordinator.settings import CoordinatorSettings
from shoal_gateway.settings import GatewaySettings
from shoal_local.settings import UpSettings
from shoal_worker.settings import WorkerSettings

_ROLES = (CoordinatorSettings, GatewaySettings, WorkerSettings, UpSettings)

# As Kubernetes sets them in every pod of a namespace with services `shoal` and `shoal-gateway`.
_KUBERNETES = {
    "SHOAL_SERVICE_HOST": "10.0.0.1",
    "SHOAL_SERVICE_PORT": "7700",
    "SHOAL_SERVICE_PORT_GRPC": "7700",
    "SHOAL_PORT": "tcp://10.0.0.1:7700",
    "SHOAL_PORT_7700_TCP": "tcp://10.0.0.1:7700",
    "SHOAL_PORT_7700_TCP_PROTO": "tcp",
    "SHOAL_PORT_7700_TCP_PORT": "7700",
    "SHOAL_PORT_7700_TCP_ADDR": "10.0.0.1",
    "SHOAL_GATEWAY_SERVICE_HOST": "10.0.0.2",
    "SHOAL_GATEWAY_SERVICE_PORT": "7700",
    "SHOAL_GATEWAY_PORT": "tcp://10.0.0.2:7700",
    "SHOAL_GATEWAY_PORT_7700_TCP": "tcp://10.0.0.2:7700",
    "SHOAL_GATEWAY_PORT_7700_TCP_ADDR": "10.0.0.2",
}


def _load(environment: dict[str, str]) -> RoleSettings:
    return load(
        RoleSettings,
        role="worker",
        program="shoal-worker",
        description="",
        arguments=[],
        environment=environment,
    )


def test_the_list_of_settings_is_that_of_all_roles() -> None:
    assert {f.name for role in _ROLES for f in dataclasses.fields(role)} == SETTINGS


def test_a_variable_that_is_no_setting_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        _load({"SHOAL_LOGLEVEL": "debug", "SHOAL_QQQ": "1", "PATH": "/bin"})
    first, second = str(caught.value).splitlines()
    assert first.endswith("SHOAL_LOGLEVEL is no setting: SHOAL_LOG_LEVEL would be right, or none")
    assert second.endswith("SHOAL_QQQ is no setting: --help lists the settings")


def test_what_other_roles_clients_and_tests_read_is_no_mistake() -> None:
    names = ("SHOAL_MEMORY_BYTES", "SHOAL_API_KEY", "SHOAL_MODEL_DIR", "SHOAL_TEST_ADDRESS")
    assert not list(unknown(dict.fromkeys(names, "1"), ()))


def test_what_kubernetes_sets_for_services_named_like_us_is_passed_over() -> None:
    assert _load(_KUBERNETES).port == 0
    assert _load({**_KUBERNETES, "SHOAL_HEALTH_PORT": "7"}).health_port == 7
    # Not a service's: a port that is given beside one.
    assert _load({**_KUBERNETES, "SHOAL_PORT": "7"}).port == 7


def test_shoal_up_refuses_one_too(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "shoal_local", "up", f"--data={tmp_path / 'data'}"],
        env={"PATH": "/bin", "SHOAL_WORKER": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "SHOAL_WORKER is no setting: SHOAL_WORKERS would be right" in ended.stderr
