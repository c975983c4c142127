"""Processes are killed under load: every request gets an answer, and no acknowledged event is lost."""

import os
import shutil
import signal
import socket
from pathlib import Path

import httpx
import pytest

from service.catalog.bundle import ITEMS, Bundle, seal
from service.catalog.items import Catalogue
from tests.children import is_gone, until
from tests.e2e.traffic import NOBODY, Traffic


@pytest.mark.fault
@pytest.mark.parametrize("victim", ["worker", "gateway"])
def test_a_process_that_is_killed_loses_nothing(
    serve, bundle: Path, tmp_path: Path, tell, victim: str
) -> None:
    """Lists are written (sent again to the next worker) or refused; nothing hangs; the service recovers by itself."""
    with serve(bundle, tmp_path / "history.sqlite3") as service:
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 4, *[traffic.record] * 2):
            for _ in range(2):
                traffic.goes_on(service)
                killed = service.child(victim)
                os.kill(killed, signal.SIGKILL)
                traffic.goes_on(service, 20)
                assert service.child(victim) != killed
        tell(f"{victim} killed", traffic, service.url)
        assert set(traffic.lists) <= {200, 503, NOBODY}


@pytest.mark.fault
def test_a_gateway_that_is_killed_loses_no_call_of_the_client(
    serve, bundle: Path, tmp_path: Path, tell
) -> None:
    with serve(bundle, tmp_path / "history.sqlite3") as service:
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask_by_client] * 4):
            for _ in range(2):
                traffic.goes_on(service)
                os.kill(service.child("gateway"), signal.SIGKILL)
                traffic.goes_on(service)
        tell("gateway killed, by padrec's client", traffic, service.url)
        assert set(traffic.lists) == {200}


@pytest.mark.fault
def test_a_launcher_that_is_killed_loses_nothing(serve, bundle: Path, tmp_path: Path, tell) -> None:
    history = tmp_path / "history.sqlite3"
    with serve(bundle, history) as service:
        traffic = Traffic(service.url)
        with traffic.running(*[traffic.ask] * 4, *[traffic.record] * 2):
            traffic.goes_on(service, 20)
            gateway = service.child("gateway")
            service.process.kill()
            # It ends by itself; until then it holds the history.
            until(lambda: is_gone(gateway))
    with serve(bundle, history) as service:
        tell("launcher killed", traffic, service.url)


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
