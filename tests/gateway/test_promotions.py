from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.catalog.filters import Filter
from service.gateway.answer import Recommendation
from service.gateway.promotions import Placed, Places, placed, promoted_rows
from service.gateway.query import Promotion, RecommendQuery
from service.gateway.recommender import Recommender
from service.history.store import HistoryStore

WRITTEN = [(10, 0.5), (11, 0.4), (12, 0.3)]


def rows(promoted: dict[int, int], written: list[tuple[int, float]] = WRITTEN) -> list[int]:
    return [place.row for place in placed(written, promoted)]


def test_promoted_items_stand_at_their_ranks() -> None:
    assert rows({}) == [10, 11, 12]
    assert rows({1: 1}) == [1, 10, 11, 12]
    assert rows({4: 4}) == [10, 11, 12, 4]
    assert rows({5: 5, 1: 1, 2: 2}) == [1, 2, 10, 11, 5, 12]
    assert rows({2: 2, 1: 1}, []) == [1, 2]
    assert list(placed([(10, 0.5)], {1: 1})) == [Placed(1, 1, None, True), Placed(2, 10, 0.5, False)]


def test_places_are_known_while_a_list_is_written() -> None:
    places = Places({1: 1, 3: 3, 4: 4, 9: 9})
    told = [[place.row for place in places.written(row, score)] for row, score in WRITTEN]
    assert told == [[1, 10, 3, 4], [11], [12]]
    assert places.num_placed == 6
    assert [(place.rank, place.row) for place in places.rest()] == [(7, 9)]


def test_promoted_items_move_up_where_the_list_is_short() -> None:
    assert rows({9: 9, 7: 7, 2: 2}) == [10, 2, 11, 12, 7, 9]


def test_only_items_that_exist_and_may_be_listed_are_promoted() -> None:
    promotions = [Promotion(item_id=item, rank=rank) for rank, item in enumerate("abc", start=1)]
    assert promoted_rows(promotions, {"a": 0, "c": 2}.get, lambda row: row != 0) == {3: 2}


Ask = Callable[..., Any]


@pytest.fixture
def ask(recommender: Recommender) -> Ask:
    async def ask(promotions: dict[int, str], **fields: Any) -> Recommendation:
        given = [{"item_id": item_id, "rank": rank} for rank, item_id in promotions.items()]
        query = {"user_id": "ann", "history": ["item-1"], "num_items": 5, **fields, "promotions": given}
        return await recommender.recommend(RecommendQuery(**query))

    return ask


def listed(answer: Recommendation) -> list[str]:
    assert [item.rank for item in answer.items] == list(range(1, 1 + len(answer.items)))
    return [item.item_id for item in answer.items]


def promoted(answer: Recommendation) -> list[str]:
    assert all(item.score is None for item in answer.items if item.promoted)
    return [item.item_id for item in answer.items if item.promoted]


@pytest.mark.parametrize("decoding", ["list", "beam"])
async def test_the_model_writes_the_others(
    ask: Ask, worker: Any, recommender: Recommender, decoding: str
) -> None:
    answer = await ask({2: "item-0", 5: "item-7"}, decoding=decoding)
    [request] = worker.requests
    row_of = recommender.edition.catalogue.row_of
    assert request.num_items == 3
    assert sorted(request.excluded) == sorted(map(row_of, ["item-0", "item-1", "item-7"]))
    assert len(set(listed(answer))) == 5
    assert (listed(answer)[1], listed(answer)[4]) == ("item-0", "item-7")
    assert promoted(answer) == ["item-0", "item-7"]
    assert [item.score for item in answer.items] == [1 / 2, None, 1 / 3, 1 / 4, None]
    assert not answer.exhausted


async def test_an_item_that_was_seen_may_be_promoted(ask: Ask) -> None:
    answer = await ask({3: "item-1"})
    assert listed(answer)[2] == "item-1"
    assert listed(answer).count("item-1") == 1


async def test_what_else_keeps_an_item_out_wins(ask: Ask, worker: Any) -> None:
    answer = await ask({1: "item-4", 2: "item-7"}, exclude_item_ids=["item-4"])
    assert promoted(answer) == ["item-7"]
    assert listed(answer)[1] == "item-7"
    cheap = Filter(attribute="price", op="<=", value=6)
    assert promoted(await ask({1: "item-4", 2: "item-7"}, filter=cheap)) == ["item-4"]
    answer = await ask({1: "item-4"}, num_items=2)
    second = await ask({1: "item-4"}, num_items=2, after_recommendation_id=answer.recommendation_id)
    assert (promoted(answer), promoted(second)) == (["item-4"], [])
    assert answer.ignored_item_ids == second.ignored_item_ids == ()
    assert [request.num_items for request in worker.requests] == [4, 4, 1, 2]


async def test_unknown_items_are_ignored_and_their_ranks_filled(ask: Ask) -> None:
    answer = await ask({1: "no-1", 2: "item-7", 3: "no-2"}, exclude_item_ids=["no-2"])
    assert answer.ignored_item_ids == ("no-2", "no-1")
    assert (len(answer.items), promoted(answer), listed(answer)[1]) == (5, ["item-7"], "item-7")


async def test_the_popular_list_makes_room_too(ask: Ask) -> None:
    answer = await ask({1: "item-7", 3: "item-0"}, history=[])
    assert listed(answer) == ["item-7", "item-1", "item-0", "item-2", "item-3"]
    assert (answer.fallback, promoted(answer)) == ("cold_start", ["item-7", "item-0"])


async def test_promoted_items_move_up_in_an_exhausted_list(ask: Ask) -> None:
    most = [f"item-{number}" for number in range(2, 20) if number != 7]
    for history in (["item-1"], []):
        answer = await ask({4: "item-7"}, exclude_item_ids=most, history=history)
        assert listed(answer) == [*["item-0", "item-1"][: 2 - len(history)], "item-7"]
        assert answer.exhausted


@pytest.mark.parametrize("history", [["item-1"], []])
async def test_nobody_writes_a_list_that_is_all_promoted(ask: Ask, worker: Any, history: list[str]) -> None:
    answer = await ask({2: "item-3", 1: "item-4"}, num_items=2, history=history)
    assert listed(answer) == promoted(answer) == ["item-4", "item-3"]
    assert (answer.fallback, answer.exhausted, answer.speculation) == (None, False, None)
    assert worker.requests == []


async def test_each_request_of_a_batch_has_its_own(client: httpx.AsyncClient) -> None:
    requests = [
        {"user_id": "ann", "history": history, "promotions": [{"item_id": item, "rank": 2}]}
        for history, item in ((["item-1"], "item-7"), ([], "item-8"), (["item-1"], "no-1"))
    ]
    results = (await client.post("/recommend/batch", json={"requests": requests})).json()["results"]
    lists = [result["recommendation"]["items"] for result in results]
    assert [[item["item_id"] for item in items if item["promoted"]] for items in lists] == [
        ["item-7"],
        ["item-8"],
        [],
    ]
    assert [len(items) for items in lists] == [10] * 3


async def test_promoted_items_are_listed_without_the_store(
    make_recommender: Callable[[HistoryStore], Recommender], down_store: HistoryStore
) -> None:
    promotions = [Promotion(item_id="item-7", rank=1)]
    answer = await make_recommender(down_store).recommend(
        RecommendQuery(user_id="ann", num_items=2, promotions=promotions)
    )
    assert listed(answer) == ["item-7", "item-0"]
    assert (answer.degraded, answer.fallback) == (True, "history_unavailable")
