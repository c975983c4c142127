"""Processes are killed under load: every request gets an answer, and no acknowledged event is lost."""

import os
import shutil
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from service.catalog.bundle import ITEMS, Bundle, seal
from service.catalog.items import Catalogue


def test_worker_killed_under_requests(serve, bundle: Path, tmp_path: Path) -> None:
    """In-flight requests get a list (retried) or 503; nothing hangs; the service recovers by itself."""
    answers: Counter[int] = Counter()
    lock = threading.Lock()
    stop = threading.Event()

    with serve(bundle, tmp_path / "history.sqlite3") as service:
        # The deadline is long, so that a slow machine alone fails no request.
        body = {"user_id": "u", "history": ["1", "2"], "num_items": 50, "deadline_ms": 50_000}

        def call() -> None:
            with httpx.Client(base_url=service.url, timeout=60) as client:
                while not stop.is_set():
                    answer = client.post("/recommend", json=body)
                    with lock:
                        answers[answer.status_code] += 1
                    if answer.status_code == 503:
                        assert "retry-after" in answer.headers
                        stop.wait(0.2)

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            answered = answers[200]
            service.wait_until(lambda answered=answered: answers[200] > answered + 10)
            worker = service.child("worker")
            os.kill(worker, signal.SIGKILL)
            answered = answers[200]
            service.wait_until(lambda answered=answered: answers[200] > answered + 10)
            assert service.child("worker") != worker
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) <= {200, 503}
    assert answers[200] > 40


@pytest.mark.parametrize("victim", ["gateway", "worker", "launcher"])
def test_no_acknowledged_event_is_lost(serve, bundle: Path, tmp_path: Path, victim: str) -> None:
    history = tmp_path / "history.sqlite3"
    acknowledged: list[str] = []
    stop = threading.Event()

    def write(url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            for number in range(10_000):
                if stop.is_set():
                    return
                event = {"user_id": "u", "item_id": f"item-{number}", "timestamp": number}
                try:
                    answer = client.post("/events", json={"events": [event]})
                except httpx.HTTPError:
                    continue
                if answer.status_code == 200:
                    acknowledged.append(f"item-{number}")

    settings = {"PADREC_HISTORY__MAX_ITEMS_PER_USER": "10000"}
    with serve(bundle, history, **settings) as service:
        writer = threading.Thread(target=write, args=(service.url,))
        writer.start()
        service.wait_until(lambda: len(acknowledged) > 30)
        if victim == "launcher":
            gateway = service.child("gateway")
            service.process.kill()
            service.process.wait()
            stop.set()
            writer.join()
            wait_for_end(gateway)
        else:
            os.kill(service.child(victim), signal.SIGKILL)
            before = len(acknowledged)
            service.wait_until(lambda: len(acknowledged) > before + 30)
            stop.set()
            writer.join()
    with serve(bundle, history, **settings) as service:
        stored = httpx.get(f"{service.url}/users/u/history").json()["item_ids"]
    assert len(acknowledged) > 30
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))


def replace(path: Path) -> str:
    """Put a bundle with other titles in the place of one; the new catalogue's version."""
    opened = Bundle.open(path)
    old = opened.read_catalogue()
    folder = path.with_name("other")
    shutil.copytree(path, folder)
    Catalogue.build(list(old.item_ids), old.codes, ["Other"] * len(old)).write(folder / ITEMS)
    manifest = seal(
        folder, num_items=len(old), layout=opened.layout, decoding=opened.manifest.decoding, training={}
    )
    shutil.rmtree(path)
    folder.rename(path)
    return manifest.catalog_version


def test_a_bundle_replaced_while_served(serve, bundle: Path, tmp_path: Path) -> None:
    """What runs goes on; once the worker starts again, so does the gateway, and both serve the new one."""
    served = tmp_path / "bundle"
    shutil.copytree(bundle, served)
    with serve(served, tmp_path / "history.sqlite3") as service:

        def ask() -> httpx.Response:
            return httpx.post(f"{service.url}/recommend", json={"user_id": "u", "history": ["1"]}, timeout=30)

        before = ask().json()["catalog_version"]
        version = replace(served)
        assert version != before
        assert ask().json()["catalog_version"] == before
        os.kill(service.child("worker"), signal.SIGKILL)

        def is_replaced() -> bool:
            try:
                answer = ask()
            except httpx.HTTPError:
                return False
            return answer.status_code == 200 and answer.json()["catalog_version"] == version

        service.wait_until(is_replaced)
        assert ask().json()["items"][0]["title"] == "Other"


def wait_for_end(pid: int) -> None:
    """The gateway of a killed launcher ends by itself; until then it holds the history."""
    for _ in range(1_200):
        if not Path(f"/proc/{pid}").exists():
            return
        threading.Event().wait(0.05)
    pytest.fail("the gateway outlived its launcher")


def test_a_port_in_use_is_one_line(padrec_process, bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = padrec_process("serve", bundle, "--port", port)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("padrec: ")
    assert str(port) in line


def test_sigterm_ends_the_service_in_order(serve, bundle: Path, tmp_path: Path) -> None:
    with serve(bundle, tmp_path / "history.sqlite3") as service:
        children = [service.child(name) for name in ("worker", "gateway")]
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=60) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
