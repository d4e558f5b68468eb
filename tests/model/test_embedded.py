"""The embedded client is indistinguishable from a dict, whatever happens to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

import shoal
from tests.model.machine import CollectionMachine

_SETTINGS = settings(
    deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, print_blob=False
)


class EmbeddedDeployment:
    """A directory, opened by this process; disturbing it is to close and open it again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def client(self) -> shoal.Client:
        return shoal.PersistentClient(self._path)

    def disturb(self, choice: int) -> None:
        """The machine has closed its client already, and with it the store."""


@pytest.fixture
def machine(tmp_path: Path) -> type[CollectionMachine]:
    class EmbeddedMachine(CollectionMachine):
        deployment = EmbeddedDeployment(tmp_path / "data")

    return EmbeddedMachine


def test_the_embedded_client_equals_a_dict(machine: type[CollectionMachine]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(_SETTINGS, max_examples=15, stateful_step_count=25)
    )


@pytest.mark.long
def test_the_embedded_client_equals_a_dict_for_long(machine: type[CollectionMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(_SETTINGS, derandomize=False, max_examples=150, stateful_step_count=50),
    )
