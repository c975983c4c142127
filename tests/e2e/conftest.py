"""A real service: `padrec serve` with its own worker and gateway processes."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import httpx
import pytest

from tests.e2e.traffic import Figures, Traffic

_FIGURES = "figures"


@dataclass
class Service:
    """A running `padrec serve`."""

    process: "subprocess.Popen[str]"
    url: str = ""
    grpc: str = ""
    lines: list[str] = field(default_factory=list)

    def child(self, name: str) -> int:
        """The process ID of its worker or gateway."""
        [pid] = self.children(name)
        return pid

    def children(self, name: str) -> list[int]:
        """The process IDs of its workers or gateways, oldest first."""
        own = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in own if f"\0{name}\0" in Path(f"/proc/{pid}/cmdline").read_text()]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="session")
def serve():
    """Starts a service on a free port, with a history of its own, and ends it."""

    @contextmanager
    def run(bundle: Path, history: Path, **settings: str) -> Iterator[Service]:
        command = [sys.executable, "-m", "service.cli", "serve", str(bundle), "--port", "0"]
        environment = {**os.environ, "PADREC_HISTORY__URL": f"sqlite:///{history}", **settings}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        service = Service(process)

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                service.lines.append(line)
                if "gRPC gateway listening" in line:
                    [service.grpc] = re.findall(r"127\.0\.0\.1:\d+", line)
                if line.startswith("serving "):
                    service.url = line.split(" at ")[1].strip()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            service.wait_until(lambda: bool(service.url))
            yield service
        finally:
            process.terminate()
            process.wait(timeout=60)
            reader.join()
            if process.stderr is not None:
                process.stderr.close()

    return run


@pytest.fixture(scope="module")
def service(serve, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    history = tmp_path_factory.mktemp("history") / "history.sqlite3"
    with serve(bundle, history, PADREC_GATEWAY__GRPC_PORT="0") as running:
        yield running


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, Traffic, str], None]:
    """Records what became of calls under a fault, for the table at the run's end, and demands that none was lost."""

    def record(fault: str, traffic: Traffic, url: str) -> None:
        figures = traffic.figures(url)
        record_property(_FIGURES, (fault, figures))
        assert traffic.faults == []
        assert figures.lost == 0, asdict(figures)
        assert figures.sent == sum((traffic.lists + traffic.events).values())

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What became of calls under each fault, as a table."""
    told = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == _FIGURES and report.when == "call"
    ]
    if told:
        names = [one.name.replace("_", " ") for one in fields(Figures)]
        terminalreporter.section("faults under load")
        terminalreporter.line(f"| fault | {' | '.join(names)} |")
        terminalreporter.line(f"|{' --- |' * (1 + len(names))}")
        for fault, figures in told:
            terminalreporter.line(f"| {fault} | {' | '.join(map(str, asdict(figures).values()))} |")
