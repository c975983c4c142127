"""`serve run` on this machine: a gateway and two workers, which answer as `padrec serve` does, and outlive a kill."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from tests.children import is_gone, until
from tests.e2e.conftest import Service
from tests.e2e.traffic import Traffic
from tests.history.conftest import free_port

ROOT = Path(__file__).parents[2]
CALLERS = 6
CANCELLED = 'padrec_worker_requests_total{outcome="cancelled"}'
ASKED_FOR = {"history": ["3", "4", "5"], "num_items": 10, "deadline_ms": 50_000}


class Ray(Service):
    """A running `serve run`; its processes are known by a folder in their environment."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path, ports: dict[str, int]) -> None:
        super().__init__(process, f"http://127.0.0.1:{ports['rest']}", f"127.0.0.1:{ports['grpc']}")
        self.metrics = [f"http://127.0.0.1:{ports['metrics'] + number}/metrics" for number in range(3)]
        self._mark = f"\0RAY_TMPDIR={folder}\0".encode()

    def processes(self) -> list[int]:
        """All that it started, itself included."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._started(path)]

    def workers(self) -> list[int]:
        """The replicas that are workers, also those that start still."""
        return [pid for pid in self.processes() if b":Worker" in _read(Path(f"/proc/{pid}/cmdline"))]

    def counted(self, metric: str) -> list[float]:
        """What each worker that answers says of a metric."""
        found = []
        for url in self.metrics:
            with suppress(httpx.HTTPError):
                lines = httpx.get(url, timeout=5).text.splitlines()
                found += [float(line.split()[-1]) for line in lines if line.startswith(f"{metric} ")]
        return found

    def are_ready(self, count: int) -> bool:
        return self.is_ready() and self.counted("padrec_worker_ready") == [1.0] * count

    def _started(self, path: Path) -> bool:
        return self._mark in b"\0" + _read(path / "environ") and not is_gone(int(path.name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@contextmanager
def serve_run(bundle: Path, folder: Path, **settings: str) -> Iterator[Ray]:
    """By our configuration, with ports and a folder of its own; whatever happens, nothing of it is left."""
    ports = {name: free_port() for name in ("rest", "grpc", "metrics")}
    config = yaml.safe_load((ROOT / "deploy/ray/one-machine.yaml").read_text())
    [application] = config["applications"]
    application["args"]["bundle"] = str(bundle)
    application["runtime_env"] = {
        "env_vars": {
            "PADREC_GATEWAY__PORT": str(ports["rest"]),
            "PADREC_GATEWAY__GRPC_PORT": str(ports["grpc"]),
            "PADREC_WORKER__METRICS_PORT": str(ports["metrics"]),
            "PADREC_HISTORY__URL": f"sqlite:///{folder}/history.sqlite3",
            **settings,
        }
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    # Sockets lie in it, whose paths are short.
    own = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(own),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [str(Path(sys.executable).with_name("serve")), "run", "--address", "local"]
    process = subprocess.Popen(
        [*command, str(folder / "serve.yaml")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    service = Ray(process, own, ports)
    reader = threading.Thread(target=lambda: service.lines.extend(process.stdout or ()))
    reader.start()
    try:
        service.wait_until(lambda: service.are_ready(2), seconds=120)
        yield service
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        process.kill()
        process.wait()
        try:
            until(lambda: not service.processes())
        finally:
            for pid in service.processes():
                os.kill(pid, signal.SIGKILL)
            reader.join()
            if process.stdout is not None:
                process.stdout.close()
            shutil.rmtree(own, ignore_errors=True)


# What a list depends on alone: guessing changes its counts with the load.
SETTINGS = {
    "PADREC_LOG__FORMAT": "json",
    "PADREC_WORKER__SPECULATION": "off",
    "PADREC_WORKER__MAX_BATCH": "4",
    # Room for all callers of a test at one worker, but for those who want too much.
    "PADREC_WORKER__MAX_QUEUE": "8",
}


@pytest.fixture(scope="module")
def ray(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    with serve_run(bundle, tmp_path_factory.mktemp("ray"), **SETTINGS) as service:
        yield service


@pytest.fixture(scope="module")
def plain(
    serve: Callable[..., Any], bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    history = tmp_path_factory.mktemp("plain") / "history.sqlite3"
    with serve(bundle, history, PADREC_GATEWAY__GRPC_PORT="0", **SETTINGS) as service:
        yield service


EVENTS = {"events": [{"user_id": "ann", "item_id": str(item), "timestamp": item} for item in range(20, 30)]}
REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/recommend", {"user_id": "u", "history": ["1", "2"]}),
    ("POST", "/recommend", {"user_id": "u", "history": ["7"], "num_items": 50}),
    ("POST", "/recommend", {"user_id": "u", "history": ["1"], "temperature": 0.8, "seed": 5}),
    ("POST", "/recommend", {"user_id": "u", "history": ["1", "9"], "decoding": "beam"}),
    ("POST", "/recommend", {"user_id": "u", "history": ["1"], "exclude_item_ids": ["40", "no-such-item"]}),
    ("POST", "/recommend", {"user_id": "u", "history": ["1"], "explain": True}),
    ("POST", "/recommend", {"user_id": "nobody"}),
    ("POST", "/events", EVENTS),
    ("GET", "/users/ann/history", None),
    ("POST", "/recommend", {"user_id": "ann"}),
    ("POST", "/recommend/batch", {"requests": [{"user_id": "ann"}, {"user_id": "u", "history": ["1"]}]}),
    ("POST", "/recommend/stream", {"user_id": "ann"}),
    ("POST", "/recommend", {"user_id": "u", "num_items": 0}),
    ("POST", "/recommend", {"user_id": "u", "history": ["1"], "deadline_ms": 0}),
    ("GET", "/items/5", None),
    ("GET", "/items/no-such-item", None),
    ("GET", "/health/ready", None),
    ("DELETE", "/users/ann/history", None),
]
# Of each answer alone.
OWN = {"recommendation_id", "timings"}


def answer_of(service: Service, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str, Any]:
    """Status, type and content of an answer, without what is its own alone."""
    answer = httpx.request(method, f"{service.url}{path}", json=body, timeout=60)
    kind = answer.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        events = [part.split("data: ", 1) for part in answer.text.replace("\r\n", "\n").split("\n\n") if part]
        return answer.status_code, kind, [(name, comparable(yaml.safe_load(data))) for name, data in events]
    return answer.status_code, kind, comparable(answer.json() if answer.content else None)


def comparable(value: Any) -> Any:
    """Numbers to four digits, for a list's batch decides how they round; and without what is of one answer alone."""
    if isinstance(value, dict):
        return {name: comparable(one) for name, one in value.items() if name not in OWN}
    if isinstance(value, list):
        return [comparable(one) for one in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def test_rest_answers_are_those_without_ray(ray: Ray, plain: Service) -> None:
    for request in REQUESTS:
        assert answer_of(ray, *request) == answer_of(plain, *request), request
    assert sum(ray.counted(CANCELLED)) == 0  # a stream that was read to its end is none that was left


def test_grpc_answers_are_those_without_ray(ray: Ray, plain: Service) -> None:
    asked = pb.RecommendRequest(user_id="u", history=pb.ItemIds(item_ids=["3", "4"]), num_items=7)
    answers = []
    for service in (ray, plain):
        with grpc.insecure_channel(service.grpc) as channel:
            stub = recommender_pb2_grpc.RecommenderStub(channel)
            answers.append([one.item.item_id for one in stub.Recommend(asked, timeout=60).items])
            streamed = list(stub.RecommendStream(asked, timeout=60))
            answers.append([one.item.item.item_id for one in streamed if one.HasField("item")])
            with pytest.raises(grpc.RpcError) as refusal:
                stub.Recommend(pb.RecommendRequest(user_id="u", num_items=1_000), timeout=60)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert answers == [answers[0]] * 4
    assert len(answers[0]) == 7


def test_more_than_the_queues_hold_is_refused(ray: Ray) -> None:
    """By the workers' own queues, which say when to come again; not by Serve's."""

    def ask(_number: int) -> httpx.Response:
        return httpx.post(
            f"{ray.url}/recommend", json={"user_id": "u", **ASKED_FOR, "num_items": 50}, timeout=60
        )

    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(ask, range(60)))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 429)


