"""Processes that a load test starts, and ports for them."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from service.rpc.listen import listen_tcp

_STOP_SECONDS = 30.0


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is told to end at the end of the block, if it has not ended by then.

    Args:
        command: that starts it.
        environment: the whole.
        log: file for what it says on stderr; None: the caller's stderr.
    """
    with ExitStack() as stack:
        stderr = None if log is None else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that nobody listens on, each another."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(listen_tcp("127.0.0.1", 0)) for _ in range(count)]
        return [int(free.getsockname()[1]) for free in sockets]
