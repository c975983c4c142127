"""deploy/k8s: built by kustomize, sound by its schemas and those of the operator, true to code and images."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry

from deploy.prometheus import build
from service.config import Settings
from service.gateway.server import DRAIN_SECONDS as GATEWAY_DRAIN
from service.telemetry.metrics import WorkerMetrics
from service.worker.worker import DRAIN_SECONDS as WORKER_DRAIN
from tests.deploy_files.reading import BIN, ROOT, USER, check_command, read_dockerfile, settings_of

KUBERNETES = "1.37"
FOLDER = ROOT / "deploy/k8s"
STAGES = read_dockerfile()
TARGETS = {"padrec-gateway": "gateway", "padrec-worker": "worker", "padrec-worker-cuda": "worker-cuda"}
REPLY_SECONDS = 1.0

Resource = dict[str, Any]


@cache
def kustomized(folder: Path) -> tuple[Resource, ...]:
    done = subprocess.run([BIN / "kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    return tuple(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=["cpu", "gpu", "cpu with TLS", "gpu with TLS"])
def resources(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Resource, ...]:
    overlay, _, tls = request.param.partition(" with ")
    folder = FOLDER
    if tls:
        # As docs/deploy.md says: the line is there, to be let in.
        folder = shutil.copytree(FOLDER, tmp_path_factory.mktemp("tls") / "k8s")
        file = folder / "overlays" / overlay / "kustomization.yaml"
        text = file.read_text()
        assert "  # - ../../components/tls" in text
        file.write_text(text.replace("  # - ../../components/tls", "  - ../../components/tls"))
    return kustomized(folder / "overlays" / overlay)


def of_kind(resources: tuple[Resource, ...], kind: str) -> dict[str, Resource]:
    return {one["metadata"]["name"]: one for one in resources if one["kind"] == kind}


def pod(workload: Resource) -> Resource:
    spec: Resource = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Resource) -> Resource:
    [one] = pod(workload)["containers"]
    return one  # type: ignore[no-any-return]


def image_of(workload: Resource) -> str:
    """The stage of the Dockerfile."""
    return TARGETS[container(workload)["image"].rpartition("/")[2].partition(":")[0]]


def environment(workload: Resource, resources: tuple[Resource, ...]) -> dict[str, str]:
    """What the process finds, of the image, the settings' map and the pod; of secrets something that might be there."""
    found = dict(STAGES[image_of(workload)].settings)
    for source in container(workload).get("envFrom", ()):
        found |= of_kind(resources, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for one in container(workload).get("env", ()):
        found[one["name"]] = one.get("value", "redis://redis:6379/0")
    return found


def settings(name: str, resources: tuple[Resource, ...]) -> Settings:
    return settings_of(environment(of_kind(resources, "Deployment")[name], resources))


def workloads(resources: tuple[Resource, ...]) -> Iterator[Resource]:
    yield from of_kind(resources, "Deployment").values()


def validate(resource: Resource) -> None:
    if resource["apiVersion"] != "monitoring.coreos.com/v1":
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        return
    # Made from the schemas of the operator's definitions; they drop what they do not know.
    known: Any = getattr(prometheus_operator, resource["kind"]).model_validate(resource)
    assert known.model_dump(mode="json", by_alias=True, exclude_unset=True) == resource


@pytest.mark.schema
def test_the_schemas(resources: tuple[Resource, ...]) -> None:
    kinds = {one["kind"] for one in resources}
    assert {"Deployment", "ServiceMonitor", "PrometheusRule"} <= kinds
    for one in resources:
        validate(one)
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "padrec"


@pytest.mark.schema
def test_what_is_wrong_is_seen(resources: tuple[Resource, ...]) -> None:
    for kind, path in (
        ("ServiceMonitor", ("spec", "endpoint")),
        ("PrometheusRule", ("spec", "groups", 0, "rule")),
        ("Deployment", ("spec", "template", "spec", "container")),
    ):
        wrong = deepcopy(next(one for one in resources if one["kind"] == kind))
        part: Any = wrong
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = []
        with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
            validate(wrong)


@pytest.mark.schema
def test_the_demos_schemas() -> None:
    for one in kustomized(FOLDER / "demo"):
        validate(one)
        if one["kind"] == "Job":
            command = container(one)["command"][-1]
            made = re.fullmatch(r"padrec (.*) && ln -sfn demo/bundle /bundles/current", command)
            assert made is not None
            check_command(made[1].split())
            settings_of(
                {each["name"]: each.get("value", "redis://redis:6379/0") for each in container(one)["env"]}
                | STAGES["tools"].settings
            )


def test_commands_exist(resources: tuple[Resource, ...]) -> None:
    for one in workloads(resources):
        check_command(container(one)["args"])
        for probe in probes(one).values():
            if "exec" in probe:
                assert probe["exec"]["command"][0] == "padrec"
                check_command(probe["exec"]["command"][1:])


def test_a_gateways_settings(resources: tuple[Resource, ...]) -> None:
    gateway, worker = (
        settings("padrec-gateway", resources).gateway,
        settings("padrec-worker", resources).worker,
    )
    service = of_kind(resources, "Service")["padrec-worker"]
    assert service["spec"]["clusterIP"] == "None"
    port = int(worker.listen.rpartition(":")[2])
    assert gateway.worker == f"dns:///padrec-worker:{port}"
    assert (gateway.worker_tls_ca is None) == (worker.tls_certificate is None)
    assert (gateway.worker_tls_certificate is None) == (worker.tls_client_ca is None)
    mounted = container(of_kind(resources, "Deployment")["padrec-gateway"])["volumeMounts"]
    mounts = {mount["mountPath"] for mount in mounted}
    for file in (gateway.keys_file, gateway.tls_certificate, gateway.worker_tls_ca):
        assert file is None or str(file.parent) in mounts
    assert str(gateway.bundle_folder) in mounts


def test_ports_are_those_of_the_settings(resources: tuple[Resource, ...]) -> None:
    gateway, worker = (
        settings("padrec-gateway", resources).gateway,
        settings("padrec-worker", resources).worker,
    )
    expected = {
        "padrec-gateway": {"http": gateway.port, "grpc": gateway.grpc_port},
        "padrec-worker": {"grpc": int(worker.listen.rpartition(":")[2]), "metrics": worker.metrics_port},
    }
    for name, ports in expected.items():
        named = container(of_kind(resources, "Deployment")[name])["ports"]
        assert {port["name"]: port["containerPort"] for port in named} == ports
        served = of_kind(resources, "Service")[name]["spec"]["ports"]
        assert {port["targetPort"]: port["port"] for port in served} == ports
    let_in = {
        (name, port["port"])
        for name in expected
        for policy in of_kind(resources, "NetworkPolicy").values()
        if policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/name") == name
        for rule in policy["spec"].get("ingress", ())
        for port in rule["ports"]
    }
    assert let_in == {(name, port) for name, ports in expected.items() for port in ports.values()}
    out = of_kind(resources, "NetworkPolicy")["padrec-gateway-to-worker"]["spec"]["egress"]
    assert [port["port"] for rule in out for port in rule["ports"]] == [expected["padrec-worker"]["grpc"]]


def test_nothing_is_let_in_or_out_that_is_not_named(resources: tuple[Resource, ...]) -> None:
    policy = of_kind(resources, "NetworkPolicy")["padrec-nothing-else"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for one in workloads(resources):
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()


def probes(workload: Resource) -> dict[str, Resource]:
    return {name: container(workload)[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}


def test_probes_ask_what_there_is(resources: tuple[Resource, ...], paths: set[str]) -> None:
    deployments = of_kind(resources, "Deployment")
    has_tls = settings("padrec-gateway", resources).gateway.tls_certificate is not None
    for probe in probes(deployments["padrec-gateway"]).values():
        assert probe["httpGet"]["path"].partition("?")[0] in paths
        assert probe["httpGet"].get("scheme", "HTTP") == ("HTTPS" if has_tls else "HTTP")
    port = settings("padrec-worker", resources).worker.listen.rpartition(":")[2]
    for probe in probes(deployments["padrec-worker"]).values():
        if has_tls:
            assert f"--grpc=127.0.0.1:{port}" in probe["exec"]["command"]
        else:
            assert probe["grpc"] == {"port": int(port)}


@pytest.fixture(scope="module")
def paths() -> set[str]:
    from service.gateway.access import METRICS_PATH
    from service.gateway.health import health_router

    router = health_router(None)  # type: ignore[arg-type]
    return {route.path for route in router.routes if isinstance(route, APIRoute)} | {METRICS_PATH}


def test_metrics_are_asked_for_where_they_are(resources: tuple[Resource, ...], paths: set[str]) -> None:
    for name, monitor in of_kind(resources, "ServiceMonitor").items():
        service = of_kind(resources, "Service")[name]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint["path"] in paths
        has_tls = name == "padrec-gateway" and settings(name, resources).gateway.tls_certificate is not None
        assert endpoint.get("scheme", "http") == ("https" if has_tls else "http")


def test_the_rules_are_those_of_prometheus(resources: tuple[Resource, ...]) -> None:
    assert build.FILE.read_text(encoding="utf-8") == build.text(), "run: python -m deploy.prometheus.build"
    files = sorted(build.RULES.glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert yaml.safe_load(build.text())["spec"]["groups"] == groups
    # Kustomize breaks long lines elsewhere.
    built = of_kind(resources, "PrometheusRule")["padrec"]["spec"]["groups"]
    words, expected = (json.dumps(one, sort_keys=True).replace("\\n", " ").split() for one in (built, groups))
    assert words == expected
    # Rules know gateways and workers by their jobs, which are called as the services that monitors find.
    assert set(of_kind(resources, "ServiceMonitor")) == {"padrec-gateway", "padrec-worker"}


def test_workers_are_scaled_by_a_metric_that_they_have(resources: tuple[Resource, ...]) -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    known = {metric.name for metric in registry.collect()}
    scaled = of_kind(resources, "HorizontalPodAutoscaler")["padrec-worker"]["spec"]["metrics"]
    [name] = [metric["pods"]["metric"]["name"] for metric in scaled if metric["type"] == "Pods"]
    adapter = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())
    [rule] = adapter["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].partition("{")[0] in known


def test_they_have_the_time_that_they_take_to_end(resources: tuple[Resource, ...]) -> None:
    gateway, worker = (of_kind(resources, "Deployment")[f"padrec-{name}"] for name in ("gateway", "worker"))
    delay = settings("padrec-gateway", resources).gateway.drain_delay_seconds
    assert delay >= 2 * probes(gateway)["readinessProbe"]["periodSeconds"]
    assert pod(gateway)["terminationGracePeriodSeconds"] > delay + GATEWAY_DRAIN
    sleep = container(worker)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(worker)["terminationGracePeriodSeconds"] > sleep + WORKER_DRAIN + REPLY_SECONDS
    liveness = probes(worker)["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > WORKER_DRAIN + REPLY_SECONDS


def test_selectors_meet_their_pods(resources: tuple[Resource, ...]) -> None:
    for name, one in of_kind(resources, "Deployment").items():
        labels = one["spec"]["template"]["metadata"]["labels"]
        selectors = [
            one["spec"]["selector"]["matchLabels"],
            of_kind(resources, "Service")[name]["spec"]["selector"],
            of_kind(resources, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"],
            *(spread["labelSelector"]["matchLabels"] for spread in pod(one)["topologySpreadConstraints"]),
        ]
        assert all(selector.items() <= labels.items() for selector in selectors)
        target = of_kind(resources, "HorizontalPodAutoscaler")[name]["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", name)


def test_pods_have_no_rights(resources: tuple[Resource, ...]) -> None:
    for one in (*workloads(resources), *kustomized(FOLDER / "demo")):
        if "template" not in one["spec"]:
            continue
        assert pod(one)["automountServiceAccountToken"] is False
        assert pod(one)["securityContext"]["runAsNonRoot"] is True
        assert pod(one)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(one)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if "padrec" in one["metadata"]["name"]:
            assert str(pod(one)["securityContext"]["runAsUser"]) == USER


def test_a_worker_has_what_its_image_needs(resources: tuple[Resource, ...]) -> None:
    worker = of_kind(resources, "Deployment")["padrec-worker"]
    on_gpu = image_of(worker) == "worker-cuda"
    assert ("nvidia.com/gpu" in container(worker)["resources"]["limits"]) == on_gpu
    written = [volume.strip('[]"') for volume in STAGES[image_of(worker)].all("VOLUME")]
    threads = settings("padrec-worker", resources).worker.num_threads
    assert str(threads) == container(worker)["resources"]["requests"]["cpu"]
    assert {*written, "/tmp"} <= {mount["mountPath"] for mount in container(worker)["volumeMounts"]}
