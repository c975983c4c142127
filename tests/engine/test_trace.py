"""What an explained list says of its rounds is what happened, and that it is explained changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from service.engine.engine import Engine
from service.engine.load import Always
from service.engine.shapes import Shapes
from service.types import DecodedItem, DecodedList
from tests.engine.conftest import Setting, assert_equal, random_case, random_draft, random_requests


def assert_true(done: DecodedList, setting: Setting) -> None:
    """The rounds say what the list and its counts say."""
    num_levels = setting.layout.num_levels
    accepted = [token for tokens in done.rounds for token in tokens if token.is_accepted]
    assert len(done.rounds) == 1 + done.num_rounds
    rows = [item.row for item in done.items]
    codes = [[*setting.catalogue.codes[row].tolist(), None] for row in rows]
    # A list's last item has no separator, but is counted as if it had one.
    expected = [(slot, code) for of_item in codes for slot, code in enumerate(of_item)][:-1]
    assert [(token.slot, token.code) for token in accepted] == expected
    assert [token.row for token in accepted if token.slot == num_levels - 1] == rows
    assert all(token.row is None for token in accepted if token.slot != num_levels - 1)
    num_forced = sum(token.is_forced for token in accepted) + bool(rows)
    assert num_forced == done.num_forced_tokens
    guesses = [
        token for tokens in done.rounds for token in tokens if token.is_drafted and not token.is_forced
    ]
    assert len(guesses) == done.speculation.num_draft_tokens
    assert sum(token.is_accepted for token in guesses) == done.speculation.num_accepted_tokens
    for tokens in done.rounds:
        for i, token in enumerate(tokens):
            assert -1 <= token.parent < i
            assert not token.is_accepted or token.parent == -1 or tokens[token.parent].is_accepted


@pytest.mark.parametrize("seed", [seed for seed in range(40) if random_case(seed)[2].constrained])
@pytest.mark.parametrize("pads", [False, True])
def test_rounds_add_up_to_the_list(seed: int, pads: bool, monkeypatch) -> None:
    if pads:
        monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    setting, draft, tree, requests = random_case(seed)
    model = setting.model, setting.catalogue, setting.layout
    plain = Engine(*model, max_batch=3, draft=draft, trees=Always(tree)).write(requests)
    asked = [replace(request, explain=i != 1) for i, request in enumerate(requests)]
    explained = Engine(*model, max_batch=3, draft=draft, trees=Always(tree)).write(asked)
    for i, (one, other) in enumerate(zip(plain, explained, strict=True)):
        assert_equal(other, one)
        assert one.rounds == ()
        if i == 1:
            assert other.rounds == ()
        else:
            assert_true(other, setting)


def test_without_a_draft(shop: Setting) -> None:
    requests = [replace(one, explain=True) for one in random_requests(3, 200, seed=2, sampled=True)]
    for done in Engine(shop.model, shop.catalogue, shop.layout).write(requests):
        assert_true(done, shop)
        assert not any(token.is_drafted for tokens in done.rounds for token in tokens)


def test_a_list_that_is_certain_with_its_first_token(make_setting) -> None:
    setting = make_setting(np.array([[0, 0], [1, 0]]), (2, 1))
    engine = Engine(setting.model, setting.catalogue, setting.layout)
    (request,) = random_requests(1, 2, seed=0, sampled=False)
    for excluded, is_forced in (((), False), ((0,), True)):
        asked = replace(request, num_items=1, excluded=excluded, allowed=None, explain=True)
        (done,) = engine.write([asked])
        assert_true(done, setting)
        ((first, second),) = done.rounds
        assert (first.is_forced, second.is_forced) == (is_forced, True)


@pytest.mark.parametrize("with_draft", [False, True])
def test_news_are_the_items_of_streamed_lists_in_their_order(shop: Setting, with_draft: bool) -> None:
    draft = random_draft(shop, "slots") if with_draft else None
    engine = Engine(shop.model, shop.catalogue, shop.layout, draft=draft)
    requests = random_requests(4, 200, seed=3, sampled=False)
    requests = [replace(one, num_items=6, stream=i % 2 == 0) for i, one in enumerate(requests)]
    engine.add(requests)
    told = dict[str, tuple[DecodedItem, ...]]()
    done = dict[str, DecodedList]()
    while engine.num_running:
        done |= {one.request_id: one for one in engine.round()}
        for request_id, items in engine.news():
            assert items
            assert request_id not in done
            told[request_id] = (*told.get(request_id, ()), *items)
    streamed = [request.request_id for request in requests if request.stream]
    assert set(told) <= set(streamed)
    assert any(told)
    for request_id, items in told.items():
        assert items == done[request_id].items[: len(items)]
