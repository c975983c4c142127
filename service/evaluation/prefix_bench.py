"""What a prefill costs for a new user, and for one who comes back with one more item."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from service.engine.engine import Engine
from service.engine.prefixes import History
from service.errors import InputError
from service.evaluation.timing import timed
from service.types import DecodeRequest


def measure_prefixes(
    make_engine: Callable[[int], Engine],
    *,
    device: torch.device,
    num_rows: int,
    history_items: int,
    num_users: int,
    batch: int,
    seed: int,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[str, Any]:
    """Prefill users, so many at a time, those who are new and those who come back in turns.

    Every prefill has its shape met before the clock runs, so that on a GPU it is a graph.

    Args:
        make_engine: that keeps so many prompts.
        device: where it is.
        num_rows: of the catalogue.
        history_items: of a user who is new, and of one who comes back, the new item included.
        num_users: of either kind that are timed, at least.
        batch: that come at the same time.
        seed: of the histories, which are random.

    Raises:
        InputError: they are so short, or the catalogue so small, that one begins like another.
    """
    rng = np.random.default_rng(seed)
    timed = -(-num_users // batch)
    rounds = timed + 3
    total = rounds * batch
    engine = make_engine(3 * total)
    histories = [tuple(rng.integers(num_rows, size=history_items).tolist()) for _ in range(2 * total)]
    cold, warm = (_in_batches(part, batch) for part in (histories[:total], histories[total:]))
    for of_batch in warm:
        _prefill(engine, [history[:-1] for history in of_batch], device)
    seconds: dict[str, list[float]] = {"cold": [], "returning": []}
    for number, pair in enumerate(zip(cold, warm, strict=True)):
        for kind, of_batch in zip(seconds, pair, strict=True):
            taken = _prefill(engine, of_batch, device)
            if number >= rounds - timed:
                seconds[kind].append(taken / batch)
        on_progress(number + 1, rounds, "batches of users")
    if engine.prefix_counts != (3 * total, total):
        raise InputError(
            f"random histories of {history_items} items begin like each other; ask for longer ones"
        )
    milliseconds = {kind: median(of_kind) * 1e3 for kind, of_kind in seconds.items()}
    return {
        "history_items": history_items,
        "users": timed * batch,
        "batch": batch,
        "cold_ms": milliseconds["cold"],
        "returning_ms": milliseconds["returning"],
        "times_cheaper": milliseconds["cold"] / milliseconds["returning"],
    }


def _in_batches(histories: Sequence[History], batch: int) -> list[Sequence[History]]:
    return [histories[begin : begin + batch] for begin in range(0, len(histories), batch)]


def _prefill(engine: Engine, histories: Sequence[History], device: torch.device) -> float:
    """Seconds until lists with these histories could have their first round."""
    requests = [DecodeRequest(f"user {n}", history, num_items=1) for n, history in enumerate(histories)]
    _, seconds = timed(lambda: engine.add(requests), device)
    engine.drop([request.request_id for request in requests])
    return seconds
