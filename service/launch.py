"""`padrec serve`: one worker and one gateway as child processes, started again when they die."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from service.catalog.bundle import Bundle
from service.config import Settings
from service.errors import BundleError, PadrecError
from service.processes import SUPERVISOR_PID
from service.rpc.listen import MAX_UNIX_PATH_BYTES, join_host_port, listen_tcp
from service.telemetry.logs import configure_logging

PADREC = (sys.executable, "-m", "service.cli")

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 12.0  # more than the gateway and the worker take to drain
_READY_TIMEOUT = 2.0
_EXIT_INPUT_ERROR = 2
_MAX_EARLY_DEATHS = 3

_log = structlog.get_logger(__name__)


class Child:
    """A process that is started again when it dies.

    Args:
        name: for the log.
        argv: the command.
        env: the whole environment.
        fds: file descriptors that it inherits.
        clock: seconds that only rise.
    """

    FIRST_DELAY = 0.1
    LAST_DELAY = 5.0
    GOOD_HEALTH = 30.0

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        fds: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._argv, self._env, self._fds = argv, env, fds
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_again_at = 0.0
        self._delay = self.FIRST_DELAY

    @property
    def pid(self) -> int | None:
        """The process ID; None while it is down."""
        return self._process.pid if self._process else None

    @property
    def is_due(self) -> bool:
        """Whether it is down, and its delay is over."""
        return self._process is None and self._clock() >= self._start_again_at

    def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C at a terminal is the supervisor's to pass on."""
        self._started_at = self._clock()
        self._process = subprocess.Popen(
            self._argv,
            env=self._env,
            pass_fds=self._fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def tend(self) -> int | None:
        """Start the process again if it is down and its delay is over.

        The delay doubles from death to death, and starts anew after half a minute of good health.

        Returns:
            The exit code, once, when the process is found dead; negative for a signal.
        """
        if self._process is None:
            if self.is_due:
                self.start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._process = None
        now = self._clock()
        if now - self._started_at >= self.GOOD_HEALTH:
            self._delay = self.FIRST_DELAY
        self._start_again_at = now + self._delay
        self._delay = min(2 * self._delay, self.LAST_DELAY)
        return code

    def stop(self, grace: float) -> None:
        """End the process: with SIGTERM, and after `grace` seconds with SIGKILL."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            _log.warning("killed", process=self.name, after_seconds=grace)
            self._process.kill()
            self._process.wait()
        self._process = None


class Supervisor:
    """Keeps children alive.

    Args:
        children: in the order in which they start and against which they stop.
        read_version: of what they serve; children of one version never run beside those of another.
    """

    def __init__(self, children: Sequence[Child], read_version: Callable[[], object] = lambda: None) -> None:
        self._children = children
        self._read_version = read_version
        self._version = read_version()
        self._stopping = False

    def run(self, is_ready: Callable[[], bool], on_ready: Callable[[], None]) -> int:
        """Start the children and tend them until `stop` is called.

        Args:
            is_ready: asked again and again until it says so for the first time.
            on_ready: called then, once.

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
            time.sleep(_POLL_SECONDS)
        return 0

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

    def shut_down(self, grace: float = _GRACE_SECONDS) -> None:
        """Stop the children, each within `grace` seconds."""
        for child in reversed(self._children):
            child.stop(grace)


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
        _socket_folder() as folder,
    ):
        url = _url(listener, "http" if settings.gateway.tls_certificate is None else "https")
        local_socket = settings.gateway.local_socket
        if local_socket is None and settings.gateway.tls_certificate is not None:
            # Whoever asks whether it is ready need not have a certificate that it takes.
            local_socket = folder / "gateway"
        options = [str(bundle), *(("--config", str(config)) if config else ())]
        environment = _environment(settings, f"unix:{folder / 'worker'}", local_socket)
        worker = Child("worker", [*padrec, "worker", *options], env=environment)
        fd = listener.fileno()
        gateway = Child("gateway", [*padrec, "gateway", *options, "--fd", str(fd)], env=environment, fds=[fd])
        supervisor = Supervisor([worker, gateway], lambda: _versions(bundle))
        with _signals_to(supervisor.stop):
            try:
                return supervisor.run(
                    lambda: _answers(url, local_socket), lambda: on_ready(url) if on_ready else None
                )
            finally:
                listener.close()  # so that nobody new waits for a gateway that is about to end
                supervisor.shut_down()


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
def _socket_folder() -> Iterator[Path]:
    """A private folder whose path leaves room for a socket's name."""
    longest = MAX_UNIX_PATH_BYTES - len("/padrec-xxxxxxxx/gateway")
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
