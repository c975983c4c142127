import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.child import Child
from service.processes import HEARTBEAT
from tests.children import is_gone, python, until


class TestChild:
    """One process, with a clock to turn by hand."""

    @pytest.fixture
    def make(self) -> Iterator[Callable[..., Child]]:
        self.now = 0.0
        children: list[Child] = []

        def make(code: str, **options: Any) -> Child:
            children.append(
                Child("child", python(code), env=dict(os.environ), clock=lambda: self.now, **options)
            )
            children[-1].start()
            return children[-1]

        yield make
        for child in children:
            child.stop(0)

    @staticmethod
    def death(child: Child) -> int:
        codes: list[int] = []

        def dead() -> bool:
            code = child.tend()
            if code is not None:
                codes.append(code)
            return bool(codes)

        until(dead)
        return codes[0]

    def delay(self, child: Child) -> float:
        """Seconds, to about a hundredth, after which the dead child starts again."""
        died = self.now
        while child.pid is None:
            self.now += 0.01
            child.tend()
        return self.now - died

    def test_a_dead_child_starts_again_later_and_later(self, make: Callable[..., Child]) -> None:
        child = make("raise SystemExit(3)")
        delays = []
        for _ in range(8):
            assert self.death(child) == 3
            delays.append(self.delay(child))
        assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0], abs=0.02)

    def test_good_health_is_rewarded(self, make: Callable[..., Child]) -> None:
        child = make("import time; time.sleep(600)")
        delays = []
        for healthy in (1, 29, 31, 1):
            self.now += healthy
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            assert self.death(child) == -signal.SIGKILL
            delays.append(self.delay(child))
        assert delays == pytest.approx([0.1, 0.2, 0.1, 0.2], abs=0.02)

    def test_one_that_gives_no_sign_of_life_is_killed(
        self, make: Callable[..., Child], tmp_path: Path
    ) -> None:
        beat = tmp_path / "beat"
        code = f"import os, pathlib, time; pathlib.Path(os.environ[{HEARTBEAT!r}]).touch(); time.sleep(600)"
        child = make(code, heartbeat=beat, patience=10)
        self.now += 100  # it has not begun to beat yet
        assert child.tend() is None
        until(beat.exists)
        for _ in range(3):
            assert child.tend() is None
            self.now += 9
            assert child.tend() is None
            # A clock that was set back is a sign of life too.
            os.utime(beat, ns=(0, beat.stat().st_mtime_ns - 10**9))
        assert child.tend() is None
        self.now += 10.1
        assert self.death(child) == -signal.SIGKILL
        self.delay(child)
        assert child.tend() is None  # what the first one left does not count

    def test_a_child_that_ignores_sigterm_is_killed(self, make: Callable[..., Child], tmp_path: Path) -> None:
        child = make(
            "import signal, time, pathlib\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
            "time.sleep(600)"
        )
        until((tmp_path / "up").exists)
        pid = child.pid
        assert pid is not None
        child.stop(grace=0.1)
        assert child.pid is None
        assert is_gone(pid)
        child.stop(grace=0.1)
