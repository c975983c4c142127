"""What happens to a service at night: processes that hang, callers that misbehave, a clock that jumps, a full disk."""

import os
import resource
import signal
import socket
from pathlib import Path

import httpx
import pytest

from service.client import Client
from tests.e2e.traffic import Traffic


@pytest.mark.parametrize(("name", "ends"), [("worker", {200, 503}), ("gateway", {200, 503, "broken"})])
def test_a_process_that_hangs_is_replaced(
    serve, bundle: Path, tmp_path: Path, name: str, ends: set[int | str]
) -> None:
    with serve(bundle, tmp_path / "h.sqlite3", PADREC_SUPERVISION__HANG_SECONDS="5") as service:
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 4):
            traffic.goes_on(service)
            hung = service.child(name)
            os.kill(hung, signal.SIGSTOP)
            service.wait_until(lambda: not Path(f"/proc/{hung}").exists())
            traffic.goes_on(service)
        assert traffic.faults == []
        assert set(traffic.ends) <= ends


def test_a_gateway_that_is_killed_loses_no_call_of_the_client(serve, bundle: Path, tmp_path: Path) -> None:
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        traffic = Traffic(service.url)

        def ask() -> None:
            with Client(service.url, deadline_ms=50_000, max_tries=50) as client:
                while not traffic.is_over:
                    try:
                        shown = client.recommend("u", history=["1", "2"])
                    except Exception as error:
                        traffic.faults.append(repr(error))
                    else:
                        traffic.ended(200)
                        assert len(shown.items) == 10

        with traffic.running(*[ask] * 4):
            for _ in range(2):
                traffic.goes_on(service)
                os.kill(service.child("gateway"), signal.SIGKILL)
                traffic.goes_on(service)
        assert traffic.faults == []


def test_slow_and_rude_callers_cost_the_others_nothing(serve, bundle: Path, tmp_path: Path) -> None:
    """Bodies that never end, answers that nobody reads, connections that break while a list is written."""
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        address = service.url.removeprefix("http://").split(":")
        head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        body = b'{"user_id": "u", "history": ["1", "2"], "num_items": 50}'
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        stream = whole.replace(b"/recommend", b"/recommend/stream", 1)

        def connect(sent: bytes) -> socket.socket:
            connection = socket.create_connection((address[0], int(address[1])))
            connection.sendall(sent)
            return connection

        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 2):
            traffic.goes_on(service)
            slow = [connect(sent) for sent in (head, whole[:-1], stream) for _ in range(20)]
            for number in range(100):
                connect(whole if number % 2 else stream).close()
            traffic.goes_on(service, 30)
            metrics = httpx.get(f"{service.url}/metrics").text
            assert 'status="499"' in metrics
        assert traffic.faults == []
        assert set(traffic.ends) == {200}
        # Nor do they keep it from ending.
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=60) == 0
        for connection in slow:
            connection.close()


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


def test_a_clock_that_jumps(serve, bundle: Path, tmp_path: Path) -> None:
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
        with traffic.running(*[traffic.ask] * 2):
            for jump in ("200000", "-200000", "0"):
                offset.write_text(jump)
                traffic.goes_on(service, 20)
                event = {"user_id": "u", "item_id": jump}
                answer = httpx.post(f"{service.url}/events", json={"events": [event]}, timeout=30)
                assert answer.status_code == 200
        assert traffic.faults == []
        assert set(traffic.ends) == {200}
        assert children == [service.child(name) for name in ("gateway", "worker")]
        stored = httpx.get(f"{service.url}/users/u/history").json()["item_ids"]
        assert stored == ["-200000", "0", "200000"]  # by what the clock said


def test_a_full_disk(serve, bundle: Path, tmp_path: Path) -> None:
    """Events are refused and never half kept, lists go on, and all is well once there is room."""
    history = tmp_path / "h.sqlite3"
    settings = {"PADREC_HISTORY__MAX_ITEMS_PER_USER": "100000"}
    with serve(bundle, history, **settings) as service, httpx.Client(base_url=service.url) as client:
        acknowledged: list[str] = []
        statuses: list[int] = []

        def record(number: int) -> int:
            events = [
                {"user_id": "u", "item_id": f"{number}-{i}", "timestamp": number + i / 1000}
                for i in range(50)
            ]
            status = client.post("/events", json={"events": events}, timeout=30).status_code
            if status == 200:
                acknowledged.extend(event["item_id"] for event in events)
            statuses.append(status)
            return status

        assert record(0) == 200
        gateway = service.child("gateway")
        _, most = resource.prlimit(gateway, resource.RLIMIT_FSIZE)
        size = max(file.stat().st_size for file in tmp_path.glob("h.sqlite3*"))
        resource.prlimit(gateway, resource.RLIMIT_FSIZE, (size + 65_536, most))
        number = 1
        while record(number) == 200:
            number += 1
            assert number < 1_000
        assert statuses[-1] == 503
        for _ in range(3):
            assert record(number) == 503
            shown = client.post("/recommend", json={"user_id": "u", "history": ["1", "2"]}, timeout=30)
            assert (shown.status_code, len(shown.json()["items"])) == (200, 10)
        resource.prlimit(gateway, resource.RLIMIT_FSIZE, (most, most))
        service.wait_until(lambda: record(number) == 200)
        stored = client.get("/users/u/history").json()["item_ids"]
        assert stored == acknowledged
        assert gateway == service.child("gateway")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing(serve, bundle: Path, tmp_path: Path, number: int) -> None:
    """What was taken is answered; what came later is refused, in words or with its connection."""
    with serve(bundle, tmp_path / "h.sqlite3") as service:
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 6):
            traffic.goes_on(service, 30)
            service.process.send_signal(number)
            assert service.process.wait(timeout=60) == 0
        assert traffic.faults == []
        assert set(traffic.ends) <= {200, 503, "broken"}
        assert sum(traffic.ends.values()) == traffic.sent
