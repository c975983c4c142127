"""A service for a load test: on free ports, with gRPC, the worker's metrics and a history of its own."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.run import Target
from service.errors import PadrecError

_START_SECONDS = 180.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
# The load generator and the gateway need cores too: a pass's threads that wait for a core make all of it wait.
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
def serving(bundle: Path, folder: Path) -> Iterator[Target]:
    """A service of a bundle, which ends with the block.

    Args:
        bundle: the folder.
        folder: for its history and its log.

    Raises:
        PadrecError: it ended, or was not ready in time.
    """
    metrics_port = free_port()
    settings = {
        "PADREC_GATEWAY__GRPC_PORT": "0",
        "PADREC_WORKER__METRICS_PORT": str(metrics_port),
        "PADREC_HISTORY__URL": f"sqlite:///{(folder / 'history.sqlite3').absolute()}",
        "PADREC_LOG__LEVEL": "info",
        "PADREC_LOG__FORMAT": "console",
    }
    log = folder / "service.log"
    told: dict[str, str] = {}
    process = subprocess.Popen(
        [*_PADREC, "serve", str(bundle), "--port", "0"],
        env={**_SHARING_CORES, **os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
    )
    reader = threading.Thread(target=_read, args=(process, log, told), daemon=True)
    reader.start()
    try:
        _wait(process, told, log)
        yield Target(told["url"], told["grpc"], f"http://127.0.0.1:{metrics_port}/metrics")
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(_STOP_SECONDS)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _read(process: "subprocess.Popen[str]", log: Path, told: dict[str, str]) -> None:
    """Keep what the service says, and where it listens."""
    assert process.stderr is not None
    with process.stderr, log.open("w", encoding="utf-8") as kept:
        for line in process.stderr:
            kept.write(line)
            kept.flush()
            if "gRPC gateway listening" in line and (found := re.search(r"127\.0\.0\.1:\d+", line)):
                told["grpc"] = found.group()
            if line.startswith("serving "):
                told["url"] = line.split(" at ")[1].strip()


def _wait(process: "subprocess.Popen[str]", told: dict[str, str], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not {"url", "grpc"} <= set(told):
        if process.poll() is not None or time.monotonic() > deadline:
            raise PadrecError(f"the service did not start; {log} says why")
        time.sleep(_POLL_SECONDS)
