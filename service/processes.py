"""What a process owes to the one that started it."""

import asyncio
import gc
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

# What a supervisor says in the environment of those whom it starts: its process ID, where they say why they end, where
# they say that they are alive, and where it can be asked for another bundle.
SUPERVISOR_PID = "PADREC_SUPERVISOR_PID"
LAST_WORDS = "PADREC_LAST_WORDS"
HEARTBEAT = "PADREC_HEARTBEAT"
LAUNCHER = "PADREC_LAUNCHER"

_BEAT_SECONDS = 1.0
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 15.0


def end_with_supervisor() -> None:
    """End this process when its supervisor dies: as by SIGTERM, and for good if that does not help.

    The supervisor is the parent whose process ID stands in the environment as `PADREC_SUPERVISOR_PID`;
    without it nothing happens.
    """
    if supervisor := os.environ.get(SUPERVISOR_PID):
        watch = threading.Thread(target=_watch, args=(int(supervisor),), name="supervisor-watch", daemon=True)
        watch.start()


def keep_for_good() -> None:
    """Have the garbage collector leave alone whatever there is by now, once a process is ready to serve.

    Of some hundred thousand objects of libraries, a model and a catalogue, a full collection takes a quarter of a
    second, in which no list is written, and finds nothing.
    """
    gc.collect()
    gc.freeze()


def leave_last_words(line: str) -> None:
    """Tell the supervisor why this process ends: in the file that the environment names, if it names one."""
    if path := os.environ.get(LAST_WORDS):
        with suppress(OSError):
            Path(path).write_text(line, encoding="utf-8")


async def beat() -> None:
    """Tell the supervisor every second that this event loop runs: touch the file that the environment names."""
    while path := os.environ.get(HEARTBEAT):
        with suppress(OSError):
            Path(path).touch()
        await asyncio.sleep(_BEAT_SECONDS)


def _watch(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
