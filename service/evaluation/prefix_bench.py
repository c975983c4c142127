"""What a prefill costs for a new user, and for one who comes back with one more item."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from service.engine.engine import Engine
from service.errors import InputError
from service.evaluation.timing import synchronize
from service.types import DecodeRequest


def measure_prefixes(
    make_engine: Callable[[int], Engine],
    *,
    device: torch.device,
    num_rows: int,
    history_items: int,
    num_users: int,
    seed: int,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[str, Any]:
    """Prefill users one at a time, those who are new and those who come back in turns.

    Every prefill has its shape met before the clock runs, so that on a GPU it is a graph.

    Args:
        make_engine: that keeps so many prompts.
        device: where it is.
        num_rows: of the catalogue.
        history_items: of a user who is new, and of one who comes back, the new item included.
        num_users: of either kind that are timed.
        seed: of the histories, which are random.

    Raises:
        InputError: they are so short, or the catalogue so small, that one begins like another.
    """
    rng = np.random.default_rng(seed)
    total = num_users + 3
    engine = make_engine(3 * total)
    histories = [tuple(rng.integers(num_rows, size=history_items).tolist()) for _ in range(2 * total)]
    cold, warm = histories[:total], histories[total:]
    for history in warm:
        _prefill(engine, history[:-1], device)
    seconds: dict[str, list[float]] = {"cold": [], "returning": []}
    for number, pair in enumerate(zip(cold, warm, strict=True)):
        for kind, history in zip(seconds, pair, strict=True):
            taken = _prefill(engine, history, device)
            if number >= total - num_users:
                seconds[kind].append(taken)
        on_progress(number + 1, total, "users")
    if engine.prefix_counts != (3 * total, total):
        raise InputError(
            f"random histories of {history_items} items begin like each other; ask for longer ones"
        )
    milliseconds = {kind: median(of_kind) * 1e3 for kind, of_kind in seconds.items()}
    return {
        "history_items": history_items,
        "users": num_users,
        "cold_ms": milliseconds["cold"],
        "returning_ms": milliseconds["returning"],
        "times_cheaper": milliseconds["cold"] / milliseconds["returning"],
    }


def _prefill(engine: Engine, history: Sequence[int], device: torch.device) -> float:
    """Seconds until a list with this history could have its first round."""
    request = DecodeRequest("user", tuple(history), num_items=1)
    synchronize(device)
    started = time.perf_counter()
    engine.add([request])
    synchronize(device)
    seconds = time.perf_counter() - started
    engine.drop([request.request_id])
    return seconds
