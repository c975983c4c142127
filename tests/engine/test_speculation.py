"""With any draft, any tree and any batch, the engine writes what the reference writes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.load import Always, TreeChoice
from service.engine.reference import write_list
from service.engine.shapes import Shapes
from service.engine.target_pass import TargetPass
from service.engine.tree import TreeShape
from service.errors import InputError
from service.model.draft_config import VARIANTS
from service.types import DecodedList
from tests.engine.conftest import assert_equal, random_case, random_draft, random_requests

CHAIN = TreeShape(num_passes=4, width=1, num_candidates=1, num_places=12)
TREE = TreeShape(num_passes=3, width=4, num_candidates=7, num_places=11)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize(
    ("variant", "constrained"),
    [*((variant, True) for variant in VARIANTS), *((v, False) for v in VARIANTS if v != "slots")],
)
def test_equals_the_reference(shop, variant: str, shape: TreeShape, constrained: bool, sampled: bool) -> None:
    requests = random_requests(10, 200, seed=5, sampled=sampled)
    draft = random_draft(shop, variant)
    tree = replace(shape, constrained=constrained)
    engine = Engine(shop.model, shop.catalogue, shop.layout, max_batch=4, draft=draft, trees=Always(tree))
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("pads", [False, True])
def test_whatever_joins_leaves_and_is_dropped(seed: int, pads: bool, monkeypatch) -> None:
    """Also in the shapes of a GPU, where rows, columns and places are computed in vain."""
    if pads:
        monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    setting, draft, tree, requests = random_case(seed)
    rng = np.random.default_rng(seed)
    num_prefixes = int(rng.choice([0, 1, 2, 9]))
    engine = Engine(
        setting.model,
        setting.catalogue,
        setting.layout,
        draft=draft,
        trees=Always(tree),
        num_prefixes=num_prefixes,
    )
    waiting, done = list(requests), dict[str, DecodedList]()
    dropped: set[str] = set()
    while waiting or engine.num_running:
        engine.add([waiting.pop(0) for _ in range(min(int(rng.integers(0, 4)), len(waiting)))])
        if rng.random() < 0.1:
            dropped.add(victim := f"r{rng.integers(10)}")
            engine.drop([victim])
        for _ in range(int(rng.integers(0, 3))):
            done |= {result.request_id: result for result in engine.round()}
    for request in requests:
        if request.request_id in done:
            reference = write_list(setting.model, setting.catalogue.codes, setting.layout, request)
            assert_equal(done[request.request_id], reference)
        else:
            assert request.request_id in dropped


class Anything(TreeChoice):
    """Another tree every round, and now and then none."""

    def __init__(self, shapes: tuple[TreeShape, ...]) -> None:
        self.shapes = shapes
        self.noted: list[tuple[TreeShape | None, int]] = []
        self._draws = np.random.default_rng(0)

    def choose(self, batch: int) -> TreeShape | None:
        return (None, None, *self.shapes)[self._draws.integers(2 + len(self.shapes))]

    def note(self, tree: TreeShape | None, batch: int, num_tokens: int, seconds: float) -> None:
        assert num_tokens >= batch
        assert seconds > 0
        self.noted.append((tree, num_tokens))


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("variant", ["both", "slots"])
def test_trees_may_change_from_round_to_round(shop, variant: str, pads: bool, monkeypatch) -> None:
    if pads:
        monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    requests = random_requests(12, 200, seed=6, sampled=True)
    choice = Anything((TREE, CHAIN, replace(TREE, num_passes=1, num_places=3)))
    draft = random_draft(shop, variant)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 5, draft, choice)
    lists = engine.write(requests)
    for request, done in zip(requests, lists, strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))
    assert {tree for tree, _ in choice.noted} == {None, *choice.shapes}
    assert sum(count for _, count in choice.noted) == sum(done.num_round_tokens for done in lists)


@pytest.mark.parametrize("variant", ["both", "slots"])
def test_guesses_do_not_depend_on_the_batch(shop, variant: str) -> None:
    """A draft that read another list's cache would still give the right lists, of fewer accepted guesses."""
    requests = random_requests(12, 200, seed=11, sampled=False)
    draft = random_draft(shop, variant)

    def counts(engine: Engine) -> dict[str, tuple[int, ...]]:
        waiting, found = list(requests), {}
        while waiting or engine.num_running:
            room = engine.max_batch - engine.num_running
            engine.add([waiting.pop(0) for _ in range(min(room, len(waiting), 2))])
            for done in engine.round():
                spent = done.speculation
                assert sum(spent.accepted_per_position) == sum(spent.accepted_per_slot)
                found[done.request_id] = (done.num_rounds, spent.num_draft_tokens, *spent.accepted_per_slot)
        return found

    alone, together = (
        counts(
            Engine(shop.model, shop.catalogue, shop.layout, max_batch=batch, draft=draft, trees=Always(TREE))
        )
        for batch in (1, 5)
    )
    assert alone == together


@pytest.mark.parametrize("variant", [None, "both", "slots"])
@pytest.mark.parametrize("busy", [False, True])
def test_a_prefill_that_fails_leaves_no_trace(shop, variant: str | None, busy: bool, monkeypatch) -> None:
    requests = random_requests(6, 200, seed=12, sampled=True)
    draft = None if variant is None else random_draft(shop, variant)
    engine = Engine(shop.model, shop.catalogue, shop.layout, draft=draft, trees=Always(TREE))
    if busy:
        engine.add(requests[:2])
        engine.round()

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(TargetPass, "__call__", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            engine.add(requests[2:4])
    engine.drop([request.request_id for request in requests[:4]])
    assert engine.num_running == 0
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


def test_a_later_prefill_that_fails_costs_those_before_it_nothing(shop, monkeypatch) -> None:
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(1, 1, pads=False, most_tokens=1))
    requests = random_requests(4, 200, seed=12, sampled=True)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 8, random_draft(shop, "slots"), Always(TREE))
    forward, calls = TargetPass.__call__, iter([True, True, False])

    def third_fails(self, read, rows):
        if not next(calls):
            raise torch.OutOfMemoryError("no memory")
        return forward(self, read, rows)

    with monkeypatch.context() as patch:
        patch.setattr(TargetPass, "__call__", third_fails)
        with pytest.raises(torch.OutOfMemoryError):
            engine.add(requests)
    assert engine.num_running == 2
    done: dict[str, DecodedList] = {}
    while engine.num_running:
        done |= {result.request_id: result for result in engine.round()}
    assert len(done) == 2
    for request in requests:
        if request.request_id in done:
            reference = write_list(shop.model, shop.catalogue.codes, shop.layout, request)
            assert_equal(done[request.request_id], reference)


def test_what_cannot_guess_is_refused(shop) -> None:
    with pytest.raises(ValueError, match="guesses nothing"):
        replace(TREE, width=0)
    with pytest.raises(InputError, match="needs the constraint"):
        Engine(
            shop.model,
            shop.catalogue,
            shop.layout,
            draft=random_draft(shop, "slots"),
            trees=Always(replace(TREE, constrained=False)),
        )
