"""A Redis that is killed, paused and started again while lists are asked for and events come in."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.history.conftest import RedisServer, redis_server, wait_until

__all__ = ["redis_server"]  # the fixture


class Traffic:
    """Callers that never stop: half of them ask for lists, half record events."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lists: list[tuple[int, bool]] = []  # status, and whether it was degraded
        self.acknowledged: dict[str, list[str]] = {}
        self.refused: list[int] = []
        self._over = threading.Event()

    def ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._over.is_set():
                answer = client.post("/recommend", json={"user_id": f"user-{number}", "num_items": 3})
                self.lists.append((answer.status_code, answer.json().get("degraded", False)))

    def record(self, number: int) -> None:
        user = f"user-{number}"
        self.acknowledged[user] = []
        with httpx.Client(base_url=self.url, timeout=30) as client:
            for count in range(10_000):
                if self._over.is_set():
                    return
                event = {
                    "user_id": user,
                    "item_id": str(count % 60),
                    "event_id": f"{count}",
                    "timestamp": float(count),
                }
                answer = client.post("/events", json={"events": [event]})
                if answer.status_code == 200:
                    self.acknowledged[user].append(event["item_id"])
                else:
                    self.refused.append(answer.status_code)
                    assert answer.headers["retry-after"] == "1"
                    time.sleep(0.05)

    def stop(self) -> None:
        self._over.set()


def test_lists_go_on_and_no_acknowledged_event_is_lost(
    serve, bundle: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = {
        "PADREC_HISTORY__URL": f"redis://127.0.0.1:{redis_server.port}",
        "PADREC_HISTORY__TIMEOUT_SECONDS": "0.2",
        "PADREC_HISTORY__MAX_ITEMS_PER_USER": "10000",
    }
    with serve(bundle, tmp_path / "unused", **settings) as service, ThreadPoolExecutor(4) as pool:
        traffic = Traffic(service.url)
        running = [pool.submit(traffic.ask, n) for n in (0, 1)] + [
            pool.submit(traffic.record, n) for n in (0, 1)
        ]
        try:
            wait_until(lambda: min(map(len, traffic.acknowledged.values()), default=0) > 10)
            redis_server.kill()
            wait_until(lambda: len(traffic.refused) > 5)
            assert httpx.get(f"{service.url}/health/ready").json()["checks"] == {
                "worker": True,
                "history_store": False,
            }
            redis_server.start()
            recovers(traffic)

            assert redis_server.process is not None
            redis_server.process.send_signal(signal.SIGSTOP)
            refused = len(traffic.refused)
            wait_until(lambda: len(traffic.refused) > refused + 3)
            redis_server.process.send_signal(signal.SIGCONT)
            recovers(traffic)
            wait_until(service.is_ready)
        finally:
            traffic.stop()
        for one in running:
            one.result(timeout=60)

        assert {status for status, _ in traffic.lists} == {200}
        assert {degraded for _, degraded in traffic.lists} == {True, False}
        assert set(traffic.refused) == {503}
        for user, acknowledged in traffic.acknowledged.items():
            kept = httpx.get(f"{service.url}/users/{user}/history").json()["item_ids"]
            assert is_within(acknowledged, kept)


def recovers(traffic: Traffic) -> None:
    """Waits until events are taken and lists are whole again."""
    before = {user: len(items) for user, items in traffic.acknowledged.items()}
    wait_until(lambda: all(len(traffic.acknowledged[user]) > count + 5 for user, count in before.items()))
    wait_until(lambda: not traffic.lists[-1][1])


def is_within(items: list[str], others: list[str]) -> bool:
    """Whether all are among the others, in their order: of an event that was refused nobody knows."""
    left = iter(others)
    return all(item in left for item in items)
