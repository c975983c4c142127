"""Clocks that are read when the device is done."""

import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

import torch

T = TypeVar("T")

REPEATS = 50


def synchronize(device: torch.device) -> None:
    """A GPU works on after a call returns; clocks are read when it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What `work` returns, and the seconds that it took."""
    synchronize(device)
    started = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - started


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Of one call, after half as many that do not count."""
    for _ in range(repeats // 2):
        work()
    return median(timed(work, device)[1] for _ in range(repeats))
