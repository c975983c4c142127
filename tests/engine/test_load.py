"""How much is guessed at which load, by a clock and costs that are made up."""

from collections.abc import Callable

import numpy as np
import pytest

from service.engine import load
from service.engine.load import ByLoad, warm_up
from service.engine.tree import TreeShape
from service.types import DecodeRequest

SMALL = TreeShape(num_passes=2, width=1, num_candidates=1, num_places=8)
LARGE = TreeShape(num_passes=4, width=8, num_candidates=24, num_places=75)
TOKENS = {None: 1.6, SMALL: 5.0, LARGE: 10.0}


def seconds(tree: TreeShape | None, batch: int) -> float:
    """Alone a wide pass costs little more than a narrow one; in a full batch it costs in proportion."""
    return (
        1.0 + {None: 0.0, SMALL: 0.2, LARGE: 0.5}[tree] + batch * {None: 0.01, SMALL: 0.14, LARGE: 0.6}[tree]
    )


class Engine:
    """Lists that are never finished before they hold forty tokens."""

    def __init__(self, max_batch: int, choice: ByLoad, cost: Callable = seconds) -> None:
        self.max_batch, self.choice, self.cost = max_batch, choice, cost
        self.rounds: list[tuple[int, TreeShape | None]] = []
        self.clock = 0.0
        self._left: dict[str, float] = {}

    @property
    def num_running(self) -> int:
        return len(self._left)

    def add(self, requests: list[DecodeRequest]) -> None:
        self._left.update((request.request_id, 40.0) for request in requests)

    def drop(self, request_ids: list[str]) -> None:
        for name in request_ids:
            self._left.pop(name, None)

    def round(self) -> list:
        batch = self.num_running
        tree = self.choice.choose(batch)
        self.rounds.append((batch, tree))
        spent = self.cost(tree, batch)
        self.clock += spent
        self.choice.note(tree, batch, TOKENS[tree] * batch, spent)
        self._left = {name: left - TOKENS[tree] for name, left in self._left.items() if left > TOKENS[tree]}
        return []


@pytest.fixture
def requests() -> list[DecodeRequest]:
    return [DecodeRequest(str(n), (0,), 10) for n in range(3)]


def test_each_size_gets_the_tree_with_the_most_tokens_per_second(monkeypatch, requests) -> None:
    choice = ByLoad([LARGE, SMALL])
    engine = Engine(64, choice)
    monkeypatch.setattr(load.time, "perf_counter", lambda: engine.clock)
    found = warm_up(engine, choice, requests, seconds=1e9)
    best = {
        # Guessing has to be worth a little more than it is measured to be.
        size: max(TOKENS, key=lambda tree: TOKENS[tree] / seconds(tree, size) / (1.02 if tree else 1.0))
        for size in (1, 2, 4, 8, 16, 32, 64)
    }
    assert found == {size: load.label_of(tree) for size, tree in best.items()}
    assert (found[1], found[64]) == ("4x8x75", "none")
    assert engine.num_running == 0
    # What is larger than the best, and was worth far less with half as many lists, is not tried with more.
    tried = {size: {tree for batch, tree in engine.rounds if batch == size} for size in best}
    assert tried[1] == {LARGE, SMALL, None}
    assert tried[32] == {SMALL, None}
    assert tried[64] == {SMALL, None}
    assert {choice.choose(3) for _ in range(100)} == {best[4]}


def test_trees_that_may_be_chosen_are_likely(monkeypatch, requests) -> None:
    choice = ByLoad([LARGE, SMALL])
    engine = Engine(64, choice)
    monkeypatch.setattr(load.time, "perf_counter", lambda: engine.clock)
    assert set(choice.likely(8)) == {LARGE, SMALL, None}  # nothing is known yet
    warm_up(engine, choice, requests, seconds=1e9)
    assert set(choice.likely(1)) == {LARGE, SMALL, None}
    assert set(choice.likely(64)) == {SMALL, None}
    for batch in (1, 3, 20, 64):
        likely = set(choice.likely(batch))
        for _ in range(5_000):  # so that it tries again what it did not choose
            tree = choice.choose(batch)
            assert tree in likely
            choice.note(tree, batch, TOKENS[tree] * batch, seconds(tree, batch))
    assert list(load.Always(LARGE).likely(5)) == [LARGE]


