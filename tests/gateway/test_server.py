import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.config import GatewaySettings, HistorySettings, Settings, TracingSettings
from service.errors import BundleError, InputError
from service.gateway.server import run_gateway

RUN = """
import sys
from pathlib import Path
from service.config import Settings
from service.gateway.server import run_gateway
run_gateway(Path(sys.argv[1]), Settings.model_validate_json(sys.argv[2]))
print("returned")
"""


def settings_of(folder: Path, **gateway: Any) -> Settings:
    return Settings(
        gateway=GatewaySettings(**{"port": 0, "worker": f"unix:{folder}/worker.sock"} | gateway),
        history=HistorySettings(url=f"sqlite:///{folder}/history.sqlite3"),
    )


@contextmanager
def running(bundle: Path, settings: Settings) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A gateway process and its URL."""
    command = [sys.executable, "-c", RUN, str(bundle), settings.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = json.loads(process.stderr.readline())
            assert line["event"] == "gateway listening"
            yield process, line["url"]
        finally:
            process.kill()


def test_the_process_serves_stops_and_keeps_what_it_acknowledged(
    tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    bundle = make_bundle(tmp_path)
    settings = settings_of(tmp_path, default_deadline_ms=300)
    with running(bundle, settings) as (process, url), httpx.Client(base_url=url) as client:
        assert client.get("/health/live").status_code == 200
        assert client.post("/recommend", json={"user_id": "ann"}).json()["fallback"] == "cold_start"
        event = {"user_id": "ann", "item_id": "item-3", "event_id": "1"}
        assert client.post("/events", json={"events": [event]}).json()["accepted"] == 1
        assert client.get("/health/ready").json()["checks"] == {"worker": False, "history_store": True}
        assert client.post("/recommend", json={"user_id": "ann"}).status_code in (503, 504)
        assert "process_resident_memory_bytes" in client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate()
        assert (process.returncode, output) == (0, "returned\n")
        assert "Traceback" not in errors
        assert "ann" not in errors
    with running(bundle, settings) as (process, url):
        assert httpx.get(f"{url}/users/ann/history").json()["item_ids"] == ["item-3"]
        process.send_signal(signal.SIGKILL)


def test_a_collector_that_never_answers_keeps_nobody(
    tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracing = TracingSettings(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
        settings = settings_of(tmp_path).model_copy(update={"tracing": tracing})
        with running(make_bundle(tmp_path), settings) as (process, url):
            answer = httpx.post(f"{url}/recommend", json={"user_id": "ann"})
            assert (answer.status_code, answer.json()["fallback"]) == (200, "cold_start")
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=15)  # the supervisor's patience is not much longer
            assert (process.returncode, output) == (0, "returned\n")


def test_the_gateway_never_loads_torch() -> None:
    code = "import sys, service.gateway.server; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def _no_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gateway.server.configure_logging", lambda _: None)


@pytest.mark.usefixtures("_no_logging")
class TestRefusals:
    def test_a_port_in_use(self, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(InputError, match=f"{port}.* in use"):
                run_gateway(make_bundle(tmp_path), settings_of(tmp_path, port=port))

    def test_no_worker_address(self, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
        with pytest.raises(InputError, match=r"gateway\.worker"):
            run_gateway(make_bundle(tmp_path), settings_of(tmp_path, worker=None))

    def test_a_torn_bundle(self, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
        bundle = make_bundle(tmp_path)
        (bundle / "items.parquet").write_bytes(b"torn")
        with pytest.raises(BundleError, match=r"items\.parquet does not match"):
            run_gateway(bundle, settings_of(tmp_path))

    def test_a_history_file_that_cannot_be_used(
        self, tmp_path: Path, make_bundle: Callable[..., Path]
    ) -> None:
        bundle = make_bundle(tmp_path)
        (tmp_path / "history.sqlite3").write_bytes(b"something else" * 500)
        with pytest.raises(InputError, match=r"history file .*history\.sqlite3"):
            run_gateway(bundle, settings_of(tmp_path))

    def test_given_sockets_are_closed_in_any_case(self, tmp_path: Path) -> None:
        given = socket.create_server(("127.0.0.1", 0))
        with pytest.raises(BundleError, match="no such bundle"):
            run_gateway(tmp_path / "missing", settings_of(tmp_path), sockets=[given])
        assert given.fileno() == -1
