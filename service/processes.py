"""What a process owes to the one that started it."""

import os
import signal
import threading
import time

SUPERVISOR_PID = "PADREC_SUPERVISOR_PID"

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


def _watch(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
