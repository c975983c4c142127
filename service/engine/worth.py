"""Whether a draft is worth its passes, measured where it will run; to be replaced by a choice at every round."""

import time
from collections.abc import Sequence
from statistics import median

from service.engine.engine import Engine
from service.types import DecodeRequest


def speed_up(drafting: Engine, alone: Engine, requests: Sequence[DecodeRequest], repeats: int = 3) -> float:
    """How many times faster lists are written with a draft, one at a time; below 1: slower.

    Both engines write each list in turn, so that what else runs here slows both; the first time counts for nothing.
    """
    seconds: dict[Engine, list[float]] = {drafting: [], alone: []}
    for repeat in range(repeats + 1):
        for request in requests:
            for engine, spent in seconds.items():
                started = time.perf_counter()
                engine.write([request])
                if repeat:
                    spent.append(time.perf_counter() - started)
    return median(seconds[alone]) / median(seconds[drafting])