def test_a_start_that_takes_too_long_leaves_the_rest_to_service(monkeypatch, requests) -> None:
    choice = ByLoad([LARGE])
    engine = Engine(32, choice)
    monkeypatch.setattr(load.time, "perf_counter", lambda: engine.clock)
    found = warm_up(engine, choice, requests, seconds=200)
    assert 1 <= len(found) < 6
    assert engine.clock < 240
    assert not choice.knows(32)
    for _ in range(20):
        tree = choice.choose(32)
        choice.note(tree, 32, round(TOKENS[tree] * 32), seconds(tree, 32))
    assert choice.knows(32)
    assert choice.choose(32) is None


def test_what_changes_in_service_is_noticed(monkeypatch, requests) -> None:
    """The device is shared from some time on, and a wide pass costs ten times what it did; then that is over."""
    choice = ByLoad([LARGE], patience=50)
    busy = False

    def cost(tree: TreeShape | None, batch: int) -> float:
        return seconds(tree, batch) * (10.0 if busy and tree is LARGE else 1.0)

    def share(rounds: int) -> float:
        trees = []
        for _ in range(rounds):
            trees.append(choice.choose(1))
            choice.note(trees[-1], 1, round(TOKENS[trees[-1]]), cost(trees[-1], 1))
        return float(np.mean([tree is LARGE for tree in trees]))

    share(100)  # until it is known what guesses bring
    assert share(100) > 0.8
    busy = True
    share(100)
    assert share(100) < 0.2
    busy = False
    share(1_000)
    assert share(100) > 0.8


@pytest.mark.parametrize("length", [5, 8, 12, 18, 25, 50, 200])
def test_a_time_in_which_all_took_longer_is_not_held_against_the_tree_of_then(length: int) -> None:
    choice = ByLoad([SMALL, LARGE], patience=500)
    chosen = []
    for n in range(2_000):
        tree = choice.choose(1)
        chosen.append(tree)
        disturbed = 500 <= n < 500 + length
        choice.note(tree, 1, round(TOKENS[tree]), seconds(tree, 1) * (2.0 if disturbed else 1.0))
    assert chosen[300:500].count(LARGE) > 0.9 * 200
    assert chosen[1_300:].count(LARGE) > 0.9 * 700


def test_a_round_that_had_to_wait_is_not_held_against_its_tree() -> None:
    choice = ByLoad([SMALL])
    for n in range(140):
        tree = choice.choose(1)
        waits = tree is SMALL and n in (82, 83, 95)
        choice.note(tree, 1, 5 if tree else 2, 100.0 if waits else 1.0)
    assert choice.choose(1) is SMALL


def test_what_had_to_be_made_ready_is_not_timed() -> None:
    choice = ByLoad([SMALL])
    for n in range(200):
        tree = choice.choose(1)
        choice.note(tree, 1, 5 if tree else 2, None if n % 3 else 1.0)
    assert choice.choose(1) is SMALL


def test_between_equals_it_stays_with_the_one_it_chose() -> None:
    choice = ByLoad([SMALL, LARGE], patience=50)
    chosen = []
    for n in range(400):
        tree = choice.choose(1)
        chosen.append(tree)
        # One and then the other is a little faster than its equal.
        seconds = 1.0 + 0.03 * ((n // 50) % 2 == (tree is SMALL))
        choice.note(tree, 1, 2 if tree is None else 5, seconds)
    known = chosen[200:]
    assert max(known.count(SMALL), known.count(LARGE)) > 0.8 * len(known)


def test_users_whose_lists_are_easy_do_not_speak_for_all(monkeypatch) -> None:
    """Warm-up goes through all the requests it is given, and asks none twice before it has asked each once."""
    choice = ByLoad([SMALL])
    engine = Engine(2, choice)
    asked: list[tuple[int, ...]] = []
    add = engine.add
    monkeypatch.setattr(engine, "add", lambda batch: (asked.extend(r.history for r in batch), add(batch)))
    monkeypatch.setattr(load.time, "perf_counter", lambda: engine.clock)
    warm_up(engine, choice, [DecodeRequest(str(n), (n,), 10) for n in range(5)], seconds=1e9)
    assert asked == [(n % 5,) for n in range(len(asked))]
    assert len(asked) >= 5


def test_guessing_that_brings_nothing_is_left_alone() -> None:
    choice = ByLoad([SMALL])
    for _ in range(120):
        tree = choice.choose(1)
        choice.note(tree, 1, 2, 1.0)
    assert choice.choose(1) is None
