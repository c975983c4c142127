"""docker-compose.yml is true to the code, the images and the files that it names; `make lint` knows its schema."""

from typing import Any

import pytest
import yaml

from service.gateway.server import DRAIN_SECONDS as GATEWAY_DRAIN
from service.worker.worker import DRAIN_SECONDS as WORKER_DRAIN
from tests.deploy_files.reading import ROOT, check_command, read_dockerfile, settings_of

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
STAGES = read_dockerfile()
OURS = [name for name, service in SERVICES.items() if "build" in service]
WORKERS = ("worker", "worker-gpu")


def environment(name: str) -> dict[str, str]:
    """What a service's process finds, of the image and of the file."""
    return STAGES[SERVICES[name]["build"]["target"]].settings | SERVICES[name].get("environment", {})


@pytest.mark.parametrize("name", OURS)
def test_commands_and_settings_exist(name: str) -> None:
    check_command(SERVICES[name]["command"])
    settings = settings_of(environment(name))
    if name == "gateway":
        aliases = [SERVICES[worker]["networks"]["back"]["aliases"] for worker in WORKERS]
        port = settings_of(environment("worker")).worker.listen.rpartition(":")[2]
        assert aliases == [["workers"], ["workers"]]
        assert settings.gateway.worker == f"dns:///workers:{port}"
        assert settings.gateway.example_users
    if name in ("gateway", "bundle"):
        assert settings.history.url.startswith("redis://redis:6379")


@pytest.mark.parametrize("name", SERVICES)
def test_what_every_service_is_bound_to(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    if name not in OURS:
        tag = service["image"].rpartition(":")[2]
        assert tag[:1].isdigit() or tag[:1] == "v"
    for port in service.get("ports", ()):
        assert name in ("gateway", "grafana")
        assert port.startswith("127.0.0.1:")


def test_what_they_wait_for_exists() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                has_check = "healthcheck" in SERVICES[other] or other in OURS
                assert has_check
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"].startswith("on-failure")


def test_volumes_and_folders_exist() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro")
            else:
                used.add(source)
    assert used == set(COMPOSE["volumes"])


def test_every_served_bundle_is_the_one_that_is_made() -> None:
    made = SERVICES["bundle"]["command"][-1]
    for name in ("gateway", *WORKERS):
        assert SERVICES[name]["command"][-1] == f"{made}/bundle"
        assert "bundles:/bundles:ro" in SERVICES[name]["volumes"]


def test_they_have_the_time_that_they_take_to_end() -> None:
    for name in ("gateway", *WORKERS):
        grace = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert (
            grace
            > settings_of(environment(name)).gateway.drain_delay_seconds
            + max(GATEWAY_DRAIN, WORKER_DRAIN)
            + 1
        )


def test_prometheus_asks_where_metrics_are() -> None:
    config = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())
    asked = {
        job["job_name"]: (job["dns_sd_configs"][0]["names"], job["dns_sd_configs"][0]["port"])
        for job in config["scrape_configs"]
    }
    assert asked == {
        "padrec-gateway": (["gateway"], settings_of(environment("gateway")).gateway.port),
        "padrec-worker": (["workers"], settings_of(environment("worker")).worker.metrics_port),
    }
