"""A process that is kept alive."""

import math
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from service.processes import HEARTBEAT

_log = structlog.get_logger(__name__)


class Child:
    """A process that is started again when it dies, or hangs.

    Args:
        name: for the log.
        argv: the command.
        env: the whole environment.
        fds: file descriptors that it inherits.
        heartbeat: a file that it touches again and again (`service.processes.beat`), once it has begun to.
        patience: seconds without a beat after which it is killed.
        clock: seconds that only rise.
    """

    FIRST_DELAY = 0.1
    LAST_DELAY = 5.0
    GOOD_HEALTH = 30.0

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        fds: Sequence[int] = (),
        heartbeat: Path | None = None,
        patience: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._argv, self._env, self._fds = argv, env, fds
        self._heartbeat, self._patience = heartbeat, patience
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_again_at = 0.0
        self._delay = self.FIRST_DELAY
        self._beat: int | None = None  # the latest that was seen, by its file's time
        self._beat_at = 0.0

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
        environment = dict(self._env)
        if self._heartbeat is not None:
            # One that was killed leaves it behind.
            self._heartbeat.unlink(missing_ok=True)
            self._beat = None
            environment[HEARTBEAT] = str(self._heartbeat)
        self._process = subprocess.Popen(
            self._argv,
            env=environment,
            pass_fds=self._fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def tend(self) -> int | None:
        """Start the process again if it is down and its delay is over; kill it if it hangs.

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
            if self._hangs():
                _log.warning("hangs; killed", process=self.name, after_seconds=self._patience)
                self._process.kill()
            return None
        self._process = None
        now = self._clock()
        if now - self._started_at >= self.GOOD_HEALTH:
            self._delay = self.FIRST_DELAY
        self._start_again_at = now + self._delay
        self._delay = min(2 * self._delay, self.LAST_DELAY)
        return code

    def _hangs(self) -> bool:
        beat = None
        if self._heartbeat is not None:
            with suppress(OSError):
                beat = self._heartbeat.stat().st_mtime_ns
        if beat is None:
            return False
        # Told by its change: the wall clock may jump.
        if beat != self._beat:
            self._beat, self._beat_at = beat, self._clock()
        return self._clock() - self._beat_at > self._patience

    def become(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start with this command and environment from the next time on."""
        self._argv, self._env = argv, env

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
