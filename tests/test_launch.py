import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.catalog.bundle import ITEMS, MANIFEST, POPULAR, DecodingDefaults, seal
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.child import Child
from service.config import GatewaySettings, Settings
from service.errors import BundleError, InputError, PadrecError
from service.files import write_json
from service.launch import Supervisor, serve
from service.rpc.listen import listen_tcp
from tests.children import LONG, is_gone, python, until

FAKE = Path(__file__).with_name("fake_padrec.py")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    Catalogue.build(["a"], np.array([[0]]), ["A"]).write(path / ITEMS)
    write_json(path / POPULAR, ["a"])
    layout = TokenLayout(prefix=(0,), list_start=(1,), separator=2, code_tokens=((3,),))
    decoding = DecodingDefaults(max_history_items=5, max_num_items=1)
    seal(path, num_items=1, layout=layout, decoding=decoding, training={})
    return path


class TestSupervisor:
    def run(self, children: list[Child], supervisor: Supervisor, **calls: Any) -> list[int]:
        codes: list[int] = []
        thread = threading.Thread(
            target=lambda: codes.append(
                supervisor.run(calls.get("is_ready", lambda: True), calls.get("on_ready", lambda: None))
            )
        )
        thread.start()
        try:
            calls.get("meanwhile", lambda: None)()
        finally:
            if calls.get("stop", True):
                supervisor.stop()
            thread.join(LONG)
            supervisor.shut_down(0.1)
        assert all(child.pid is None for child in children)
        return codes

    def child(self, code: str) -> Child:
        return Child("child", python(code), env=dict(os.environ))

    def test_a_killed_child_is_replaced(self) -> None:
        child, other = self.child("import time; time.sleep(600)"), self.child("import time; time.sleep(600)")

        def kill() -> None:
            first, untouched = until(lambda: child.pid), until(lambda: other.pid)
            os.kill(first, signal.SIGKILL)
            until(lambda: child.pid not in (None, first))
            assert other.pid == untouched

        assert self.run([child, other], Supervisor([child, other]), meanwhile=kill) == [0]

    def test_ready_is_told_once(self) -> None:
        child = self.child("import time; time.sleep(600)")
        answers, told = iter([False, False, True, False]), []
        codes = self.run(
            [child],
            Supervisor([child]),
            is_ready=lambda: next(answers),
            on_ready=lambda: told.append(child.pid),
            meanwhile=lambda: until(lambda: told),
        )
        assert codes == [0]
        assert len(told) == 1
        assert list(answers) == [False]

    def test_wrong_input_before_ready_ends_it(self) -> None:
        child, other = self.child("raise SystemExit(2)"), self.child("import time; time.sleep(600)")
        codes = self.run([child, other], Supervisor([child, other]), is_ready=lambda: False, stop=False)
        assert codes == [2]

    def counted(self, starts: Path) -> Child:
        """A child that counts its starts and ends with 1."""
        return self.child(
            f"file = open({str(starts)!r}, 'a'); file.write('.'); file.close(); raise SystemExit(1)"
        )

    def test_the_third_other_end_before_ready_ends_it(self, tmp_path: Path) -> None:
        starts = tmp_path / "starts"
        child, other = self.counted(starts), self.child("import time; time.sleep(600)")
        supervisor = Supervisor([child, other])
        with pytest.raises(PadrecError, match=r"died 3 times before all was ready.*exit code 1$"):
            supervisor.run(lambda: False, lambda: None)
        supervisor.shut_down(0.1)
        assert starts.read_text() == "..."

    def test_ends_after_ready_are_tried_again_for_ever(self, tmp_path: Path) -> None:
        starts = tmp_path / "starts"
        child = self.counted(starts)
        codes = self.run(
            [child],
            Supervisor([child]),
            meanwhile=lambda: until(lambda: starts.exists() and len(starts.read_text()) >= 4),
        )
        assert codes == [0]

    @pytest.mark.parametrize("change", ["two", BundleError("torn"), None])
    def test_children_of_two_versions_never_run_together(self, change: Any) -> None:
        child, other = self.child("import time; time.sleep(600)"), self.child("import time; time.sleep(600)")
        versions: list[Any] = ["one"]

        def read_version() -> str:
            if isinstance(versions[-1], Exception):
                raise versions[-1]
            return versions[-1]

        def replace_and_kill() -> None:
            first, second = until(lambda: child.pid), until(lambda: other.pid)
            if change is not None:
                versions.append(change)
            os.kill(first, signal.SIGKILL)
            until(lambda: child.pid not in (None, first))
            if change == "two":
                until(lambda: other.pid not in (None, second))
                assert is_gone(second)
            else:
                assert other.pid == second

        supervisor = Supervisor([child, other], read_version)
        assert self.run([child, other], supervisor, meanwhile=replace_and_kill) == [0]


