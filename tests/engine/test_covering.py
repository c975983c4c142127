"""What is made ready before the first caller comes holds all that comes later."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import graphs, passes
from service.engine.beam import NUM_BEAMS
from service.engine.covering import covering_prefills, covering_rounds, groups, rounds_of_service
from service.engine.engine import Engine
from service.engine.load import Always
from service.engine.reference import write_list
from service.engine.shapes import Shapes
from service.engine.states import Summary, Widths
from service.engine.tree import TreeShape
from service.types import DecodeRequest
from tests.engine.conftest import assert_equal, random_draft, random_requests
from tests.engine.test_graphs import Captured

SHAPES = Shapes(16, 128, pads=True)
WIDTHS = Widths(items=50, pending=5, guessed=20, steps=4)
TREES = (
    None,
    TreeShape(num_passes=4, width=8, num_candidates=24, num_places=123),
    TreeShape(num_passes=3, width=4, num_candidates=24, num_places=43, share=12),
    TreeShape(num_passes=1, width=1, num_candidates=24, num_places=9, share=2),
)
LONGEST_PROMPT = 253
LONGEST = LONGEST_PROMPT + WIDTHS.tokens


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 48, 64, 100, 256])
def test_groups_hold_each_number_of_rows_once(most: int) -> None:
    rows = [count for least, largest in groups(most) for count in range(largest, least - 1, -1)]
    assert rows == list(range(most, 0, -1))


@given(
    st.data(),
    st.sampled_from(TREES),
    st.sampled_from([1, 5, 32, 48, 64, 256]),
)
def test_each_round_fits_into_one_that_was_made_ready(data, tree: TreeShape | None, max_batch: int) -> None:
    may_pause = data.draw(st.booleans(), label="may pause")
    batch = data.draw(st.integers(1, max_batch), label="batch")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def numbers(least: int, most: int) -> np.ndarray:
        """For each list; now and then all of them small, or large."""
        low, high = np.sort(rng.integers(least, most + 1, size=2))
        return rng.integers(low, high + 1, size=batch)

    of_latest = 0 if tree is None else (1 + tree.num_passes) * WIDTHS.pending
    num_items = numbers(0, WIDTHS.items - 1)
    summary = Summary(
        num_items=num_items,
        limit=num_items + 1 + rng.integers(WIDTHS.items - num_items),
        num_pending=numbers(1, WIDTHS.pending),
        num_unread=numbers(0, WIDTHS.tokens if may_pause else of_latest),
        length=numbers(1, LONGEST),
        num_round_tokens=numbers(1, WIDTHS.pending),
    )
    shape = SHAPES.round(summary, WIDTHS, max_batch, tree, is_sampled=False)
    [(least, most)] = [group for group in groups(max_batch) if group[0] <= batch <= group[1]]
    ready = covering_rounds(SHAPES, tree, least, most, LONGEST, WIDTHS, may_pause=may_pause)
    assert any(one.covers(shape) for one in ready)


@pytest.mark.parametrize("batch", range(1, 9))
def test_short_lists_have_rounds_of_few_places(batch: int) -> None:
    ready = rounds_of_service(SHAPES, lambda _: TREES[2:3], 8, LONGEST, WIDTHS)
    few, some = (np.full(batch, count) for count in (2, 40))
    summary = Summary(
        num_items=few, limit=some, num_pending=few, num_unread=few, length=some, num_round_tokens=few
    )
    shape = SHAPES.round(summary, WIDTHS, 8, TREES[2], is_sampled=False)
    found = min((one for one in ready if one.covers(shape)), key=lambda one: one.cost)
    assert (found.longest, found.draft_places) == (SHAPES.places, SHAPES.places)


@given(st.data(), st.sampled_from([1, 5, 16, 32]), st.sampled_from([0, NUM_BEAMS]))
def test_each_prefill_fits_into_one_that_was_made_ready(data, most_batch: int, num_beams: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, LONGEST_PROMPT), min_size=1, max_size=most_batch))
    lengths = lengths[: SHAPES.together(lengths)]
    shape = SHAPES.prefill(
        len(lengths),
        most_batch=most_batch,
        num_tokens=sum(lengths),
        most=max(lengths),
        longest=LONGEST_PROMPT,
        is_sampled=False,
        num_beams=num_beams,
    )
    [(least, most)] = [group for group in groups(most_batch) if group[0] <= len(lengths) <= group[1]]
    ready = covering_prefills(SHAPES, least, most, LONGEST_PROMPT, num_beams)
    assert any(one.covers(shape) for one in ready)


@pytest.mark.parametrize(("variant", "tree"), [(None, None), ("slots", TREES[2]), ("none", TREES[3])])
def test_no_caller_waits_for_a_graph(shop, variant: str | None, tree: TreeShape | None, monkeypatch) -> None:
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    monkeypatch.setattr(passes, "capture_on", lambda _: Captured)
    monkeypatch.setattr(graphs, "_OFTEN", 1_000_000)  # so all that is captured had to be
    draft = None if variant is None else random_draft(shop, variant)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 6, draft, Always(tree), max_items=12)
    longest = shop.layout.prompt_length(12)
    engine.reserve(longest)
    captured = engine.make_ready(longest)
    assert captured == engine.num_captured > 0

    waiting = [replace(one, explain=False) for one in random_requests(40, 200, seed=3, sampled=False)]
    waiting += [DecodeRequest(f"beam {n}", (n, n + 1), 10, decoding="beam") for n in range(10)]
    rng = np.random.default_rng(0)
    rng.shuffle(waiting)
    requests = {request.request_id: request for request in waiting}
    done = []
    while waiting or engine.num_running:
        count = min(len(waiting), 6 - engine.num_running, int(rng.integers(1, 7)))
        if count > 0:
            engine.add([waiting.pop() for _ in range(count)])
        done += engine.round()
    assert engine.num_captured == captured
    assert len(done) == len(requests)
    for written in done:
        request = requests[written.request_id]
        if request.decoding == "list":
            expected = write_list(shop.model, shop.catalogue.codes, shop.layout, request)
            assert_equal(written, expected)


def test_where_there_are_no_graphs_there_is_nothing_to_make_ready(shop) -> None:
    engine = Engine(shop.model, shop.catalogue, shop.layout, 6)
    assert engine.make_ready(60) == 0
