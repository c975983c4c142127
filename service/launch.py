"""`padrec serve`: one worker and one gateway as child processes, started again when they die."""

import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from service.catalog.bundle import Bundle
from service.child import Child
from service.config import Settings
from service.control import Candidate, Control
from service.errors import BundleError, PadrecError
from service.processes import LAST_WORDS, LAUNCHER, SUPERVISOR_PID
from service.rpc.listen import MAX_UNIX_PATH_BYTES, join_host_port, listen_tcp, listen_unix
from service.telemetry.logs import configure_logging

PADREC = (sys.executable, "-m", "service.cli")

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 12.0  # more than the gateway and the worker take to drain
_READY_TIMEOUT = 2.0
_EXIT_INPUT_ERROR = 2
_MAX_EARLY_DEATHS = 3
_WORKER, _CONTROL = "worker", "control"

_log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps children alive.

    Args:
        children: in the order in which they start and against which they stop.
        read_version: of what they serve; children of one version never run beside those of another.
        grace: seconds that each has to end.
    """

    def __init__(
        self,
        children: Sequence[Child],
        read_version: Callable[[], object] = lambda: None,
        grace: float = _GRACE_SECONDS,
    ) -> None:
        self._children = children
        self._read_version = read_version
        self._grace = grace
        self._version = read_version()
        self._stopping = False

    def run(
        self,
        is_ready: Callable[[], bool],
        on_ready: Callable[[], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> int:
        """Start the children and tend them until `stop` is called.

        Args:
            is_ready: asked again and again until it says so for the first time.
            on_ready: called then, once.
            meanwhile: called again and again.

        Returns:
            0, or 2 when a child ended with 2 before all was ready: its input is wrong, and starting it again
            would not help.

        Raises:
            PadrecError: a child died for the third time before all was ready.
        """
        for child in self._children:
            child.start()
        ready = False
        early_deaths: Counter[str] = Counter()
        while not self._stopping:
            for child in self._children:
                if child.is_due:
                    self._stop_other_versions()
                code = child.tend()
                if code is None:
                    continue
                if code == _EXIT_INPUT_ERROR and not ready:
                    return code
                early_deaths[child.name] += not ready
                if early_deaths[child.name] == _MAX_EARLY_DEATHS and not ready:
                    raise PadrecError(
                        f"the {child.name} died {_MAX_EARLY_DEATHS} times before all was ready, "
                        f"at last with exit code {code}"
                    )
                _log.warning("died; starts again", process=child.name, exit_code=code)
            if not ready and is_ready():
                ready = True
                on_ready()
            meanwhile()
            time.sleep(_POLL_SECONDS)
        return 0

    def replace(self, old: Child, new: Child, version: object) -> None:
        """Tend `new`, which runs, in the place of `old`, and the others as children of this version from now on."""
        self._children = [new if child is old else child for child in self._children]
        self._version = version

    def stop(self) -> None:
        """Make `run` return; may be called from a signal handler or another thread."""
        self._stopping = True

    def _stop_other_versions(self) -> None:
        try:
            version = self._read_version()
        except BundleError:  # the child that starts now says what is wrong
            return
        if version != self._version:
            _log.warning("the bundle was replaced; all start again")
            self._version = version
            self.shut_down()

    def shut_down(self, grace: float | None = None) -> None:
        """Stop the children, each within `grace` seconds; None: as many as the supervisor was made with."""
        for child in reversed(self._children):
            child.stop(self._grace if grace is None else grace)


def serve(
    bundle: Path,
    settings: Settings,
    config: Path | None,
    *,
    on_ready: Callable[[str], None] | None = None,
    padrec: Sequence[str] = PADREC,
) -> int:
    """Serve a bundle until SIGINT or SIGTERM; call it in the main thread.

    Args:
        bundle: the folder.
        settings: what the children run with; the launcher fills in where the worker listens.
        config: the settings' file, if there is one.
        on_ready: called with the gateway's URL when the first request can be answered.
        padrec: the command whose `worker` and `gateway` are started.

    Returns:
        The exit code: 0 after a signal, 2 when a child refused its input and said why.

    Raises:
        BundleError: the bundle has no valid manifest.
        InputError: the gateway's port is in use.
        PadrecError: a child cannot be started.
    """
    configure_logging(settings.log)
    _versions(bundle)
    with (
        listen_tcp(settings.gateway.host, settings.gateway.port) as listener,
        _private_folder() as folder,
    ):
        url = _url(listener, "http" if settings.gateway.tls_certificate is None else "https")
        local_socket = settings.gateway.local_socket
        if local_socket is None and settings.gateway.tls_certificate is not None:
            # Whoever asks whether it is ready need not have a certificate that it takes.
            local_socket = folder / "gateway"
        fleet = _Fleet(bundle, settings, config, padrec, folder, listener, local_socket)
        supervisor = fleet.supervisor
        with _signals_to(supervisor.stop):
            try:
                return supervisor.run(
                    lambda: _answers(url, local_socket),
                    lambda: on_ready(url) if on_ready else None,
                    fleet.control.tend,
                )
            finally:
                listener.close()  # so that nobody new waits for a gateway that is about to end
                supervisor.shut_down()
                fleet.control.close()


class _Fleet:
    """A worker and a gateway of one bundle, and of the next one when the gateway asks for it.

    Args:
        bundle: what is served first.
        settings: what all run with.
        config: the settings' file, if there is one.
        padrec: the command whose `worker` and `gateway` are started.
        folder: of sockets.
        listener: the gateway's.
        local_socket: where it listens besides.
    """

    def __init__(
        self,
        bundle: Path,
        settings: Settings,
        config: Path | None,
        padrec: Sequence[str],
        folder: Path,
        listener: socket.socket,
        local_socket: Path | None,
    ) -> None:
        self._settings, self._padrec, self._folder = settings, padrec, folder
        self._local_socket = local_socket
        self._options = ("--config", str(config)) if config else ()
        self._gateway_options = (*self._options, "--fd", str(listener.fileno()))
        self._count = 0
        self._served = self._candidate(bundle)
        self._gateway = Child(
            "gateway",
            *self._gateway_command(),
            fds=[listener.fileno()],
            heartbeat=folder / "heartbeat-gateway",
            patience=settings.supervision.hang_seconds,
        )
        self.supervisor = Supervisor(
            [self._served.worker, self._gateway],
            lambda: _versions(self._served.bundle),
            _GRACE_SECONDS + settings.gateway.drain_delay_seconds,
        )
        self.control = Control(listen_unix(folder / _CONTROL), self, _GRACE_SECONDS)

    def start_worker(self, bundle: Path) -> Candidate:
        """See `service.control.Fleet`."""
        # Its metrics' port is the other worker's still.
        candidate = self._candidate(bundle, "--beside")
        candidate.worker.start()
        return candidate

    def commit(self, candidate: Candidate) -> Child:
        """See `service.control.Fleet`."""
        _log.info("the bundle is swapped", bundle=str(candidate.bundle))
        old, self._served = self._served.worker, candidate
        self._gateway.become(*self._gateway_command())
        self.supervisor.replace(old, candidate.worker, candidate.version)
        return old

    def _candidate(self, bundle: Path, *options: str) -> Candidate:
        self._count += 1
        address, last_words = (f"{self._folder}/{name}-{self._count}" for name in (_WORKER, "last-words"))
        argv = [*self._padrec, "worker", str(bundle), *self._options, *options]
        environment = _environment(self._settings, f"unix:{address}", self._local_socket) | {
            LAST_WORDS: last_words
        }
        return Candidate(
            bundle,
            _versions(bundle),
            Child(
                "worker",
                argv,
                env=environment,
                heartbeat=self._folder / f"heartbeat-{self._count}",
                patience=self._settings.supervision.hang_seconds,
            ),
            f"unix:{address}",
            Path(last_words),
        )

    def _gateway_command(self) -> tuple[list[str], dict[str, str]]:
        argv = [*self._padrec, "gateway", str(self._served.bundle), *self._gateway_options]
        environment = _environment(self._settings, self._served.address, self._local_socket)
        return argv, environment | {LAUNCHER: str(self._folder / _CONTROL)}


def _versions(bundle: Path) -> tuple[str, str]:
    """What says that two manifests are of the same bundle."""
    manifest = Bundle.open(bundle, only=()).manifest
    return manifest.model_version, manifest.catalog_version


def _environment(settings: Settings, worker: str, local_socket: Path | None) -> dict[str, str]:
    """The children's environment: it wins over the file, so that both run with exactly these settings."""
    values = settings.model_dump(mode="json", exclude_none=True)
    values["gateway"]["worker"] = values["worker"]["listen"] = worker
    if local_socket is not None:
        values["gateway"]["local_socket"] = str(local_socket)
    variables = {
        f"PADREC_{section}__{name}".upper(): value if isinstance(value, str) else json.dumps(value)
        for section, fields in values.items()
        for name, value in fields.items()
    }
    return {**os.environ, **variables, SUPERVISOR_PID: str(os.getpid())}


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A private folder whose path leaves room for a socket's name."""
    longest = MAX_UNIX_PATH_BYTES - len(f"/padrec-xxxxxxxx/{_WORKER}-1000000")
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > longest:
        parent = "/tmp"
    with tempfile.TemporaryDirectory(prefix="padrec-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def _signals_to(stop: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://{join_host_port(host, port)}"


def _answers(url: str, local_socket: Path | None) -> bool:
    """Whether the gateway says that it is ready; asked past any proxy, and, by its local socket, past its TLS."""
    connection = http.client.HTTPConnection(url.partition("://")[2], timeout=_READY_TIMEOUT)
    try:
        if local_socket is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_READY_TIMEOUT)
            connection.sock.connect(str(local_socket))
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
