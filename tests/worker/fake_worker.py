"""A worker process with a fake engine: `fake_worker.py BUNDLE [BUILD]`. No test module.

Its settings come from the environment. The engine writes a list in one round; a request's seed says what else
happens in it.
"""

import sys
import time
from pathlib import Path

from service.config import Settings
from service.errors import InputError, PadrecError
from service.types import DecodedItem, DecodedList
from service.worker.process import run_worker

HOLD, BUG, DEVICE = 1, 2, 3


class FakeEngine:
    max_batch = 4
    guessing = "none"
    num_captured = 0
    prefix_counts = (0, 0)

    def __init__(self, bundle):
        self._bundle = bundle
        self._running = {}
        self.num_rounds = self.batch = 0

    @property
    def num_running(self):
        return len(self._running)

    def begin_service(self):
        pass

    def add(self, requests):
        self._running.update((request.request_id, request) for request in requests)

    def drop(self, request_ids):
        for name in request_ids:
            self._running.pop(name, None)

    def news(self):
        return []

    def round(self):
        seeds = {request.seed for request in self._running.values()}
        if BUG in seeds:
            raise ValueError("a bug")
        if DEVICE in seeds:
            raise RuntimeError("CUDA error: the device is gone")
        while HOLD in seeds and not self._bundle.path.with_name("release").exists():
            time.sleep(0.005)
        self.num_rounds, self.batch = self.num_rounds + 1, len(self._running)
        running, self._running = self._running, {}
        return [
            DecodedList(
                name, tuple(DecodedItem(row, 0.5) for row in range(r.num_items)), False, 1, 0, 0.1, 0.2
            )
            for name, r in running.items()
        ]


def build(bundle, settings):
    match sys.argv[2:]:
        case ["refuse"]:
            raise InputError("no such device: cuda:9")
        case ["fail"]:
            raise KeyError("a bug")
        case ["hang"]:
            bundle.path.with_name("building").touch()
            time.sleep(600)
    return FakeEngine(bundle)


if __name__ == "__main__":
    try:
        run_worker(Path(sys.argv[1]), Settings(), build)
    except PadrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