class Service:
    """`fake_padrec.py serve` as a process."""

    def __init__(self, bundle: Path, **environment: str) -> None:
        self.bundle = bundle
        self.process = subprocess.Popen(
            [sys.executable, str(FAKE), "serve", str(bundle)],
            env={**os.environ, "PADREC_GATEWAY__PORT": "0", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.seen: set[int] = set()

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, url: str) -> dict[str, Any] | None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            body: dict[str, Any] = json.load(answer)
            self.seen |= {body["worker"], body["gateway"]}
            return body
        return None


@pytest.fixture
def start(bundle: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(**environment: str) -> Service:
        services.append(Service(bundle, **environment))
        return services[-1]

    yield start
    for service in services:
        service.process.kill()
        service.process.communicate()
        for pid in service.seen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_until_a_signal_then_gateway_first(
    start: Callable[..., Service], tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "t").mkdir()
    service = start(TMPDIR=str(tmp_path / "t"))
    answer = service.ask(service.url())
    assert answer is not None
    assert len(list((tmp_path / "t").iterdir())) == 1
    service.process.send_signal(number)
    assert service.process.wait(LONG) == 0
    assert (service.bundle / "ended").read_text() == "gateway\nworker\n"
    assert list((tmp_path / "t").iterdir()) == []
    assert all(is_gone(pid) for pid in service.seen)


@pytest.mark.parametrize("name", ["worker", "gateway"])
def test_a_killed_child_is_replaced_at_the_same_address(start: Callable[..., Service], name: str) -> None:
    service = start()
    url = service.url()
    before = service.ask(url)
    assert before is not None
    os.kill(before[name], signal.SIGKILL)

    def changed() -> bool:
        answer = service.ask(url)
        return answer is not None and answer[name] != before[name]

    until(changed)
    other = {"worker": "gateway", "gateway": "worker"}[name]
    answer = service.ask(url)
    assert answer is not None
    assert answer[other] == before[other]


@pytest.mark.parametrize("name", ["worker", "gateway"])
def test_a_child_that_refuses_its_input_ends_the_service(
    start: Callable[..., Service], bundle: Path, name: str
) -> None:
    (bundle / f"refuse-{name}").touch()
    service = start()
    out, err = service.process.communicate(timeout=LONG)
    assert service.process.returncode == 2
    assert out == ""
    assert [line for line in err.splitlines() if "error" in line] == [f"error: the {name} refuses"]


@pytest.mark.parametrize("name", ["worker", "gateway"])
def test_a_child_that_cannot_start_ends_the_service(
    start: Callable[..., Service], bundle: Path, name: str
) -> None:
    (bundle / f"fail-{name}").touch()
    service = start()
    out, err = service.process.communicate(timeout=LONG)
    assert service.process.returncode == 2
    assert out == ""
    assert err.splitlines()[-1] == (
        f"error: the {name} died 3 times before all was ready, at last with exit code 1"
    )


def test_a_replaced_bundle_is_taken_by_both(start: Callable[..., Service], bundle: Path) -> None:
    service = start()
    url = service.url()
    before = service.ask(url)
    assert before is not None
    manifest = json.loads((bundle / MANIFEST).read_text())
    write_json(bundle / MANIFEST, {**manifest, "catalog_version": "another"})
    os.kill(before["worker"], signal.SIGKILL)

    def both_changed() -> bool:
        answer = service.ask(url)
        return answer is not None and all(answer[name] != before[name] for name in ("worker", "gateway"))

    until(both_changed)
    assert (bundle / "ended").read_text() == "gateway\n"


def test_children_end_with_a_launcher_that_was_killed(start: Callable[..., Service]) -> None:
    service = start()
    service.ask(service.url())
    service.process.kill()
    service.process.wait()
    until(lambda: all(is_gone(pid) for pid in service.seen))


def test_children_get_the_settings(start: Callable[..., Service], bundle: Path, tmp_path: Path) -> None:
    config = bundle / "padrec.toml"
    config.write_text('[worker]\nmax_batch = 7\n[history]\nurl = "sqlite:///h"\n')
    long = tmp_path / ("t" * 100)
    long.mkdir()
    service = start(PADREC_WORKER__MAX_QUEUE="9", TMPDIR=str(long))
    answer = service.ask(service.url())
    assert answer is not None
    assert answer["argv"][:4] == ["gateway", str(bundle), "--config", str(config)]
    env = answer["env"]
    assert (env["PADREC_WORKER__MAX_BATCH"], env["PADREC_WORKER__MAX_QUEUE"]) == ("7", "9")
    assert env["PADREC_HISTORY__URL"] == "sqlite:///h"
    assert env["PADREC_GATEWAY__WORKER"] == env["PADREC_WORKER__LISTEN"]
    assert env["PADREC_GATEWAY__WORKER"].startswith("unix:/tmp/padrec-")


def test_a_port_in_use_is_told_before_anything_starts(bundle: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with listen_tcp("127.0.0.1", 0) as taken:
        settings = Settings(gateway=GatewaySettings(port=taken.getsockname()[1]))
        with pytest.raises(InputError, match="Address already in use"):
            serve(bundle, settings, None, padrec=["touch", str(started)])
    assert not started.exists()


def test_a_bundle_without_manifest_is_told_before_anything_starts(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        serve(tmp_path, Settings(), None, padrec=["touch", str(started)])
    assert not started.exists()


class Gateway:
    """What a gateway says to its launcher."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LONG)
        self._socket.connect(path)
        self._lines = self._socket.makefile()

    def ask(self, **order: object) -> dict[str, Any]:
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        return self.hear()

    def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def hang_up(self) -> None:
        self._lines.close()
        self._socket.close()


class TestSwap:
    @pytest.fixture(autouse=True)
    def _serve(self, start: Callable[..., Service], bundle: Path) -> None:
        self.service = start()
        self.url = self.service.url()
        self.before = self.answer()
        self.gateway = Gateway(self.before["env"]["PADREC_LAUNCHER"])

    @pytest.fixture
    def other(self, bundle: Path) -> Path:
        other = bundle.with_name("other")
        shutil.copytree(bundle, other)
        return other

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = until(lambda: self.service.ask(self.url))
        return answer

    def new_worker(self, address: str) -> int:
        """Its process ID, once it listens."""

        def connected() -> int | None:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(address.removeprefix("unix:"))
                pid = int(connection.recv(100))
                self.service.seen.add(pid)
                return pid
            return None

        pid: int = until(connected)
        return pid

    def test_the_new_worker_takes_the_place_of_the_old(self, other: Path, bundle: Path) -> None:
        address = self.gateway.ask(start=str(other))["worker"]
        new = self.new_worker(address)
        assert self.answer()["worker"] == self.before["worker"]
        assert self.gateway.ask(commit=True) == {"committed": True}
        assert not is_gone(self.before["worker"])
        assert self.gateway.ask(retire=True) == {"retired": True}
        assert is_gone(self.before["worker"])
        assert not is_gone(new)
        self.gateway.hang_up()

        os.kill(self.before["gateway"], signal.SIGKILL)
        after = until(lambda: (found := self.service.ask(self.url)) and found["worker"] == new and found)
        assert after["argv"][:2] == ["gateway", str(other)]
        assert after["env"]["PADREC_GATEWAY__WORKER"] == address
        os.kill(new, signal.SIGKILL)
        until(lambda: self.answer()["worker"] not in (new, self.before["worker"]))
        assert (bundle / "ended").read_text() == "worker\n"
        assert self.answer()["gateway"] == after["gateway"]

        # The other way, over another connection.
        again = Gateway(after["env"]["PADREC_LAUNCHER"])
        assert again.ask(start=str(bundle))["worker"] != address
        again.hang_up()

    def test_a_gateway_that_goes_away_leaves_one_worker(self, other: Path, bundle: Path) -> None:
        new = self.new_worker(self.gateway.ask(start=str(other))["worker"])
        self.gateway.hang_up()
        until(lambda: is_gone(new))
        assert self.answer()["worker"] == self.before["worker"]

        self.gateway = Gateway(self.before["env"]["PADREC_LAUNCHER"])
        new = self.new_worker(self.gateway.ask(start=str(other))["worker"])
        assert self.gateway.ask(commit=True) == {"committed": True}
        self.gateway.hang_up()
        until(lambda: is_gone(self.before["worker"]))
        assert not is_gone(new)

    def test_a_worker_that_refuses_or_dies_is_told(self, other: Path, bundle: Path) -> None:
        assert self.gateway.ask(start=str(other / "none"))["error"].startswith("no such bundle")
        (other / "refuse-worker").touch()
        assert "worker" in self.gateway.ask(start=str(other))
        assert self.gateway.hear() == {"error": "the new worker refuses: the worker refuses"}
        (other / "refuse-worker").rename(other / "fail-worker")
        assert "worker" in self.gateway.ask(start=str(other))
        assert self.gateway.hear() == {"error": "the new worker ended with exit code 1; the log says why"}
        (other / "fail-worker").unlink()
        os.kill(self.new_worker(self.gateway.ask(start=str(other))["worker"]), signal.SIGKILL)
        assert self.gateway.hear() == {"error": "the new worker was ended by SIGKILL"}
        assert self.answer()["worker"] == self.before["worker"]

    def test_orders_that_make_no_sense_are_refused(self, other: Path) -> None:
        for order in ({"commit": True}, {"retire": True}, {"dance": True}):
            assert self.gateway.ask(**order) == {"error": "the launcher has no worker for that now"}
        self.gateway._socket.sendall(b"[]\nno json\n")
        assert [set(self.gateway.hear()) for _ in range(2)] == [{"error"}] * 2

    def test_the_service_ends_with_its_new_worker(self, other: Path) -> None:
        new = self.new_worker(self.gateway.ask(start=str(other))["worker"])
        self.service.process.terminate()
        assert self.service.process.wait(LONG) == 0
        assert is_gone(new)

    def test_a_bundle_that_was_replaced_while_it_was_loaded_is_taken_by_both(self, other: Path) -> None:
        new = self.new_worker(self.gateway.ask(start=str(other))["worker"])
        manifest = json.loads((other / MANIFEST).read_text())
        write_json(other / MANIFEST, {**manifest, "catalog_version": "another"})
        assert self.gateway.ask(commit=True) == {"committed": True}
        os.kill(new, signal.SIGKILL)
        until(lambda: (found := self.service.ask(self.url)) and found["gateway"] != self.before["gateway"])
