"""A real service under load, and a real Prometheus that scrapes it by our configuration, only more often."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.traffic import Traffic
from tests.e2e.conftest import Service, serve
from tests.history.conftest import free_port, wait_until

__all__ = ["serve"]  # the fixture

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"


@dataclass(frozen=True)
class Monitored:
    """A service under load and what watches it.

    Attributes:
        service: what runs.
        worker_port: of the worker's metrics.
        url: of Prometheus.
    """

    service: Service
    worker_port: int
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """What Prometheus's API answers."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[float]:
        """A query's values now, NaN for what is undefined."""
        data = self.ask("query", query=query)
        if data["resultType"] == "scalar":
            return [float(data["result"][1])]
        return [float(series["value"][1]) for series in data["result"]]


# For a module, not the session: its callers would keep the tests of others waiting.
@pytest.fixture(scope="module")
def monitored(
    serve: Any, bundle: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitored")
    worker_port = free_port()
    settings = {
        "PADREC_GATEWAY__GRPC_PORT": "0",
        "PADREC_WORKER__METRICS_PORT": str(worker_port),
        # So that there is something to see of guesses, and, unless a module's own calls are to be taken, of a queue
        # that is full.
        "PADREC_WORKER__SPECULATION": "on",
        "PADREC_WORKER__MAX_BATCH": "2",
        "PADREC_WORKER__MAX_QUEUE": getattr(request.module, "MAX_QUEUE", "1"),
    }
    with serve(bundle, folder / "history.sqlite3", **settings) as service:
        gateway = service.url.removeprefix("http://")
        targets = {"padrec-gateway": gateway, "padrec-worker": f"127.0.0.1:{worker_port}"}
        with _prometheus(folder, targets) as url, Traffic(service.url, service.grpc).calling():
            yield Monitored(service, worker_port, url)


@contextmanager
def _prometheus(folder: Path, targets: dict[str, str]) -> Iterator[str]:
    if shutil.which("prometheus") is None:
        pytest.fail("prometheus is missing; run tests/ensure_packages.sh")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), "1s")
    config["rule_files"] = [str(PROMETHEUS / files) for files in config["rule_files"]]
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "prometheus",
        "web.listen-address": address,
        "log.level": "error",
    }
    process = subprocess.Popen(["prometheus", *(f"--{name}={value}" for name, value in options.items())])

    def is_ready() -> bool:
        assert process.poll() is None, "prometheus did not start"
        try:
            return httpx.get(f"http://{address}/-/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(is_ready, seconds=60)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)
