import gc
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from service.processes import SUPERVISOR_PID, keep_for_good

CHILD = textwrap.dedent(
    """
    import sys, time
    from service.processes import end_with_supervisor
    end_with_supervisor()
    print("started", flush=True)
    sys.stdin.read()
    """
)


def run(supervisor: str | None) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != SUPERVISOR_PID}
    if supervisor is not None:
        environment[SUPERVISOR_PID] = supervisor
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_another_parent_than_the_supervisor_ends_the_process() -> None:
    with run(supervisor="0") as child:
        assert child.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("supervised", [False, True])
def test_a_process_with_its_supervisor_goes_on(supervised: bool) -> None:
    with run(str(os.getpid()) if supervised else None) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        child.communicate()
        assert child.returncode == 0


def test_the_collector_looks_at_what_came_later_alone() -> None:
    before = [object]
    try:
        keep_for_good()
        after = [object]
        looked_at = {id(thing) for thing in gc.get_objects()}
    finally:
        gc.unfreeze()
    assert id(before) not in looked_at
    assert id(after) in looked_at
