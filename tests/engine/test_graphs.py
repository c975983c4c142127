"""What runs as a graph on a GPU: which calls are captured, and that a round asks the device for nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from service.engine import graphs as graphs_module
from service.engine import passes
from service.engine.engine import Engine
from service.engine.graphs import Graphs
from service.engine.load import Always, ByLoad
from service.engine.reference import write_list
from service.engine.shapes import PrefillShape, RoundShape, Shapes
from service.engine.states import Summary, Widths
from service.engine.tree import TreeShape
from service.types import DecodedList, DecodeRequest
from tests.engine.conftest import assert_equal, random_draft, random_requests

TREE = TreeShape(num_passes=3, width=3, num_candidates=6, num_places=20)
# Operators whose result has a shape, or is a number of the host, that only the device knows.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique")


class WaitsForNothing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert not any(waiting in name for waiting in WAITING), name
        if name == "aten::index.Tensor":
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), name
        return func(*args, **kwargs or {})


class Captured:
    """In place of a graph: replays by calling, which must not ask the device for anything."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def replay(self) -> None:
        with WaitsForNothing():
            self.function()


def test_the_first_call_runs_and_captures_and_all_others_replay() -> None:
    calls: list[str] = []
    captured: list[str] = []

    class Fake:
        def __init__(self, function: Callable[[], None]) -> None:
            function()
            captured.append(calls.pop())
            self.shape = captured[-1]

        def replay(self) -> None:
            calls.append(f"replay {self.shape}")

    graphs = Graphs(Fake)
    assert [graphs.run(calls.append, shape) for shape in "aabab"] == [False, True, False, True, True]
    assert calls == ["a", "replay a", "b", "replay a", "replay b"]
    assert captured == ["a", "b"]


def test_the_graph_that_was_not_used_for_longest_goes_first() -> None:
    class Fake:
        def __init__(self, function: Callable[[], None]) -> None:
            pass

        def replay(self) -> None:
            pass

    graphs = Graphs(Fake, most=2)
    runs = [graphs.run(lambda _: None, shape) for shape in "abacab"]
    assert runs == [False, False, True, False, True, False]
    assert graphs.num_captured == 4
    assert list(graphs._graphs) == ["a", "b"]

    # Those of the start stay, however long they are not used.
    graphs = Graphs(Fake, most=2, clock=lambda: 0.0)
    graphs.run(lambda _: None, "a")
    graphs.begin_service()
    for shape in "bcd":
        graphs.run(lambda _: None, shape)
    assert list(graphs._graphs) == ["a", "d"]


def test_a_shape_that_is_met_rarely_is_computed_as_the_cheapest_that_covers_it(monkeypatch) -> None:
    monkeypatch.setattr(graphs_module, "_OFTEN", 4)

    class Fake:
        def __init__(self, function: Callable[[], None]) -> None:
            nonlocal now
            now += 0.03

        def replay(self) -> None:
            pass

    @dataclass(frozen=True)
    class Size:
        size: int

        def covers(self, other: "Size") -> bool:
            return self.size >= other.size

        @property
        def cost(self) -> tuple[int, ...]:
            return (self.size,)

    now = 0.0
    graphs = Graphs(Fake, clock=lambda: now)

    def computed(size: int) -> int:
        shape = graphs.fitting(Size(size))
        graphs.run(lambda _: None, shape)
        return shape.size

    assert [computed(size) for size in (4, 9, 6, 3, 3, 3, 3)] == [4, 9, 9, 4, 4, 4, 4]
    # Often enough, but captures may take a fiftieth of the time.
    now += 1.45
    assert computed(3) == 4
    now += 0.1
    assert [computed(size) for size in (3, 3, 6, 12)] == [3, 3, 9, 12]
    assert graphs.num_captured == 4
    assert Graphs(None).fitting(Size(3)) == Size(3)

    # In service ten times less, and what fits into none is captured a tenth of the time at most.
    graphs.begin_service()
    now += 0.31
    assert computed(30) == 30
    assert graphs.num_captured == 5
    assert [computed(40), computed(40)] == [40, 40]
    assert graphs.num_captured == 5
    now += 0.31
    assert [computed(40), computed(40)] == [40, 40]
    assert graphs.num_captured == 6
    now += 14.9
    assert {computed(size) for size in (10, 11) for _ in range(5)} == {12}
    now += 0.2
    assert [computed(11), computed(10), computed(10)] == [11, 11, 11]
    assert graphs.num_captured == 7


@pytest.mark.parametrize(
    ("known", "met", "does"),
    [
        ({}, {}, True),
        ({"num_tokens": 128, "batch": 32}, {}, True),
        ({"num_tokens": 129}, {}, False),
        ({"num_tokens": 320}, {"num_tokens": 256}, True),
        ({"num_tokens": 352}, {"num_tokens": 256}, False),
        ({"batch": 64}, {}, False),
        ({"batch": 4}, {}, False),
        ({"longest": 256, "draft_places": 384, "news": 64, "wanted": 9}, {}, True),
        ({"longest": 64}, {}, False),
        ({"draft_places": 64}, {}, False),
        ({"news": 16}, {}, False),
        ({"wanted": 1}, {}, False),
        ({"tree": None}, {}, False),
        ({"is_sampled": True}, {}, False),
    ],
)
def test_a_round_fits_into_one_that_is_as_large_and_takes_not_much_longer(
    known: dict[str, Any], met: dict[str, Any], does: bool
) -> None:
    shape = RoundShape(
        batch=8, num_tokens=64, news=32, longest=128, draft_places=256, tree=TREE, wanted=3, is_sampled=False
    )
    assert replace(shape, **known).covers(replace(shape, **met)) is does