def test_a_deadline_is_kept(ray: Ray) -> None:
    answer = httpx.post(f"{ray.url}/recommend", json={"user_id": "u", **ASKED_FOR, "deadline_ms": 1})
    assert answer.status_code == 504


def test_a_caller_who_leaves_drops_the_work(ray: Ray) -> None:
    before = sum(ray.counted(CANCELLED))
    body = {"user_id": "u", **ASKED_FOR, "num_items": 50}

    def has_cancelled() -> bool:
        with suppress(httpx.TimeoutException):
            httpx.post(f"{ray.url}/recommend", json=body, timeout=0.03)
        return sum(ray.counted(CANCELLED)) > before

    until(has_cancelled)


@pytest.mark.fault
def test_a_worker_that_is_killed_costs_no_call(ray: Ray, tell: Callable[[str, Traffic, str], None]) -> None:
    """Not even those that it had: they are sent to the other one, and another takes its place."""
    traffic = Traffic(ray.url)
    victim, other = ray.workers()
    with traffic.running(*[traffic.ask] * 4, *[traffic.record] * 2):
        traffic.goes_on(ray)
        # Stopped, it keeps what it was given; the callers that are left go on with the other one.
        os.kill(victim, signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        traffic.goes_on(ray)
        ray.wait_until(lambda: ray.are_ready(2))
        traffic.goes_on(ray)
    replaced = set(ray.workers())
    assert other in replaced
    assert victim not in replaced
    assert len(replaced) == 2
    tell("worker killed, with Ray Serve", traffic, ray.url)
    assert set(traffic.lists) == {200}, "".join(ray.lines)


def test_it_ends_in_order(ray: Ray) -> None:
    """Ctrl-C: what was asked is answered, and no process is left."""
    with ThreadPoolExecutor(CALLERS) as pool:
        body = {"user_id": "u", **ASKED_FOR, "num_items": 50}
        asked = [
            pool.submit(httpx.post, f"{ray.url}/recommend", json=body, timeout=60) for _ in range(CALLERS)
        ]
        ray.wait_until(lambda: sum(ray.counted("padrec_kv_cache_usage_ratio")) > 0)
        ray.process.send_signal(signal.SIGINT)
        assert [one.result().status_code for one in asked] == [200] * CALLERS
    assert ray.process.wait(timeout=60) == 0, "".join(ray.lines)
    until(lambda: not ray.processes())
    ends = re.findall(r'"event": "((?:gateway|worker) stopped)"', "".join(ray.lines))
    assert ends == ["gateway stopped", "worker stopped", "worker stopped"], "".join(ray.lines)
