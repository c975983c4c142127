"""How long callers wait at a worker whose rounds take as long as they were measured to: where p99 breaks.

Arrivals are Poisson, the queue is the worker's own scheduler (`service.worker.scheduler`), its clock the simulation's.
Between two measured sizes of a batch, times are interpolated. N workers behind a balancer that knows nothing of them
are N times this one, each with its share of the arrivals.

    python docs/benchmarks/queue_simulation.py [--seconds 60] [--deadline 1.0] [--max-batch 256]
"""

import argparse
import random
from collections import Counter

import numpy as np

from service.errors import DeadlineExceededError, PadrecError, QueueFullError
from service.types import DecodedList, DecodeRequest
from service.worker.scheduler import Scheduler

# `base`, one H100, docs/benchmarks.md: lists a second by the size of the batch, and tokens of a list that a round
# writes; a list has about 50.
BATCHES = (1, 8, 32, 128, 256)
RATES = (102.6, 446.1, 975.1, 1636.0, 1707.0)
LIST_SECONDS = tuple(batch / rate for batch, rate in zip(BATCHES, RATES, strict=True))
TOKENS_PER_ROUND = (11.5, 8.5, 6.0, 4.0, 3.5)
LIST_TOKENS = 50.0
LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.2, 2.0)
MAX_QUEUE = 256


class Simulation:
    """One worker.

    Args:
        rate: arrivals a second.
        deadline: seconds that each caller gives.
        max_batch: lists written at the same time.
        seed: of the arrivals.
    """

    def __init__(self, rate: float, deadline: float, max_batch: int, seed: int = 0) -> None:
        self._rate, self._deadline, self._max_batch = rate, deadline, max_batch
        self._now = 0.0
        self._random = random.Random(seed)
        self._scheduler = Scheduler(MAX_QUEUE, clock=lambda: self._now)
        self._left: dict[str, float] = {}  # tokens, of those that run
        self.seconds: list[float] = []  # of lists that came in time
        self.ends: Counter[str] = Counter()
        self.batches: list[int] = []

    def run(self, seconds: float) -> None:
        """So many seconds of arrivals, and all that follows."""
        arrival, count = self._random.expovariate(self._rate), 0
        while arrival < seconds or self._left or self._scheduler.num_waiting:
            while arrival <= self._now and arrival < seconds:
                self._arrive(f"{count}", arrival)
                count += 1
                arrival += self._random.expovariate(self._rate)
            for request_id in self._scheduler.drop_unwanted():
                self._left.pop(request_id, None)
            for request, _ in self._scheduler.admit(self._max_batch - len(self._left)):
                self._left[request.request_id] = LIST_TOKENS
            if self._left:
                self._round()
            else:
                self._now = max(self._now, arrival)

    def _arrive(self, name: str, arrival: float) -> None:
        def reply(outcome: DecodedList | PadrecError) -> None:
            self._end(type(outcome).__name__, arrival)

        try:
            self._scheduler.submit(DecodeRequest(name, (0,), 10), arrival + self._deadline, reply)
        except (QueueFullError, DeadlineExceededError) as error:
            self._end(type(error).__name__, arrival)

    def _end(self, how: str, arrival: float) -> None:
        self.ends[how] += 1
        if how == "DecodedList":
            self.seconds.append(self._now - arrival)

    def _round(self) -> None:
        batch = len(self._left)
        self.batches.append(batch)
        tokens = float(np.interp(batch, BATCHES, TOKENS_PER_ROUND))
        self._now += float(np.interp(batch, BATCHES, LIST_SECONDS)) * tokens / LIST_TOKENS
        for name in list(self._left):
            self._left[name] -= tokens
            if self._left[name] <= 0:
                del self._left[name]
                self._scheduler.finish(DecodedList(name, (), False, 1, 0, 0.0, 0.0))


def main() -> None:
    """Print a row for each load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--deadline", type=float, default=1.0)
    parser.add_argument("--max-batch", type=int, default=256)
    given = parser.parse_args()
    peak = given.max_batch / float(np.interp(given.max_batch, BATCHES, LIST_SECONDS))
    print(f"peak {peak:.0f} lists a second")
    print("| load | arrivals | lists a second | p50 | p99 | batch, mean | refused at once | late |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for load in LOADS:
        simulation = Simulation(load * peak, given.deadline, given.max_batch)
        simulation.run(given.seconds)
        ends, sent = simulation.ends, sum(simulation.ends.values())
        p50, p99 = 1000 * np.percentile(simulation.seconds, (50, 99))
        row = [
            f"{load:.0%}",
            f"{load * peak:.0f}",
            f"{ends['DecodedList'] / given.seconds:.0f}",
            f"{p50:.0f} ms",
            f"{p99:.0f} ms",
            f"{np.mean(simulation.batches):.0f}",
            f"{ends['QueueFullError'] / sent:.1%}",
            f"{ends['DeadlineExceededError'] / sent:.1%}",
        ]
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
