"""What happens to a service at night: processes that hang, callers that misbehave, a clock that jumps, a full disk."""

import os
import resource
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.e2e.traffic import NOBODY, Traffic, request_bytes

pytestmark = pytest.mark.fault


@pytest.mark.parametrize(("name", "ends"), [("worker", {200, 503}), ("gateway", {200, 503, NOBODY})])
def test_a_process_that_hangs_is_replaced(
    serve, bundle: Path, tmp_path: Path, tell, name: str, ends: set[int | str]
) -> None:
    with serve(bundle, tmp_path / "h.sqlite3", PADREC_SUPERVISION__HANG_SECONDS="5") as service:
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 4, *[traffic.record] * 2):
            traffic.goes_on(service)
            hung = service.child(name)
            os.kill(hung, signal.SIGSTOP)
            service.wait_until(lambda: not Path(f"/proc/{hung}").exists())
            traffic.goes_on(service)
        tell(f"{name} hung", traffic, service.url)
        assert set(traffic.lists) <= ends


def test_slow_callers_are_answered_and_cost_the_others_nothing(
    serve, bundle: Path, tmp_path: Path, tell
) -> None:
    """Some send and read byte by byte; others have bodies that never end, or never read."""
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        whole = request_bytes("/recommend")
        head, stream = whole.partition(b"\r\n\r\n")[0], request_bytes("/recommend/stream")
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 2, *[traffic.record] * 2, *[traffic.ask_slowly] * 20):
            traffic.goes_on(service)
            stuck = [connect(service.url, sent) for sent in (head, whole[:-1], stream) for _ in range(20)]
            traffic.goes_on(service, 60)
        tell("slow callers", traffic, service.url)
        assert set(traffic.lists) == {200}
        # Nor do they keep it from ending.
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=60) == 0
        for connection in stuck:
            connection.close()


def test_callers_that_hang_up_cost_the_others_nothing(serve, bundle: Path, tmp_path: Path, tell) -> None:
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        sent = [request_bytes(path) for path in ("/recommend", "/recommend/stream")]
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 4, *[traffic.record] * 2):
            traffic.goes_on(service)
            for number in range(100):
                connect(service.url, sent[number % 2]).close()
            traffic.goes_on(service, 30)
            assert 'status="499"' in httpx.get(f"{service.url}/metrics").text
        tell("callers that hang up", traffic, service.url)
        assert set(traffic.lists) == {200}


def connect(url: str, sent: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(sent)
    return connection


# The wall clock as padrec itself reads it. gRPC reads it in C as well, and a process whose halves have different times
# is no process whose clock has jumped.
JUMPING_CLOCK = """
import os, sys, time
real, offset = time.time, os.environ["CLOCK_OFFSET"]

def jumping():
    caller = sys._getframe(1).f_globals.get("__name__", "")
    is_own = caller.startswith("service.") and not caller.startswith(("service.rpc", "service.gateway.grpc"))
    return real() + (float(open(offset).read() or 0) if is_own else 0)

time.time = jumping
"""


def test_a_clock_that_jumps(serve, bundle: Path, tmp_path: Path, tell) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    settings = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "CLOCK_OFFSET": str(offset),
        "PADREC_SUPERVISION__HANG_SECONDS": "5",
    }
    with serve(bundle, tmp_path / "h.sqlite3", **settings) as service:
        children = [service.child(name) for name in ("gateway", "worker")]
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 2, *[traffic.record] * 2):
            for jump in ("200000", "-200000", "0"):
                offset.write_text(jump)
                traffic.goes_on(service, 20)
                event = {"user_id": "u", "item_id": jump}
                answer = httpx.post(f"{service.url}/events", json={"events": [event]}, timeout=30)
                assert answer.status_code == 200
        tell("clock jumps", traffic, service.url)
        assert set(traffic.lists) == set(traffic.events) == {200}
        assert children == [service.child(name) for name in ("gateway", "worker")]
        stored = httpx.get(f"{service.url}/users/u/history").json()["item_ids"]
        assert stored == ["-200000", "0", "200000"]  # by what the clock said


def test_a_full_disk(serve, bundle: Path, tmp_path: Path, tell) -> None:
    """Events are refused and never half kept, lists go on, and all is well once there is room."""
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        gateway = service.child("gateway")
        _, most = resource.prlimit(gateway, resource.RLIMIT_FSIZE)
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 2, *[traffic.record] * 2):
            traffic.goes_on(service)
            size = max(file.stat().st_size for file in tmp_path.glob("h.sqlite3*"))
            resource.prlimit(gateway, resource.RLIMIT_FSIZE, (size + 65_536, most))
            service.wait_until(lambda: traffic.events[503] > 10)
            written = traffic.lists[200]
            service.wait_until(lambda: traffic.lists[200] > written + 10)
            resource.prlimit(gateway, resource.RLIMIT_FSIZE, (most, most))
            traffic.goes_on(service)
        tell("disk full, sqlite", traffic, service.url)
        assert set(traffic.lists) == {200}
        assert set(traffic.events) == {200, 503}
        assert traffic.histories(service.url) == traffic.acknowledged
        assert gateway == service.child("gateway")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing(serve, bundle: Path, tmp_path: Path, tell, number: int) -> None:
    """What was taken is answered; what came later is refused, in words or with its connection."""
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 6, *[traffic.record] * 2):
            traffic.goes_on(service, 30)
            service.process.send_signal(number)
            assert service.process.wait(timeout=60) == 0
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        tell(signal.Signals(number).name, traffic, service.url)
    assert set(traffic.lists) <= {200, 503, NOBODY}
