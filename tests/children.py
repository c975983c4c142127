"""Processes that tests start, and waiting for what they do. No test module."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG = 60.0


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition to become true; its value."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise TimeoutError


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
