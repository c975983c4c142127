"""How long callers wait at a worker whose rounds take as long as they were measured to: where p99 breaks.

Arrivals are Poisson, the queue is the worker's own scheduler (`service.worker.scheduler`), its clock the simulation's.
Between two measured sizes of a batch, times are interpolated. Lists are of 5 to 20 items, as in a load test, and those
that arrive during a round are read in one pass before the next. N workers behind a balancer that knows nothing of them
are N times this one, each with its share of the arrivals.

    python docs/benchmarks/queue_simulation.py [--rates 100,200] [--rounds 1.5] [--max-batch 64] [--seconds 60]
"""

import argparse
import random
from collections import Counter

import numpy as np

from service.errors import DeadlineExceededError, PadrecError, QueueFullError
from service.types import DecodedList, DecodeRequest
from service.worker.scheduler import Scheduler

# `base`, one H100, docs/benchmarks.md: lists of ten items a second by the size of the batch, which begin together, and
# tokens of a list that a round writes.
BATCHES = (1, 8, 32, 128, 256)
RATES = (102.6, 446.1, 975.1, 1636.0, 1707.0)
TOKENS_PER_ROUND = (11.5, 8.5, 6.0, 4.0, 3.5)
TOKENS_PER_ITEM = 5
# A prefill of few short prompts, and what more of them take in the bench.
PREFILL_SECONDS, PREFILL_SECONDS_EACH = 0.002, 0.0001
ROUNDS_SECONDS = tuple(
    batch / rate - PREFILL_SECONDS - PREFILL_SECONDS_EACH * batch
    for batch, rate in zip(BATCHES, RATES, strict=True)
)
# Of the engine's thread, in which the device waits: the prompt, where it goes, the finished list, its metrics.
HOST_SECONDS = 0.0006
LIST_ITEMS = (5, 10, 10, 10, 20)
MAX_QUEUE = 256


class Simulation:
    """One worker.

    Args:
        rate: arrivals a second.
        deadline: seconds that each caller gives.
        max_batch: lists written at the same time.
        rounds: how many times as long as in the bench a round takes.
        seed: of the arrivals.
    """

    def __init__(self, rate: float, deadline: float, max_batch: int, rounds: float, seed: int = 0) -> None:
        self._rate, self._deadline, self._max_batch, self._rounds = rate, deadline, max_batch, rounds
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
            admitted = self._scheduler.admit(self._max_batch - len(self._left))
            if admitted:
                each = PREFILL_SECONDS_EACH + HOST_SECONDS
                self._now += PREFILL_SECONDS + each * len(admitted)
            for request, _ in admitted:
                self._left[request.request_id] = request.num_items * TOKENS_PER_ITEM
            if self._left:
                self._round()
            else:
                self._now = max(self._now, arrival)

    def _arrive(self, name: str, arrival: float) -> None:
        def reply(outcome: DecodedList | PadrecError) -> None:
            self._end(type(outcome).__name__, arrival)

        try:
            request = DecodeRequest(name, (0,), self._random.choice(LIST_ITEMS))
            self._scheduler.submit(request, arrival + self._deadline, reply)
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
        share = tokens / (10 * TOKENS_PER_ITEM)  # of a list of ten
        self._now += float(np.interp(batch, BATCHES, ROUNDS_SECONDS)) * share * self._rounds
        for name in list(self._left):
            self._left[name] -= tokens
            if self._left[name] <= 0:
                del self._left[name]
                self._scheduler.finish(DecodedList(name, (), False, 1, 0, 0.0, 0.0))


def main() -> None:
    """Print a row for each load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="50,100,150,200,250,300,350,400,500,600,800")
    parser.add_argument("--rounds", type=float, default=1.5)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--deadline", type=float, default=1.0)
    parser.add_argument("--max-batch", type=int, default=64)
    given = parser.parse_args()
    print("| arrivals | lists a second | p50 | p99 | batch, mean | refused at once | late |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rate in map(float, given.rates.split(",")):
        simulation = Simulation(rate, given.deadline, given.max_batch, given.rounds)
        simulation.run(given.seconds)
        ends, sent = simulation.ends, sum(simulation.ends.values())
        p50, p99 = 1000 * np.percentile(simulation.seconds, (50, 99))
        row = [
            f"{rate:.0f}",
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
