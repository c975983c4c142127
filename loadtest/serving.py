"""A service for a load test: on free ports, with gRPC, the worker's metrics and a history of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from loadtest.processes import free_ports, running
from loadtest.run import Target
from service.errors import PadrecError
from service.processes import SUPERVISOR_PID

# A worker with a GPU captures its graphs first.
_START_SECONDS = 300.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
# The load generator and the gateways need cores too: a pass's threads that wait for a core make all of it wait.
_SHARING_CORES = {"PADREC_WORKER__NUM_THREADS": "1"}
_PADREC = (sys.executable, "-m", "service.cli")


def build_demo(folder: Path) -> Path:
    """The bundle of `padrec demo`, made the first time.

    Raises:
        PadrecError: it could not be made.
    """
    bundle = folder / "bundle"
    if not (bundle / "manifest.json").is_file():
        command = [*_PADREC, "demo", "--once", "--dir", str(folder)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise PadrecError("'padrec demo' failed; it said why above")
    return bundle


@contextmanager
def serving(bundle: Path, logs: Path, gateways: int = 1, history: str | None = None) -> Iterator[Target]:
    """A service of a bundle, which ends with the block: one worker, and gateways that share it and a history.

    Args:
        bundle: the folder.
        logs: the folder of `worker.log`, `gateway-0.log` and so on.
        gateways: how many, at least 1.
        history: URL of the store, which keeps what the test writes; None: a file that ends with the block.

    Raises:
        PadrecError: a process ended, or not all were ready in time.
    """
    metrics_port, *ports = free_ports(1 + 2 * gateways)
    rest, grpc = ports[:gateways], ports[gateways:]
    target = Target(
        tuple(f"http://127.0.0.1:{port}" for port in rest),
        tuple(f"127.0.0.1:{port}" for port in grpc),
        f"http://127.0.0.1:{metrics_port}/metrics",
    )
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="padrec-loadtest-"))
        settings = {
            "PADREC_WORKER__LISTEN": f"unix:{folder}/worker",
            "PADREC_WORKER__METRICS_PORT": str(metrics_port),
            "PADREC_GATEWAY__WORKER": f"unix:{folder}/worker",
            "PADREC_HISTORY__URL": history or f"sqlite:///{folder}/history.sqlite3",
            "PADREC_LOG__LEVEL": "info",
            "PADREC_LOG__FORMAT": "console",
            SUPERVISOR_PID: str(os.getpid()),
        }
        environment = {**_SHARING_CORES, **os.environ, **settings}

        def start(log: str, command: str, *options: str) -> "subprocess.Popen[bytes]":
            whole = [*_PADREC, command, str(bundle), *options]
            return stack.enter_context(running(whole, environment, logs / log))

        processes = [start("worker.log", "worker")]
        for number, (port, grpc_port) in enumerate(zip(rest, grpc, strict=True)):
            options = ("--port", str(port), "--grpc-port", str(grpc_port))
            processes.append(start(f"gateway-{number}.log", "gateway", *options))
        _wait(processes, target.urls, logs)
        yield target


def _wait(processes: Sequence["subprocess.Popen[bytes]"], urls: Sequence[str], logs: Path) -> None:
    """Until every gateway is ready, and so the worker."""
    deadline = time.monotonic() + _START_SECONDS
    for url in urls:
        while not _is_ready(url):
            has_ended = any(process.poll() is not None for process in processes)
            if has_ended or time.monotonic() > deadline:
                raise PadrecError(
                    f"the service did not start; worker.log and gateway-*.log in {logs} say why"
                )
            time.sleep(_POLL_SECONDS)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=_ANSWER_SECONDS, trust_env=False).is_success
    except httpx.HTTPError:
        return False
