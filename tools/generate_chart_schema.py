"""Write the roles' settings into the chart's values.schema.json, or check that they are not stale.

The chart takes a role's settings under ``<role>.config`` and refuses what the role itself would
refuse: an unknown name, a wrong type, a number out of range. The settings are declared once, in the
roles' dataclasses; the schema's ``$defs`` ``<role>Settings`` are made from these, all else in the
file is written by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, Final

from shoal.server.settings import RoleSettings
from shoal_coordinator.settings import CoordinatorSettings
from shoal_gateway.settings import GatewaySettings
from shoal_worker.settings import WorkerSettings

SCHEMA: Final = Path(__file__).parent.parent / "deploy" / "kubernetes" / "values.schema.json"

# Must agree with services, volumes, secrets and probes, so the chart settles them itself.
SETTLED: Final = frozenset(
    {
        "advertise",
        "auth",
        "bootstrap_key_file",
        "cluster_ca",
        "cluster_cert",
        "cluster_key",
        "coordinator",
        "data_dir",
        "expected_workers",
        "health_port",
        "host",
        "metrics_port",
        "port",
        "snapshot_store",
        "tls_cert",
        "tls_client_ca",
        "tls_key",
    }
)

CLASSES: Final[dict[str, type[RoleSettings]]] = {
    "common": RoleSettings,
    "coordinator": CoordinatorSettings,
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
}

_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the settings into the chart's schema.")
    parser.add_argument("--check", action="store_true", help="only fail if they are stale")
    check = parser.parse_args().check
    before = SCHEMA.read_text(encoding="utf-8")
    after = generate(before)
    if before == after:
        return 0
    if check:
        print(f"{SCHEMA} is stale: run `make chart-schema`", file=sys.stderr)
        return 1
    SCHEMA.write_text(after, encoding="utf-8")
    print(SCHEMA)
    return 0


def generate(text: str) -> str:
    """Give the schema with the settings of today."""
    schema = json.loads(text)
    for name, settings_class in CLASSES.items():
        schema["$defs"][f"{name}Settings"] = _settings(settings_class)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _settings(settings_class: type[RoleSettings]) -> dict[str, Any]:
    hints = typing.get_type_hints(settings_class)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            field.name: _property(hints[field.name], field.metadata)
            for field in sorted(dataclasses.fields(settings_class), key=lambda f: f.name)
            if field.name not in SETTLED
        },
    }


def _property(hint: Any, facts: typing.Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(hint, types.UnionType):
        (hint,) = (a for a in hint.__args__ if a is not types.NoneType)
    made: dict[str, Any] = {"description": facts["help"]}
    if typing.get_origin(hint) is typing.Literal:
        return made | {"enum": list(typing.get_args(hint))}
    made["type"] = _TYPES[hint]
    return made | {k: facts[k] for k in ("minimum", "maximum") if facts.get(k) is not None}


if __name__ == "__main__":
    sys.exit(main())
