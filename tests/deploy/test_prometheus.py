"""Rules, alerts and dashboards: they are sound, and they ask for what the roles really tell."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import yaml

from shoal.errors import ShoalError
from shoal_local.ports import Ports
from tests.deploy.cluster import RunningCluster
from tests.deploy.tools import DEPLOY, ROOT, require, run
from tools import generate_dashboards

PROMETHEUS: Final = DEPLOY / "prometheus"
RULES: Final = sorted((PROMETHEUS / "rules").glob("*.yaml"))

# Told only once something has happened that should not.
OF_EVENTS: Final = {
    "shoal_refused_checkpoints_total",
    "shoal_gateway_watch_failures_total",
    "shoal_tls_loads_total",
    "shoal_gateway_quota_refusals_total",
    "shoal_gateway_access_failures_total",
    "shoal_dropped_indexes_total",
}
# Told only where there are certificates.
OF_TLS: Final = {"shoal_certificate_expiry_timestamp_seconds"}
METRIC: Final = re.compile(
    r"\b((?:shoal|grpc|process)_[a-z_]+|shoal:[a-z_]+:[a-z0-9_]+|up)\b(?=\{|\[|\)| |$)"
)


def _rules() -> list[dict[str, Any]]:
    groups = [g for path in RULES for g in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def _alerts() -> list[dict[str, Any]]:
    return [rule for rule in _rules() if "alert" in rule]


def _expressions() -> list[str]:
    """Give every expression of every dashboard."""
    found = []
    for path in sorted(generate_dashboards.DIRECTORY.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [target["expr"] for target in panel.get("targets", ())]
    return found


def _asked_for() -> set[str]:
    texts = [rule["expr"] for rule in _rules()] + _expressions()
    # Labels in `by`, `on` and selectors look like metrics.
    bare = (re.sub(r"\b(by|on|group_right) *\([^)]*\)", "", text) for text in texts)
    return {name for text in bare for name in METRIC.findall(re.sub(r"\{[^}]*\}", " ", text))}


def test_promtool_takes_rules_and_configuration() -> None:
    promtool = require("promtool")
    run(promtool, "check", "rules", *RULES)
    run(promtool, "check", "config", PROMETHEUS / "prometheus.yaml")


def test_every_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    run(require("promtool"), "test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yaml")))


def test_every_alert_is_tested_both_ways() -> None:
    cases: dict[str, set[bool]] = {}
    for path in (PROMETHEUS / "tests").glob("*.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                cases.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    # Each of these has series that must not fire beside those that must.
    one_sided = {"ShoalMemoryLow", "ShoalDiskLow", "ShoalDiskFull"}
    assert {name for name, fires in cases.items() if True in fires} == {
        alert["alert"] for alert in _alerts()
    }
    assert {name for name, fires in cases.items() if False not in fires} == one_sided


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    headings = {line.removeprefix("### ") for line in guide.splitlines() if line.startswith("### ")}
    for alert in _alerts():
        name = alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert name in headings, f"docs/operations.md has no section {name}"
    assert {h for h in headings if h.startswith("Shoal")} == {a["alert"] for a in _alerts()}


def test_rules_and_dashboards_ask_for_what_the_code_tells() -> None:
    """Against the source: a metric that was renamed is found without a cluster."""
    declared = re.compile(r"[\"']((?:shoal|grpc_server)_[a-z_]+)[\"']")
    told: set[str] = set()
    for folder in ("sdk/shoal/server", "coordinator", "gateway", "worker"):
        for path in (ROOT / folder).rglob("*.py"):
            told |= set(declared.findall(path.read_text()))
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    for name in _asked_for() - recorded - {"up"}:
        if name.startswith("process_"):
            continue  # the library's
        stem = re.sub(r"_(total|bucket|count|sum)$", "", name)
        assert {name, stem} & told, f"{name} is no metric of the roles"


def test_the_dashboards_are_those_of_their_source() -> None:
    wanted = generate_dashboards.generate()
    there = {p.name: p.read_text() for p in generate_dashboards.DIRECTORY.glob("*.json")}
    assert there == wanted, "run `make dashboards`"


class Prometheus:
    """A real one, that scrapes a cluster every second."""

    def __init__(self, cluster: RunningCluster, place: Path) -> None:
        self._ports = Ports()
        self._port = self._ports.find("127.0.0.1")
        jobs: dict[str, list[str]] = {}
        for role in cluster.roles:
            jobs.setdefault(f"shoal-{role.kind}", []).append(f"127.0.0.1:{role.metrics_port}")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in RULES],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": targets}]}
                for job, targets in jobs.items()
            ],
        }
        (place / "prometheus.yaml").write_text(yaml.safe_dump(config))
        with (place / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    require("prometheus"),
                    f"--config.file={place / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={place / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )

    def get(self, path: str, **parameters: str) -> Any:
        """Ask its API."""
        url = f"http://127.0.0.1:{self._port}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                pytest.fail(f"{parameters}: {error.read().decode()}")

    def query(self, expression: str) -> list[Any]:
        """Evaluate an expression, now."""
        found: list[Any] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        """Give the names of the alerts that fire."""
        alerts = self.get("/api/v1/alerts")["alerts"]
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def wait_until_ready(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 240
        while True:
            try:
                if self.query("count(up == 1)")[0]["value"][1] == "4":
                    return
            except (OSError, IndexError):
                pass
            assert time.monotonic() < deadline, "Prometheus does not see the cluster"
            time.sleep(0.2)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._ports.close()


def _load(cluster: RunningCluster, stop: threading.Event) -> None:
    """Write, search and err, until told to stop."""
    random = np.random.default_rng(1)
    with cluster.client() as client:
        collection = client.create_collection(
            "load", configuration={"hnsw": {"space": "l2", "shards": 4}}, embedding_function=None
        )
        number = 0
        while not stop.is_set():
            with contextlib.suppress(ShoalError):  # a worker is killed meanwhile
                vectors = random.standard_normal((50, 16)).astype(np.float32)
                ids = [f"{number}-{i}" for i in range(50)]
                collection.upsert(ids=ids, embeddings=vectors)
                collection.query(query_embeddings=vectors[:2], n_results=3)
                collection.delete(ids=ids[:2])
                collection.get(limit=1)
            number += 1
            stop.wait(0.05)


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[tuple[RunningCluster, Prometheus]]:
    require("prometheus")
    stop = threading.Event()
    with RunningCluster(tmp_path, workers=2) as cluster:
        prometheus = Prometheus(cluster, tmp_path)
        load = threading.Thread(target=_load, args=(cluster, stop))
        load.start()
        try:
            prometheus.wait_until_ready()
            yield cluster, prometheus
        finally:
            stop.set()
            load.join(timeout=240)
            prometheus.close()


@pytest.mark.long
@pytest.mark.cluster
def test_a_real_prometheus_finds_everything_and_sees_a_worker_die(
    observed: tuple[RunningCluster, Prometheus],
) -> None:
    cluster, prometheus = observed
    expressions = [e.replace("$cluster", ".*") for e in _expressions()]
    assert len(expressions) > 50

    deadline = time.monotonic() + 240
    while silent := [e for e in expressions if not prometheus.query(e)]:
        assert time.monotonic() < deadline, "\n".join(["these give nothing:", *silent])
        time.sleep(1)
    for name in sorted(_asked_for() - OF_EVENTS - OF_TLS):
        assert prometheus.query(f'{{__name__="{name}"}}'), f"nobody tells {name}"
    for rule in _rules():
        prometheus.query(rule["expr"])  # is taken, whether or not it holds now
    groups = prometheus.get("/api/v1/rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert prometheus.firing() == set()

    victim = cluster.workers[0]
    victim.kill()
    _wait_for(prometheus, {"ShoalShardsUnavailable", "ShoalRoleDown"}, 240)

    victim.start()
    deadline = time.monotonic() + 240
    while prometheus.firing() & {"ShoalShardsUnavailable", "ShoalRoleDown"}:
        assert time.monotonic() < deadline, "the alerts go on though the worker is back"
        time.sleep(0.5)


def _wait_for(prometheus: Prometheus, alerts: set[str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while missing := alerts - prometheus.firing():
        assert time.monotonic() < deadline, f"{missing} did not fire"
        time.sleep(0.5)
