"""The command `shoal`: a cluster on this machine, started, looked at, shown."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from shoal.errors import InvalidArgumentError, ShoalError
from shoal.server import logs
from shoal.server.process import EXIT_FAILED, EXIT_WRONG_SETTINGS
from shoal.server.settings import load
from shoal_local import early
from shoal_local.directory import DataDirectory
from shoal_local.plan import Plan, child_environment, make_plan
from shoal_local.ports import Ports, held
from shoal_local.settings import UpSettings
from shoal_local.state import RunState

__all__ = ["main"]

_USAGE: Final = """\
usage: shoal COMMAND ...

A vector-collection database on this machine.

commands:
  up        run a cluster until Ctrl-C           shoal up --data DIR --workers N --port P
  status    show roles, processes, ports, shards shoal status --data DIR
  keys      create, list and revoke API keys     shoal keys create --help
  quotas    set, remove and list quotas          shoal quotas set --help
  snapshots take and restore snapshots           shoal snapshots create --help
  backup    back the whole cluster up, restore   shoal backup create --help
  export    write a collection into a file       shoal export NAME NAME.parquet
  import    read a file, or a Chroma store       shoal import NAME.parquet
  demo      load real data, search it, kill a worker, show that nothing is lost
  version   print the version

Each command explains itself with --help.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and give its exit code: 0, 1 for a failure, 2 for wrong arguments."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("", [])
    commands = {
        "up": _up,
        "status": _status,
        "keys": _keys,
        "quotas": _quotas,
        "snapshots": _snapshots,
        "backup": _backup,
        "export": _export,
        "import": _import,
        "demo": _demo,
        "version": _version,
    }
    if command in commands:
        try:
            return commands[command](rest)
        except InvalidArgumentError as error:
            return _refuse(error, EXIT_WRONG_SETTINGS)
        except ShoalError as error:
            return _refuse(error, EXIT_FAILED)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    asked_for_help = command in ("", "-h", "--help", "help")
    print(_USAGE, end="", file=sys.stdout if asked_for_help else sys.stderr)
    if not asked_for_help:
        print(f"\nshoal: there is no command {command!r}", file=sys.stderr)
    return 0 if asked_for_help else EXIT_WRONG_SETTINGS


def _refuse(error: ShoalError, code: int) -> int:
    for line in error.message.splitlines():
        print(f"shoal: {line}", file=sys.stderr)
    return code


def _version(arguments: list[str]) -> int:
    argparse.ArgumentParser(prog="shoal version", description="Print the version.").parse_args(
        arguments
    )
    print(importlib.metadata.version("shoal"))
    return 0


def _status(arguments: list[str]) -> int:
    from shoal_local import status
    from shoal_local.access import add_arguments

    parser = argparse.ArgumentParser(
        prog="shoal status", description="Show what runs: roles, processes, ports, shards."
    )
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return status.show(parser.parse_args(arguments))


def _keys(arguments: list[str]) -> int:
    from shoal_local.keys import run

    return run(arguments)


def _quotas(arguments: list[str]) -> int:
    from shoal_local.quotas import run

    return run(arguments)


def _export(arguments: list[str]) -> int:
    from shoal_local.transfer import run_export

    return run_export(arguments)


def _import(arguments: list[str]) -> int:
    from shoal_local.transfer import run_import

    return run_import(arguments)


def _snapshots(arguments: list[str]) -> int:
    from shoal_local.snapshots import run

    return run(arguments)


def _backup(arguments: list[str]) -> int:
    from shoal_local.backups import run

    return run(arguments)


def _demo(arguments: list[str]) -> int:
    from shoal_local.demo import main as run_demo

    return run_demo(arguments)


def _up(arguments: list[str]) -> int:
    environment = _with_config(arguments, os.environ)
    up = load(
        UpSettings,
        role="local",
        program="shoal up",
        description="Run a coordinator, workers and a gateway on this machine until Ctrl-C. "
        "'ready' is printed when the cluster can serve.",
        arguments=arguments,
        environment=environment,
    )
    logs.configure(role="local", level=up.log_level or "info", form=up.log_format or "console")
    with DataDirectory(up.data) as directory, Ports() as found:
        plan = make_plan(up, directory, environment, found)
        print(
            f"shoal {importlib.metadata.version('shoal')}\n"
            f"data     {directory.path}\n"
            f"workers  {up.workers or 'in one process with all roles'}",
            flush=True,
        )
        if plan.gateway.auth:
            # Where it is, and not what it is: output is logged, shown, and kept.
            print(f"API key  in {plan.coordinator.bootstrap_key_file}", flush=True)
        if up.workers == 0:
            from shoal_local import single

            return single.run(directory, plan, on_ready=_announce)
        with contextlib.ExitStack() as stack:
            if plan.gateway.share_port:
                stack.enter_context(held(plan.gateway.host, plan.gateway.port))
            return asyncio.run(_supervise(directory, plan, environment))


def _with_config(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Hand the file given by a flag on to the roles, which read their own part of it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    with contextlib.suppress(SystemExit):  # `load` says what is wrong
        known, _ = parser.parse_known_args(list(arguments))
        if known.config:
            return {**environment, "SHOAL_CONFIG": known.config}
    return dict(environment)


async def _supervise(directory: DataDirectory, plan: Plan, environment: Mapping[str, str]) -> int:
    from shoal_local.supervisor import Supervisor

    gc.enable()
    stop = asyncio.Event()
    supervisor = Supervisor(
        directory,
        plan.children,
        environment=child_environment(environment),
        on_ready=_announce,
    )

    def received() -> None:
        if stop.is_set():
            supervisor.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received)
    if early.was_told_to_stop():
        stop.set()
    await supervisor.run(stop)
    return 0


def _announce(state: RunState) -> None:
    gateway = state.gateway
    print(f"gateway  {gateway.host}:{gateway.port}")
    print(f"health   {gateway.host}:{gateway.health_port}")
    print(f"metrics  http://{gateway.host}:{gateway.metrics_port}/metrics")
    print("ready", flush=True)
