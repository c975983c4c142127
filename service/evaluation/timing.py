"""Clocks that are read when the device is done."""

import time
from collections.abc import Callable
from statistics import median

import torch

REPEATS = 50


def synchronize(device: torch.device) -> None:
    """A GPU works on after a call returns; clocks are read when it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Of one call, after half as many that do not count."""
    seconds = []
    for _ in range(repeats // 2):
        work()
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds)
