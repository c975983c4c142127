"""How a long command shows where it is: a bar on a terminal, plain lines elsewhere; always on stderr."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL_SECONDS = 10.0
_NOTE_SECONDS = 0.5


def say(line: str) -> None:
    """One line about what begins or ended."""
    print(line, file=sys.stderr, flush=True)


class Bar:
    """Where one long stage stands."""

    def __init__(self, name: str, progress: Progress | None) -> None:
        self._name = name
        self._progress = progress
        self._task = None if progress is None else progress.add_task(name, total=None, note="")
        self._interval = PLAIN_INTERVAL_SECONDS if progress is None else _NOTE_SECONDS
        # A bar tells at once, lines only of what takes long.
        self._said_at = time.monotonic() if progress is None else -math.inf

    def update(self, done: int, total: int | None = None, note: str | Callable[[], str] = "") -> None:
        """`done` of `total` steps, where that is known, and what there is to say about them.

        A note may be a function, where something must be waited for to know it: it is called now and then.
        """
        is_due = done == total or time.monotonic() - self._said_at >= self._interval
        if is_due:
            self._said_at = time.monotonic()
            note = note() if callable(note) else note
        if self._progress is not None and self._task is not None:
            said: dict[str, Any] = {} if callable(note) else {"note": note}
            self._progress.update(self._task, completed=done, total=total, **said)
        elif is_due:
            of_total = "" if total is None else f"/{total}"
            say(f"{self._name} {done}{of_total} {note}".rstrip())


@contextmanager
def bar(name: str) -> Iterator[Bar]:
    """A bar for one stage."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(name, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(name, progress)
