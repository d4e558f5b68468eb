"""Write Grafana's dashboards from deploy/grafana/dashboards.yaml, or check that they are fresh.

There a dashboard is a list of rows, a row a list of panels, a panel a title, unit and expressions;
all else that Grafana's JSON wants is the same everywhere, and is written once, here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

SOURCE: Final = Path(__file__).parent.parent / "deploy" / "grafana" / "dashboards.yaml"
DIRECTORY: Final = SOURCE.parent / "dashboards"

_SCHEMA_VERSION: Final = 39  # of Grafana 10.4; newer ones bring it up to date themselves
_WIDTH: Final = 24
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# What a panel's unit is called there. Grafana has no unit for cores.
_UNITS: Final = {
    "bytes": "bytes",
    "cores": "short",
    "ops": "ops",
    "percentunit": "percentunit",
    "reqps": "reqps",
    "s": "s",
    "short": "short",
}


@dataclass(frozen=True, slots=True)
class Query:
    """An expression of PromQL, and a legend with labels in double braces."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel, as the source has it.

    Attributes:
        title: What it shows.
        unit: Of all it shows.
        meaning: Shown beside the title.
        stat: Shows the newest value of this expression.
        graph: Shows these over time.
        red_above: From here the newest value is shown in red.
        red_below: Up to here it is.
    """

    title: str
    unit: str
    meaning: str = ""
    stat: str = ""
    graph: tuple[Mapping[str, str], ...] = ()
    red_above: float | None = None
    red_below: float | None = None

    @property
    def queries(self) -> list[Query]:
        """What it asks for."""
        return [Query(self.stat, "")] if self.stat else [Query(**given) for given in self.graph]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write Grafana's dashboards.")
    parser.add_argument("--check", action="store_true", help="only fail if they are stale")
    check = parser.parse_args().check
    wanted = generate()
    there = {path.name for path in DIRECTORY.glob("*.json")}
    stale = [n for n, text in wanted.items() if n not in there or _read(n) != text]
    surplus = sorted(there - set(wanted))
    if check:
        for name in (*stale, *surplus):
            print(f"{DIRECTORY / name} is stale: run `make dashboards`", file=sys.stderr)
        return 1 if stale or surplus else 0
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (DIRECTORY / name).write_text(wanted[name], encoding="utf-8")
        print(DIRECTORY / name)
    for name in surplus:
        (DIRECTORY / name).unlink()
    return 0


def _read(name: str) -> str:
    return (DIRECTORY / name).read_text(encoding="utf-8")


def generate() -> dict[str, str]:
    """Give each file's text by its name."""
    source = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return {f"{d['uid']}.json": json.dumps(_dashboard(d), indent=2) + "\n" for d in source}


def _dashboard(source: Mapping[str, Any]) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for given in source["rows"]:
        row = [Panel(**panel) for panel in given["panels"]]
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": given["title"],
                "collapsed": False,
                "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        height = 4 if all(panel.stat for panel in row) else 8
        width = _WIDTH // len(row)
        for x, panel in enumerate(row):
            place = {"h": height, "w": width, "x": x * width, "y": y}
            panels.append(_panel(panel, len(panels) + 1, place))
        y += height
    return {
        "uid": source["uid"],
        "title": source["title"],
        "tags": ["shoal"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "Shoal", "tags": ["shoal"], "asDropdown": True}],
        "annotations": {"list": []},
        "templating": {"list": [_datasources(), _clusters()]},
        "panels": panels,
    }


def _datasources() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }


def _clusters() -> dict[str, Any]:
    return {
        "name": "cluster",
        "label": "Cluster",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": "label_values(shoal_build_info, shoal_cluster)", "refId": "clusters"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Also those without the label, of which there is one.
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_number = bool(panel.stat)
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
    made: dict[str, Any] = {
        "id": number,
        "type": "stat" if is_number else "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expression.replace("CLUSTER", 'shoal_cluster=~"$cluster"'),
                "legendFormat": query.legend or "__auto",
                "range": not is_number,
                "instant": is_number,
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": _UNITS[panel.unit],
                "min": None if is_number else 0,
                "thresholds": {"mode": "absolute", "steps": _steps(panel)},
                "color": {"mode": "thresholds" if is_number else "palette-classic"},
                "custom": {} if is_number else custom,
            },
            "overrides": [],
        },
    }
    if is_number:
        made["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
        }
    else:
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return made


def _steps(panel: Panel) -> list[dict[str, Any]]:
    if panel.red_above is not None:
        return [
            {"color": "green", "value": None},
            {"color": "red", "value": panel.red_above},
        ]
    if panel.red_below is not None:
        return [
            {"color": "red", "value": None},
            {"color": "green", "value": panel.red_below},
        ]
    return [{"color": "text", "value": None}]


if __name__ == "__main__":
    sys.exit(main())
