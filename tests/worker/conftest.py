import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.catalog.bundle import ITEMS, POPULAR, Bundle, DecodingDefaults, seal
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.files import write_json
from service.types import DecodedItem, DecodedList, DecodeRequest, SpeculationCounts

SPECULATION = SpeculationCounts(2, 8, accepted_per_position=(2, 1), accepted_per_slot=(0, 1, 2))


class FakeEngine:
    """Writes one item a round: rows 0, 1, 2, ... Every list says that `SPECULATION` became of its guesses.

    Beams are found with the prefill, and handed out in place of a round.

    Attributes:
        permits: a round takes one; None: rounds never wait.
        errors: `add` or `round` raises the first, once.
        log: the calls, with the IDs they were made for.
    """

    def __init__(self, max_batch: int = 2, permits: threading.Semaphore | None = None) -> None:
        self.max_batch = max_batch
        self.guessing = "4x1x20"
        self.num_rounds = self.batch = 0
        self.num_captured = 3
        self.prefix_counts = (0, 0)
        self.permits = permits
        self.errors: dict[str, list[Exception]] = {"add": [], "round": [], "drop": []}
        self.log: list[tuple[str, list[str]]] = []
        self._running: dict[str, tuple[DecodeRequest, int]] = {}

    @property
    def num_running(self) -> int:
        return len(self._running)

    def begin_service(self) -> None:
        pass

    def _called(self, call: str, names: Collection[str]) -> None:
        self.log.append((call, sorted(names)))
        if self.errors[call]:
            raise self.errors[call].pop(0)

    def add(self, requests: Sequence[DecodeRequest]) -> None:
        assert self.num_running + len(requests) <= self.max_batch
        self.prefix_counts = (self.prefix_counts[0] + len(requests), self.prefix_counts[1] + 1)
        for request in requests:
            assert request.request_id not in self._running
            self._running[request.request_id] = (request, 0)
        self._called("add", [request.request_id for request in requests])

    def drop(self, request_ids: Collection[str]) -> None:
        for name in request_ids:
            self._running.pop(name, None)
        if request_ids:
            self._called("drop", request_ids)

    def news(self) -> list[tuple[str, tuple[DecodedItem, ...]]]:
        """Of streamed lists, the item of the latest round."""
        return [
            (name, (DecodedItem(written - 1, 0.5),))
            for name, (request, written) in self._running.items()
            if request.stream and written
        ]

    def round(self) -> list[DecodedList]:
        found = [name for name, (request, _) in self._running.items() if request.decoding == "beam"]
        if found:
            requests = [self._running.pop(name)[0] for name in found]
            return [DecodedList(one.request_id, (), True, 3, 0, 0.1, 0.0) for one in requests]
        if self.permits is not None:
            self.permits.acquire()
        self._called("round", self._running)
        self.num_rounds, self.batch = self.num_rounds + 1, len(self._running)
        finished = []
        for name, (request, written) in list(self._running.items()):
            self._running[name] = (request, written + 1)
            if written + 1 == request.num_items:
                del self._running[name]
                items = tuple(DecodedItem(row, 0.5) for row in range(request.num_items))
                finished.append(
                    DecodedList(name, items, False, written + 1, 3, 0.0, 0.0, speculation=SPECULATION)
                )
        return finished


@pytest.fixture
def fake_engine() -> Callable[..., FakeEngine]:
    return FakeEngine


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Four items, histories of up to 5, lists of up to 3."""
    path = tmp_path / "bundle"
    path.mkdir()
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    Catalogue.build(list("abcd"), codes, list("ABCD")).write(path / ITEMS)
    write_json(path / POPULAR, [])
    layout = TokenLayout(prefix=(0,), list_start=(1,), separator=2, code_tokens=((3, 4), (5, 6)))
    decoding = DecodingDefaults(max_history_items=5, max_num_items=3)
    seal(path, num_items=4, layout=layout, decoding=decoding, training={})
    return Bundle.open(path)
