"""Users who come back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.kv_cache import KvCache
from service.engine.prefixes import Prefixes
from service.engine.reference import write_list
from service.engine.shapes import Shapes
from service.engine.target_pass import TargetPass
from service.types import DecodeRequest
from tests.engine.conftest import assert_equal, random_draft


def prefixes(num_rows: int) -> tuple[Prefixes, KvCache]:
    cache = KvCache(2, 1, 4, torch.device("cpu"), torch.float32)
    cache.reserve(4, 64)
    return Prefixes(num_rows, [cache], hidden_size=3), cache


def keep(kept: Prefixes, cache: KvCache, *histories: tuple[int, ...]) -> None:
    """Entries and features are the histories' first items."""
    for row, history in enumerate(histories):
        cache._data[:, :, row] = history[0]
    # The features of others stand between.
    features = torch.tensor([[value] * 3 for history in histories for value in (-1.0, float(history[0]))])
    places = list(range(1, 2 * len(histories), 2))
    kept.keep(histories, list(range(len(histories))), 10, places, features)


def test_the_longest_beginning_is_found() -> None:
    kept, cache = prefixes(5)
    assert kept.find((1, 2)) is None
    keep(kept, cache, (1, 2), (1, 2, 3, 4), (7,))
    found = [kept.find(history) for history in ((1, 2, 3, 4, 5), (1, 2, 3), (7,), (2, 1), (1,))]
    assert [prefix and prefix.history for prefix in found] == [(1, 2, 3, 4), (1, 2), (7,), None, None]
    assert (kept.num_queries, kept.num_hits) == (6, 3)


def test_what_was_not_used_for_longest_goes_first_and_entries_follow() -> None:
    kept, cache = prefixes(2)
    keep(kept, cache, (1,), (2,))
    assert kept.find((1, 9)) is not None
    keep(kept, cache, (3,))
    assert kept.find((2,)) is None
    found = [kept.find((3, 5)), kept.find((1,))]
    assert None not in found
    before = torch.zeros(4, 3)
    kept.load([prefix for prefix in found if prefix], [1, 2], 10, [3, 0], before)
    assert before[:, 0].tolist() == [1.0, 0.0, 0.0, 3.0]
    assert cache._data[0, 0, 1:3, 0, 9, 0].tolist() == [3.0, 1.0]


def test_more_at_once_than_there_is_room_for() -> None:
    kept, cache = prefixes(2)
    keep(kept, cache, (1,), (2,), (3,), (4,))
    found = [kept.find((item,)) for item in (1, 2, 3, 4)]
    assert [prefix is not None for prefix in found] == [False, False, True, True]
    before = torch.zeros(2, 3)
    kept.load([prefix for prefix in found if prefix], [0, 1], 10, [0, 1], before)
    assert before[:, 0].tolist() == [3.0, 4.0]


def test_a_hash_is_not_taken_for_a_history(monkeypatch) -> None:
    kept, cache = prefixes(4)
    monkeypatch.setattr("service.engine.prefixes.hash", lambda _: 0, raising=False)
    keep(kept, cache, (1, 2))
    assert kept.find((5, 6)) is None
    assert kept.find((1, 2)) is not None


