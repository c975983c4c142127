"""Where the gateway asks its launcher for another bundle: a Unix socket, one gateway at a time, lines of JSON.

    gateway              launcher
    {"start": BUNDLE}    starts a second worker beside the first: {"worker": ADDRESS}
                         {"error": LINE} when it cannot, or once that worker has ended; all is as it was before
    {"commit": true}     from now on whatever is started again is of the new bundle: {"committed": true}
    {"retire": true}     stops the old worker: {"retired": true} when it has ended

Whichever worker is too many when the connection ends is stopped: the new one before the commit, the old one after it.
So a gateway that dies in the middle leaves a service of one bundle, and may forget that there was a swap.
"""

import json
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from service.child import Child
from service.errors import PadrecError

_MAX_LINE_BYTES = 65_536

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that may take the place of the one that serves.

    Attributes:
        bundle: the folder that it serves.
        version: of the bundle when the worker was started.
        worker: the process.
        address: where it listens.
        last_words: a file that says why it ended, where it knew.
    """

    bundle: Path
    version: object
    worker: Child
    address: str
    last_words: Path


class Fleet(Protocol):
    """The processes of a service."""

    def start_worker(self, bundle: Path) -> Candidate:
        """Start a worker beside the one that serves; raises `PadrecError` or `OSError` when that is not possible."""
        ...

    def commit(self, candidate: Candidate) -> Child:
        """Have it in the place of the worker that served, which is returned and no longer tended."""
        ...


class Control:
    """Takes orders on a socket; nothing in it waits.

    Args:
        listener: listens already; closed at the end.
        fleet: what the orders are about.
        grace: seconds that a worker has to end by itself.
    """

    def __init__(self, listener: socket.socket, fleet: Fleet, grace: float) -> None:
        listener.setblocking(False)
        self._listener, self._fleet, self._grace = listener, fleet, grace
        self._gateway: socket.socket | None = None
        self._received = b""
        self._candidate: Candidate | None = None
        self._old: Child | None = None
        self._ending: threading.Thread | None = None

    def tend(self) -> None:
        """See what there is to be done, and do it; called again and again."""
        if self._gateway is None:
            self._accept()
            return
        if self._ending is not None:
            if not self._ending.is_alive():
                self._ending = None
                self._tell(retired=True)
            return
        if self._candidate is not None and (code := self._candidate.worker.tend()) is not None:
            words = _why(code, self._candidate.last_words)
            self._candidate = None
            self._tell(error=words)
        self._take_orders()

    def close(self) -> None:
        """Stop every worker that is not the one that serves, and listen no more."""
        self._hang_up()
        if self._ending is not None:
            self._ending.join()
        self._listener.close()

    def _accept(self) -> None:
        if self._ending is not None:  # its memory may be what the next one needs
            if self._ending.is_alive():
                return
            self._ending = None
        try:
            self._gateway, _ = self._listener.accept()
        except OSError:
            return
        self._gateway.setblocking(False)
        self._received = b""

    def _take_orders(self) -> None:
        if self._gateway is None:
            return
        try:
            data = self._gateway.recv(_MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            try:
                order = json.loads(line)
            except ValueError:
                order = {}
            self._obey(order)

    def _obey(self, order: dict[str, Any]) -> None:
        if "start" in order and self._candidate is None and self._old is None:
            self._start(Path(order["start"]))
        elif "commit" in order and self._candidate is not None:
            self._old, self._candidate = self._fleet.commit(self._candidate), None
            self._tell(committed=True)
        elif "retire" in order and self._old is not None:
            self._stop(self._old)
            self._old = None
        else:
            self._tell(error="the launcher has no worker for that now")

    def _start(self, bundle: Path) -> None:
        try:
            self._candidate = self._fleet.start_worker(bundle)
        except (PadrecError, OSError) as error:
            self._tell(error=str(error))
            return
        self._tell(worker=self._candidate.address)

    def _stop(self, worker: Child) -> None:
        """In a thread, as it may take a while, in which others must be tended."""
        self._ending = threading.Thread(target=worker.stop, args=(self._grace,), name="ending-worker")
        self._ending.start()

    def _hang_up(self) -> None:
        """The gateway is gone."""
        if self._gateway is not None:
            self._gateway.close()
            self._gateway = None
        if self._candidate is not None:
            _log.warning("new worker given up", bundle=str(self._candidate.bundle))
            self._stop(self._candidate.worker)
            self._candidate = None
        elif self._old is not None:
            self._stop(self._old)
            self._old = None

    def _tell(self, **words: object) -> None:
        if self._gateway is None:
            return
        try:
            self._gateway.sendall(json.dumps(words).encode() + b"\n")
        except OSError:
            self._hang_up()


def _why(code: int, last_words: Path) -> str:
    """Why a process ended, in a line."""
    if last_words.is_file():
        return f"the new worker refuses: {last_words.read_text(encoding='utf-8')}"
    if code < 0:
        return f"the new worker was ended by {signal.Signals(-code).name}"
    return f"the new worker ended with exit code {code}; the log says why"
