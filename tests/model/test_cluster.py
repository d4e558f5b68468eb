"""A cluster of processes is indistinguishable from a dict, whichever of them is killed when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import shoal
from tests.cluster.running import RunningCluster
from tests.model.machine import CollectionMachine

pytestmark = pytest.mark.cluster

_SETTINGS = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    print_blob=False,
    # Processes are not killed in the same moment twice: a failure is shown as it came.
    phases=[Phase.generate],
)
_ROLES = ("gateway", "coordinator", "worker-1", "worker-2")


class ClusterDeployment:
    """Two workers, a coordinator and a gateway; disturbing it kills one of them."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster

    def client(self) -> shoal.Client:
        return shoal.Client(port=self._cluster.role("gateway")["port"])

    def disturb(self, choice: int) -> None:
        """Kill a role with SIGKILL, and for every other choice wait until it runs again.

        Otherwise the next call meets a cluster that lacks it, and must come through all the same.
        """
        name = _ROLES[choice % len(_ROLES)]
        former = self._cluster.kill(name)
        # A client gives up soon on a gateway that it never reached.
        if choice >= len(_ROLES) or name == "gateway":
            self._cluster.wait_for_restart(name, former)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[type[CollectionMachine]]:
    cluster = RunningCluster(tmp_path / "data", workers=2)

    class ClusterMachine(CollectionMachine):
        deployment = ClusterDeployment(cluster)

    try:
        yield ClusterMachine
    finally:
        cluster.stop()


def test_a_cluster_equals_a_dict(machine: type[CollectionMachine]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(_SETTINGS, max_examples=4, stateful_step_count=20)
    )


@pytest.mark.long
def test_a_cluster_equals_a_dict_for_long(machine: type[CollectionMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(_SETTINGS, derandomize=False, max_examples=40, stateful_step_count=40),
    )