@pytest.mark.parametrize("variant", [None, "both", "slots"])
def test_a_user_who_comes_back_pays_for_new_events_alone(shop, variant: str | None, monkeypatch) -> None:
    num_read: list[int] = []
    forward = TargetPass.__call__

    def counted(self, read, rows):
        num_read.append(len(read.tokens))
        return forward(self, read, rows)

    draft = None if variant is None else random_draft(shop, variant)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 8, draft, num_prefixes=3)
    rng = np.random.default_rng(1)
    users = [tuple(rng.integers(200, size=n).tolist()) for n in (20, 7)]
    per_item = shop.layout.tokens_per_item
    for visit in range(4):
        requests = [DecodeRequest(f"u{n}", history, 5, history) for n, history in enumerate(users)]
        requests.append(DecodeRequest("new", tuple(rng.integers(200, size=9).tolist()), 4))
        with monkeypatch.context() as patch:
            patch.setattr(TargetPass, "__call__", counted)
            num_read.clear()
            engine.add(requests)
        # Of a grown history the last token that was kept before is read again; the prompt has a start of its own.
        new = 1 + visit * per_item + len(shop.layout.list_start)
        all_items = sum(len(request.history) for request in requests)
        whole = (3 + all_items * per_item + 3) if not visit else (2 * new + 1 + 9 * per_item + 1)
        assert num_read == [whole]
        done = {}
        while engine.num_running:
            done |= {written.request_id: written for written in engine.round()}
        for request in requests:
            reference = write_list(shop.model, shop.catalogue.codes, shop.layout, request)
            assert_equal(done[request.request_id], reference)
        users = [(*history, *rng.integers(200, size=visit + 1).tolist()) for history in users]
    assert engine.prefix_counts == (12, 6)


def test_the_same_history_again_reads_the_end_of_its_prompt_alone(shop) -> None:
    engine = Engine(shop.model, shop.catalogue, shop.layout, 4, random_draft(shop, "slots"), num_prefixes=2)
    request = DecodeRequest("a", (5, 9, 3), 6)
    lists = [engine.write([replace(request, request_id=str(n))])[0] for n in range(3)]
    for written in lists:
        assert_equal(written, write_list(shop.model, shop.catalogue.codes, shop.layout, request))
    assert engine.prefix_counts == (3, 2)
    assert len({done.speculation for done in lists}) == 1


def test_what_others_took_the_place_of_is_read_again(shop) -> None:
    """Nine requests go on from one history, and a tenth from another, which the first eight push out."""
    engine = Engine(shop.model, shop.catalogue, shop.layout, 16, random_draft(shop, "slots"), num_prefixes=2)
    first, second = (4, 9, 17), (8, 30)
    engine.write([DecodeRequest("a", first, 2), DecodeRequest("b", second, 2)])
    histories = [*((*first, n) for n in range(50, 58)), (*second, 60), (*first, 61)]
    requests = [DecodeRequest(str(n), history, 5) for n, history in enumerate(histories)]
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


def test_prompts_whose_beginning_had_to_go_are_not_read_all_at_once(shop, monkeypatch) -> None:
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(1, 1, pads=False, most_tokens=100))
    passes: list[tuple[int, int]] = []
    forward = TargetPass.__call__

    def counted(self, read, rows):
        passes.append((len(read.spans.ends), len(read.tokens)))
        return forward(self, read, rows)

    engine = Engine(shop.model, shop.catalogue, shop.layout, 8, num_prefixes=8)
    rng = np.random.default_rng(2)
    users = [tuple(rng.integers(200, size=12).tolist()) for _ in range(8)]
    engine.write([DecodeRequest(f"u{n}", history, 1) for n, history in enumerate(users)])
    # Those who met little that is new are read first, and what is kept of them takes the others' place.
    grown = [(*history, *range(12 - n)) for n, history in enumerate(users)]
    requests = [DecodeRequest(f"u{n}", history, 3) for n, history in enumerate(grown)]
    monkeypatch.setattr(TargetPass, "__call__", counted)
    engine.add(requests)
    assert sum(count for count, _ in passes) == 8
    whole = shop.layout.prompt_length(24)
    assert max(num_tokens for _, num_tokens in passes) >= whole - shop.layout.tokens_per_item
    assert all(count == 1 or num_tokens <= 100 for count, num_tokens in passes)
    done = {}
    while engine.num_running:
        done |= {written.request_id: written for written in engine.round()}
    for request in requests:
        assert_equal(
            done[request.request_id], write_list(shop.model, shop.catalogue.codes, shop.layout, request)
        )
