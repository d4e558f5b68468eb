"""The Helm chart: what it makes is what Kubernetes takes, and what the roles take."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from shoal.errors import UnauthenticatedError
from shoal.server.health import LIVE
from shoal.server.keys import ApiKey
from shoal.server.settings import RoleSettings, load
from shoal_coordinator.settings import CoordinatorSettings
from shoal_gateway.settings import GatewaySettings
from shoal_local import backups
from shoal_worker.settings import WorkerSettings
from tests.deploy.cluster import RunningCluster
from tests.deploy.helm import CHART, Binary, Document, Engine, HelmRefusal, Library
from tests.deploy.tools import ROOT
from tests.security.certificates import Files
from tools import deploy_tools, generate_chart_schema

OLDEST: Final = "1.27"
NEWEST: Final = "1.37"

ROLES: Final[dict[str, type[RoleSettings]]] = {
    "coordinator": CoordinatorSettings,
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
}

# Nobody is asked who they are.
PLAIN: Final[dict[str, Any]] = {"config": {"insecure": True}}

# Every value that has a default of another kind, or adds or changes a document.
EVERYTHING: Final[dict[str, Any]] = {
    "nameOverride": "vectors",
    "clusterDomain": "example.internal",
    "listenAddress": "::",
    "commonLabels": {"team": "search"},
    "image": {
        "repository": "registry.example/shoal",
        "digest": "sha256:" + "0" * 64,
        "pullSecrets": [{"name": "registry"}],
    },
    "serviceAccount": {"annotations": {"note": "none"}},
    "auth": {"enabled": True, "bootstrapKey": {"secretName": "first-key", "key": "key"}},
    "tls": {
        "cluster": {"secretName": "between-roles"},
        "public": {"secretName": "for-clients"},
    },
    "snapshots": {
        "store": "s3://bucket/shoal",
        "credentialsSecret": "bucket",
        "env": [{"name": "AWS_REGION", "value": "eu-central-1"}],
        "egress": [{"ports": [{"port": 9000, "protocol": "TCP"}]}],
    },
    "backup": {
        "enabled": True,
        "schedule": "*/30 1-3 * * *",
        "timeZone": "Etc/UTC",
        "prefix": "half-hourly",
        "keep": 3,
        "apiKey": {"secretName": "key-for-backups"},
        "clientCertificateSecret": "certificate-for-backups",
    },
    "config": {"log_level": "debug", "default_timeout_s": 2.5, "stop_grace_s": 5},
    "coordinator": {
        "config": {"allow_reset": True, "lease_s": 6},
        "persistence": {"storageClass": "fast", "annotations": {"backup": "no"}},
        "priorityClassName": "system-cluster-critical",
    },
    "worker": {
        "replicas": 5,
        "config": {"memory_bytes": 2**31, "read_threads": 4, "log_format": "console"},
        "persistence": {"size": "1Ti", "whenDeleted": "Delete"},
        "podDisruptionBudget": {"maxUnavailable": "25%"},
        "podLabels": {"sidecar": "none"},
        "podAnnotations": {"note": "a"},
        "nodeSelector": {"disk": "nvme"},
        "tolerations": [{"key": "shoal", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}
                    ]
                }
            }
        },
    },
    "gateway": {
        "config": {"max_batch_records": 1000},
        "autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 30},
        "service": {
            "type": "LoadBalancer",
            "port": 443,
            "annotations": {"cloud": "internal"},
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
        },
        "preStopSeconds": 0,
    },
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"team": "search"}}}],
        "monitoring": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        "dnsPort": 5353,
    },
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True, "annotations": {"folder": "Shoal"}},
    },
}

LEAST: Final[dict[str, Any]] = {
    **PLAIN,
    "snapshots": {"claimName": "shared"},
    "backup": {"enabled": True},
    "serviceAccount": {"create": False},
    "networkPolicy": {"enabled": False},
    "worker": {
        "replicas": 1,
        "spread": {"hosts": "", "zones": ""},
        "podDisruptionBudget": {"enabled": False},
    },
    "gateway": {"podDisruptionBudget": {"enabled": False}},
}

VALUES: Final = {"defaults": PLAIN, "everything": EVERYTHING, "least": LEAST}


@pytest.fixture(params=["binary", "library"], scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "library":
        return Library(NEWEST)
    found = deploy_tools.find("helm")
    if found is None:
        pytest.skip("no helm on this machine (`make deploy-tools` brings it): the library is used")
    return Binary(str(found), NEWEST)


def _kind(documents: list[Document], kind: str, suffix: str = "") -> Document:
    (found,) = (
        d for d in documents if d["kind"] == kind and d["metadata"]["name"].endswith(suffix)
    )
    return found


def _pods(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents:
        if document["kind"] in ("StatefulSet", "Deployment"):
            template = document["spec"]["template"]
            role = template["metadata"]["labels"]["app.kubernetes.io/component"]
            yield role, template["spec"]


def _files(documents: list[Document]) -> dict[str, str]:
    """Give the configuration file of each role."""
    return {role: _kind(documents, "ConfigMap", f"-{role}")["data"]["shoal.toml"] for role in ROLES}


@pytest.mark.parametrize("name", VALUES)
def test_the_linter_has_nothing_to_say(engine: Engine, name: str) -> None:
    engine.lint(VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_takes_every_document(engine: Engine, name: str) -> None:
    documents = engine.render(VALUES[name])
    assert len({(d["kind"], d["metadata"]["name"]) for d in documents}) == len(documents)
    for document, version in itertools.product(documents, (OLDEST, NEWEST)):
        if document["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # below: the operator's own kinds
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{document['kind']} {document['metadata']['name']}: {error}")


def test_the_schemas_would_refuse_a_mistake() -> None:
    documents = Library(NEWEST).render(PLAIN)
    worker = _kind(documents, "StatefulSet", "-worker")
    worker["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(worker, NEWEST, strict=True)


def test_both_engines_make_the_same(engine: Engine) -> None:
    if isinstance(engine, Library):
        pytest.skip("compared from the other side")

    def keyed(documents: list[Document]) -> dict[tuple[str, str], Document]:
        return {(d["kind"], d["metadata"]["name"]): d for d in documents}

    assert keyed(engine.render(EVERYTHING)) == keyed(Library(NEWEST).render(EVERYTHING))


@pytest.mark.parametrize("name", VALUES)
def test_each_role_takes_its_file(name: str, tmp_path: Path) -> None:
    for role, text in _files(Library(NEWEST).render(VALUES[name])).items():
        file = tmp_path / f"{role}.toml"
        file.write_text(text)
        given = load(
            ROLES[role],
            role=role,
            program="test",
            description="",
            arguments=["--config", str(file)],
            environment={},
        )
        if name == "everything":
            assert (given.default_timeout_s, given.host) == (2.5, "::")
            assert given.log_format == ("console" if role == "worker" else "json")
        if isinstance(given, CoordinatorSettings):
            replicas = VALUES[name].get("worker", {}).get("replicas", 3)
            assert given.expected_workers == replicas
        else:
            release, domain = ("demo-vectors", "example.internal")
            if name != "everything":
                release, domain = ("demo-shoal", "cluster.local")
            address = f"{release}-coordinator.prod.svc.{domain}:7710"
            assert dataclasses.asdict(given)["coordinator"] == address


def test_ports_agree_from_file_to_probe_and_service() -> None:
    documents = Library(NEWEST).render(PLAIN)
    pods = dict(_pods(documents))
    for role, text in _files(documents).items():
        ports = dict(re.findall(r"^(port|health_port|metrics_port) = (\d+)$", text, re.MULTILINE))
        (container,) = pods[role]["containers"]
        declared = {p["name"]: p["containerPort"] for p in container["ports"]}
        assert declared == {
            "grpc": int(ports["port"]),
            "health": int(ports["health_port"]),
            "metrics": int(ports["metrics_port"]),
        }
        for probe, service in (
            ("startupProbe", LIVE),
            ("livenessProbe", LIVE),
            ("readinessProbe", None),
        ):
            asked = container[probe]["grpc"]
            assert (asked["port"], asked.get("service")) == (declared["health"], service)
        (port,) = _kind(documents, "Service", f"-{role}")["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (declared["grpc"], "grpc")


def test_commands_are_those_of_the_distribution() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for _, pod in _pods(Library(NEWEST).render(PLAIN)):
        assert pod["containers"][0]["command"][0] in scripts


def test_every_container_is_locked_down() -> None:
    documents = Library(NEWEST).render(PLAIN)
    backup = _kind(Library(NEWEST).render(EVERYTHING), "CronJob")["spec"]["jobTemplate"]["spec"]
    pods = dict(_pods(documents)) | {
        "test": _kind(documents, "Pod")["spec"],
        "backup": backup["template"]["spec"],
    }
    assert set(pods) == {*ROLES, "test", "backup"}
    for pod in pods.values():
        assert pod["automountServiceAccountToken"] is False
        # Or a Service called shoal would give settings that nobody meant.
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def _backup_arguments(values: dict[str, Any]) -> list[str]:
    job = _kind(Library(NEWEST).render(values), "CronJob")["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"][:3] == ["shoal", "backup", "create"]
    arguments: list[str] = container["command"][2:]
    return arguments


@pytest.mark.parametrize("name", ["everything", "least"])
def test_the_command_takes_what_the_backup_job_says(name: str) -> None:
    given = backups.make_parser().parse_args(_backup_arguments(VALUES[name]))
    release, domain = ("demo-shoal", "cluster.local")
    port, prefix, keep = 7700, "scheduled", 7
    if name == "everything":
        release, domain = ("demo-vectors", "example.internal")
        port, prefix, keep = 443, "half-hourly", 3
        assert str(given.tls_ca) == "/etc/shoal-tls/public/ca.crt"
        assert str(given.tls_key) == "/etc/shoal-tls/client/tls.key"
    assert given.address == f"{release}-gateway.prod.svc.{domain}:{port}"
    assert (given.prefix, given.keep) == (prefix, keep)


def test_backups_are_taken_with_a_key_if_keys_are_asked_for() -> None:
    def key(values: dict[str, Any]) -> dict[str, Any]:
        job = _kind(Library(NEWEST).render(values), "CronJob")["spec"]["jobTemplate"]["spec"]
        (variable,) = job["template"]["spec"]["containers"][0]["env"]
        assert variable["name"] == "SHOAL_API_KEY"
        found: dict[str, Any] = variable["valueFrom"]["secretKeyRef"]
        return found

    assert key(EVERYTHING) == {"name": "key-for-backups", "key": "api-key"}
    own = {k: v for k, v in EVERYTHING["backup"].items() if k != "apiKey"}
    assert key(EVERYTHING | {"backup": own}) == {"name": "first-key", "key": "key"}
    without = EVERYTHING | {"backup": own, "auth": {"enabled": True}}
    with pytest.raises(HelmRefusal, match=r"backup\.apiKey\.secretName"):
        Library(NEWEST).render(without)


@pytest.mark.parametrize(
    ("snapshots", "store"),
    [
        ({}, None),
        ({"store": "s3://bucket/prefix"}, "s3://bucket/prefix"),
        ({"claimName": "shared"}, "/var/lib/shoal-snapshots"),
    ],
    ids=str,
)
def test_coordinator_and_workers_reach_the_snapshot_store(
    snapshots: dict[str, Any], store: str | None
) -> None:
    values = PLAIN | {"snapshots": {**snapshots, "credentialsSecret": "bucket"}}
    documents = Library(NEWEST).render(values)
    config = tomllib.loads(_files(documents)["coordinator"])["coordinator"]
    assert config.get("snapshot_store") == store
    for role, pod in _pods(documents):
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        takes_part = role != "gateway"
        is_shared = takes_part and "claimName" in snapshots
        assert mounts.get("snapshots") == (store if is_shared else None)
        secrets = [{"secretRef": {"name": "bucket"}}] if takes_part else None
        assert container.get("envFrom") == secrets
        egress = _kind(documents, "NetworkPolicy", f"-{role}")["spec"]["egress"]
        lets_out = any(443 in [p["port"] for p in rule["ports"]] for rule in egress)
        assert lets_out == (takes_part and "store" in snapshots)


def test_only_gateways_and_the_coordinator_reach_workers() -> None:
    policy = _kind(Library(NEWEST).render(PLAIN), "NetworkPolicy", "-worker")["spec"]
    calls, scrapes = policy["ingress"]
    assert [p["port"] for p in calls["ports"]] == [7720]
    callers = {
        p["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for p in calls["from"]
    }
    assert callers == {"gateway", "coordinator"}
    assert [p["port"] for p in scrapes["ports"]] == [7722]


def test_the_smoke_test_and_backups_may_call_gateways_that_others_may_not() -> None:
    documents = Library(NEWEST).render(EVERYTHING)
    policy = _kind(documents, "NetworkPolicy", "-gateway")["spec"]
    *_, test, backup = policy["ingress"][0]["from"]
    labels = _kind(documents, "Pod")["metadata"]["labels"]
    assert test["podSelector"]["matchLabels"].items() <= labels.items()
    pod = _kind(documents, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    assert backup["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_a_worker_is_known_by_a_name_that_its_service_gives_before_it_is_ready() -> None:
    documents = Library(NEWEST).render(PLAIN)
    service, workers = (_kind(documents, kind, "-worker") for kind in ("Service", "StatefulSet"))
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert workers["spec"]["serviceName"] == service["metadata"]["name"]
    command = workers["spec"]["template"]["spec"]["containers"][0]["command"]
    name = f"$(POD_NAME).{service['metadata']['name']}.prod.svc.cluster.local:7720"
    assert command[-2:] == ["--advertise", name]


def test_only_the_roles_whose_configuration_changes_are_restarted() -> None:
    def checksums(values: dict[str, Any]) -> dict[str, str]:
        documents = Library(NEWEST).render(values)
        return {
            d["metadata"]["name"]: d["spec"]["template"]["metadata"]["annotations"][
                "checksum/config"
            ]
            for d in documents
            if d["kind"] in ("StatefulSet", "Deployment")
        }

    before = checksums(PLAIN)
    after = checksums(PLAIN | {"gateway": {"config": {"max_queries": 7}}})
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"demo-shoal-gateway"}


@pytest.mark.parametrize(
    "values",
    [
        {"wroker": {}},
        {"worker": {"replicas": 0}},
        {"worker": {"config": {"memory_byte": 1}}},
        {"worker": {"config": {"memory_bytes": "1Gi"}}},
        {"worker": {"config": {"port": 1}}},
        {"worker": {"persistence": {"size": "50GB"}}},
        {"worker": {"persistence": {"accessModes": ["ReadWriteMany"]}}},
        {"worker": {"spread": {"hosts": "Maybe"}}},
        {"worker": {"podDisruptionBudget": {"maxUnavailable": 0}}},
        {"worker": {"resources": {"limit": {"memory": "1Gi"}}}},
        {"coordinator": {"replicas": 3}},
        {"coordinator": {"config": {"heartbeat_s": 0}}},
        {"gateway": {"service": {"type": "ClusterIp"}}},
        {"gateway": {"config": {"max_queries": 0}}},
        {"gateway": {"config": {"max_queries": 1.5}}},
        {"config": {"log_format": "text"}},
        {"config": {"max_queries": 5}},
        {"image": {"digest": "sha256:1"}},
        {"networkPolicy": {"clients": [{}]}},
        {"snapshots": {"store": "bucket"}},
        {"backup": {"schedule": "daily"}},
        {"backup": {"prefix": "Nightly"}},
        {"backup": {"keep": 0}},
        # What only the templates can see.
        {"backup": {"enabled": True}},
        {"snapshots": {"store": "s3://a/b", "claimName": "c"}},
        {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}},
        {"worker": {"terminationGracePeriodSeconds": 10}},
        {"gateway": {"config": {"stop_grace_s": 40}}},
    ],
    ids=str,
)
def test_nonsense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(HelmRefusal) as refusal:
        Library(NEWEST).render({**values, "config": PLAIN["config"] | values.get("config", {})})
    assert "are not authenticated" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "callers of the"),
        ({"auth": {"enabled": True}}, "callers of the worker"),
        ({"tls": {"cluster": {"secretName": "a"}}}, "callers of the gateway"),
        ({"gateway": {"config": {"insecure": True}}}, "callers of the worker"),
        (
            PLAIN | {"tls": {"public": {"requireClientCertificates": True}}},
            "without tls.public.secretName",
        ),
        (PLAIN | {"auth": {"bootstrapKey": {"secretName": "a"}}}, "without auth.enabled"),
    ],
    ids=str,
)
def test_what_everybody_could_do_must_be_meant_so(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmRefusal, match=complaint):
        Library(NEWEST).render(values)


def test_files_of_secrets_are_where_the_settings_say() -> None:
    documents = Library(NEWEST).render(EVERYTHING)
    for role, pod in _pods(documents):
        (container,) = pod["containers"]
        secrets = {v["name"]: v["secret"] for v in pod["volumes"] if "secret" in v}
        mounts = {
            m["mountPath"]: secrets[m["name"]]
            for m in container["volumeMounts"]
            if m["name"] in secrets
        }
        assert len(mounts) == len(secrets)
        paths = re.findall(r'= "(/etc/shoal-\S+)"$', _files(documents)[role], re.MULTILINE)
        assert {str(Path(path).parent) for path in paths} == set(mounts)
        files = {"worker": 3, "gateway": 5, "coordinator": 4}
        assert len(paths) == files[role]


def test_every_value_has_a_place_in_the_schema_and_every_group_a_comment() -> None:
    text = (CHART / "values.yaml").read_text()
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    def properties(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        found: dict[str, Any] = node.get("properties", {})
        return found

    values = yaml.safe_load(text)
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        inner = properties(schema["properties"][name])
        if isinstance(value, dict) and inner and name != "config":
            assert set(value) == set(inner), name
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-zA-Z]+:", line) and lines[number - 1] == "" and not line.endswith(":"):
            pytest.fail(f"values.yaml:{number + 1}: {line} has no comment")


def test_the_schema_has_the_settings_of_the_roles() -> None:
    schema = generate_chart_schema.SCHEMA.read_text()
    assert generate_chart_schema.generate(schema) == schema, "run `make chart-schema`"


def test_long_names_stay_within_what_kubernetes_takes() -> None:
    documents = Library(NEWEST).render(PLAIN, release="r" * 53)
    for document in documents:
        assert len(document["metadata"]["name"]) <= 63
        # Its name and the hash of its revision are a label of its pods.
        if document["kind"] == "StatefulSet":
            assert len(document["metadata"]["name"]) <= 63 - len("-0123456789")


def test_the_operators_kinds_are_made_of_what_prometheus_takes() -> None:
    documents = Library(NEWEST).render(EVERYTHING)
    monitor = _kind(documents, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    assert {r["targetLabel"] for r in endpoint["relabelings"]} == {"job", "shoal_cluster"}
    rule = _kind(documents, "PrometheusRule")
    sources = sorted((CHART / "rules").glob("*.yaml"))
    groups = [g for path in sources for g in yaml.safe_load(path.read_text())["groups"]]
    assert rule["spec"]["groups"] == groups


def test_the_dashboards_are_those_of_grafana() -> None:
    data = _kind(Library(NEWEST).render(EVERYTHING), "ConfigMap", "-dashboards")["data"]
    sources = {p.name: p.read_text() for p in (CHART / "dashboards").glob("*.json")}
    assert data == sources
    assert sum(map(len, data.values())) < 900_000  # a ConfigMap holds a mebibyte


def test_the_notes_name_the_service_that_balances() -> None:
    notes = Library(NEWEST).notes(PLAIN)
    assert "dns:///demo-shoal-gateway-headless.prod.svc.cluster.local:7700" in notes
    assert "round_robin" in notes
    assert "Whoever reaches a gateway" in notes
    assert "is deleted with the release" not in notes
    assert "is deleted with the release" in Library(NEWEST).notes(EVERYTHING)


@pytest.mark.long
@pytest.mark.cluster
def test_a_cluster_with_the_charts_files_passes_the_charts_test(tmp_path: Path) -> None:
    """With certificates between the roles and for clients, and an API key."""
    certificates = Files(tmp_path / "tls")
    key = ApiKey.generate().text
    (tmp_path / "api-key").write_text(key + "\n")
    documents = Library(NEWEST).render(EVERYTHING | {"listenAddress": "0.0.0.0"})
    configuration = {}
    for role, text in _files(documents).items():
        for place in ("/etc/shoal-tls/cluster", "/etc/shoal-tls/public"):
            text = text.replace(place, str(tmp_path / "tls"))
        configuration[role] = tmp_path / f"{role}.toml"
        configuration[role].write_text(text.replace("/etc/shoal-auth", str(tmp_path)))
    command = _kind(documents, "Pod")["spec"]["containers"][0]["command"]
    with RunningCluster(
        tmp_path,
        workers=1,
        configuration=configuration,
        api_key=key,
        authorities=certificates.authorities,
    ) as cluster:
        with pytest.raises(UnauthenticatedError), cluster.stranger() as stranger:
            stranger.list_collections()
        done = subprocess.run(
            [sys.executable, *command[1:]],
            env={
                **os.environ,
                "SHOAL_TEST_ADDRESS": f"127.0.0.1:{cluster.port}",
                "SHOAL_TEST_API_KEY": key,
                "SHOAL_TEST_CA": str(certificates.authorities),
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("created, wrote, searched and deleted")
