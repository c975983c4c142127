"""Beam decoding: the reference's items, whatever shares the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.engine import passes
from service.engine.beam import MOST_BEAMS, NUM_BEAMS, num_beams_of
from service.engine.engine import Engine
from service.engine.load import Always
from service.engine.reference import find_items, write_list
from service.engine.shapes import Shapes
from service.engine.tree import TreeShape
from service.model import kernels
from service.types import DecodedList, DecodeRequest
from tests.engine.conftest import assert_equal, random_draft, random_requests
from tests.engine.test_graphs import Captured

TREE = TreeShape(num_passes=3, width=3, num_candidates=6, num_places=20)


def beam_requests(count: int, num_items: int, *, seed: int) -> list[DecodeRequest]:
    requests = random_requests(count, num_items, seed=seed, sampled=False)
    return [replace(request, request_id=f"beam-{n}", decoding="beam") for n, request in enumerate(requests)]


def expected(shop, request: DecodeRequest) -> DecodedList:
    if request.decoding == "list":
        return write_list(shop.model, shop.catalogue.codes, shop.layout, request)
    return find_items(shop.model, shop.catalogue.codes, shop.layout, request, num_beams_of(request))


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_items_are_the_reference_s(make_setting, family: str, pads: bool, monkeypatch) -> None:
    if pads:
        monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
        monkeypatch.setattr(passes, "capture_on", lambda _: Captured)
    # 64 semantic IDs for 200 items: most are shared.
    codes = np.random.default_rng(0).integers(4, size=(200, 3))
    shop = make_setting(codes, (4, 4, 4), family=family)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 5)
    requests = beam_requests(12, 200, seed=3)
    for _ in range(2):
        for request, done in zip(requests, engine.write(requests), strict=True):
            assert_equal(done, expected(shop, request))
            scores = [item.score for item in done.items]
            assert scores == sorted(scores, reverse=True)
            assert not {item.row for item in done.items} & set(request.excluded)
            assert len({item.row for item in done.items}) == len(done.items)


def test_many_and_few_items(make_setting) -> None:
    codes = np.random.default_rng(1).integers(8, size=(300, 3))
    shop = make_setting(codes, (8, 8, 8))
    engine = Engine(shop.model, shop.catalogue, shop.layout, 4)
    many = DecodeRequest("many", (1, 2, 3), 45, decoding="beam")
    few = DecodeRequest("few", (1, 2, 3), 10, tuple(range(4, 300)), decoding="beam")
    none = DecodeRequest("none", (1, 2, 3), 10, tuple(range(300)), decoding="beam")
    assert [num_beams_of(request) for request in (many, few)] == [MOST_BEAMS, NUM_BEAMS]
    done = engine.write([many, few, none])
    for request, found in zip((many, few, none), done, strict=True):
        assert_equal(found, expected(shop, request))
    assert [len(found.items) for found in done] == [45, 4, 0]
    assert [found.exhausted for found in done] == [False, True, True]


# What is computed for padding may be anything, numbers that overflow among it.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("count", [1, 2])
def test_a_layer_s_kernels_find_the_same(make_setting, monkeypatch, count: int) -> None:
    pytest.importorskip("triton", reason="Triton is for Linux alone")
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    monkeypatch.setattr(passes, "capture_on", lambda _: None)
    monkeypatch.setattr(kernels, "runs_triton", lambda _: True)
    monkeypatch.setattr(passes, "runs_triton", lambda _: True)
    shop = make_setting(np.random.default_rng(0).integers(4, size=(40, 3)), (4, 4, 4))
    shop.model.to("cuda" if torch.cuda.is_available() else "cpu")
    requests = beam_requests(count, 40, seed=3)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 3)
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, expected(shop, request))


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize("draft", [None, "slots", "both"])
def test_beams_and_lists_share_an_engine_and_what_is_kept_of_prompts(
    make_setting, device: str, draft: str | None
) -> None:
    codes = np.random.default_rng(2).integers(8, size=(200, 3))
    shop = make_setting(codes, (8, 8, 8))
    shop.model.to(device)
    guesses = None if draft is None else random_draft(shop, draft).to(device)
    trees = None if draft is None else Always(TREE)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 6, guesses, trees, 12, num_prefixes=8)
    lists = [replace(request, num_items=4) for request in random_requests(5, 200, seed=4, sampled=False)]
    beams = beam_requests(5, 200, seed=4)  # of the same histories
    mixed = [request for pair in zip(lists, beams, strict=True) for request in pair]
    longer = [replace(request, history=(*request.history, 7)) for request in reversed(mixed)]
    for requests in (mixed, longer):
        for request, done in zip(requests, engine.write(requests), strict=True):
            assert_equal(done, expected(shop, request))
    queries, hits = engine.prefix_counts
    assert queries == 20
    assert hits >= 10


def test_what_was_found_is_there_with_the_next_round_unless_it_is_dropped(shop) -> None:
    engine = Engine(shop.model, shop.catalogue, shop.layout, 4)
    requests = beam_requests(3, 200, seed=5)
    engine.add([*requests, DecodeRequest("list", (0,), 3)])
    assert engine.num_running == 4
    engine.drop([requests[1].request_id])
    assert {done.request_id for done in engine.round()} == {requests[0].request_id, requests[2].request_id}
    assert engine.num_rounds == 0
    while engine.num_running:
        engine.round()
    assert engine.num_rounds > 0
    assert engine.batch == 1
    assert engine.round() == []