@pytest.mark.parametrize(
    ("known", "does"),
    [
        ({}, True),
        ({"batch": 16, "num_tokens": 96, "most": 64, "num_places": 256}, True),
        ({"batch": 17}, False),
        ({"batch": 2}, False),
        ({"num_tokens": 160}, False),
        ({"num_tokens": 32}, False),
        ({"most": 16}, False),
        ({"num_places": 64}, False),
        ({"is_sampled": True}, False),
    ],
)
def test_a_prefill_fits_likewise(known: dict[str, Any], does: bool) -> None:
    shape = PrefillShape(batch=4, num_tokens=64, most=32, num_places=128, is_padded=True, is_sampled=False)
    assert replace(shape, **known).covers(shape) is does


def test_what_is_new_to_a_draft_makes_no_shapes_where_nothing_is_guessed() -> None:
    shapes, widths = Shapes(16, 128, pads=True), Widths(items=10, pending=5, guessed=5, steps=3)

    def shape(num_unread: int, tree: TreeShape | None) -> RoundShape:
        ones = np.ones(200, dtype=np.int64)
        summary = Summary(ones, 10 * ones, 2 * ones, num_unread * ones, 40 * ones, ones)
        return shapes.round(summary, widths, 256, tree, is_sampled=False)

    assert len({shape(count, None) for count in range(0, 50, 5)}) == 1
    assert [shape(count, TREE).news for count in (0, 1, 2, 4)] == [512, 768, 1024, 1536]


def test_without_graphs_shapes_are_not_remembered() -> None:
    calls: list[str] = []
    graphs = Graphs(None)
    assert all(graphs.run(calls.append, shape) for shape in "abca")
    assert calls == list("abca")
    assert not graphs._graphs


@pytest.mark.parametrize("variant", [None, "none", "both", "slots"])
@pytest.mark.parametrize("sampled", [False, True])
def test_rounds_wait_for_nothing_and_write_the_reference_s_lists(
    shop, variant: str | None, sampled: bool, monkeypatch
) -> None:
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    monkeypatch.setattr(passes, "capture_on", lambda _: Captured)
    draft = None if variant is None else random_draft(shop, variant)
    choice = {None: None, "slots": ByLoad([TREE], patience=3)}.get(variant, Always(TREE))
    engine = Engine(shop.model, shop.catalogue, shop.layout, 5, draft, choice)
    requests = random_requests(12, 200, seed=21, sampled=sampled)
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_rows_of_lists_that_left_harm_nobody(make_setting, family: str, monkeypatch) -> None:
    """Three dropped lists go on in rows that are nobody's, further than there is memory for them."""
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    codes = np.random.default_rng(0).integers(8, size=(200, 3))
    shop = make_setting(codes, (8, 8, 8), family=family)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 8, random_draft(shop, "slots"), Always(TREE))
    waiting = [DecodeRequest(f"short-{n}", (n,), 9) for n in range(60)]
    engine.add([waiting.pop() for _ in range(5)])
    engine.add([DecodeRequest(f"long-{n}", tuple(range(n, n + 20)), 50) for n in range(3)])
    engine.drop([f"long-{n}" for n in range(3)])
    done: list[DecodedList] = []
    while engine.num_running:
        done += engine.round()
        engine.add([waiting.pop() for _ in range(min(len(waiting), 5 - engine.num_running))])
    assert len(done) == 60
    for written in done[-10:]:
        request = DecodeRequest(written.request_id, (int(written.request_id[6:]),), 9)
        assert_equal(written, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


@pytest.mark.parametrize("variant", ["none", "slots"])
def test_nor_do_rows_of_lists_of_which_the_draft_knows_little(shop, variant: str, monkeypatch) -> None:
    """Lists that were long written without a draft leave; guesses for those after them are made beside their rows."""
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    choice = Always(TREE)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 4, random_draft(shop, variant), choice)
    engine.add([DecodeRequest(f"long-{n}", (n,), 50) for n in range(4)])
    monkeypatch.setattr(choice, "choose", lambda _: None)
    for _ in range(80):
        engine.round()
    assert engine.num_running == 4
    engine.drop([f"long-{n}" for n in range(4)])
    monkeypatch.undo()
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    requests = [DecodeRequest(f"short-{n}", (n,), 5) for n in range(3)]
    for done, request in zip(engine.write(requests), requests, strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize("variant", [None, "none", "both", "slots"])
@pytest.mark.parametrize("sampled", [False, True])
def test_lists_are_the_reference_s_on_every_device(
    make_setting, device: str, variant: str | None, sampled: bool
) -> None:
    """Often enough to be graphs alone where there are graphs, also after the caches have grown for longer prompts."""
    codes = np.random.default_rng(0).integers(8, size=(200, 3))
    shop = make_setting(codes, (8, 8, 8))
    shop.model.to(device)
    draft = None if variant is None else random_draft(shop, variant).to(device)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 5, draft, None, 12, num_prefixes=4)
    longer = [DecodeRequest(f"longer-{n}", tuple(range(n, n + 40)), 12) for n in range(6)]
    for requests in (random_requests(12, 200, seed=22, sampled=sampled), longer) * 3:
        expected = [
            write_list(shop.model, shop.catalogue.codes, shop.layout, request) for request in requests
        ]
        for done, reference in zip(engine.write(requests), expected, strict=True):
            assert_equal(done, reference)
