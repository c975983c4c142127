import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.errors import HistoryStoreError, NoSuchRecommendationError, RequestError
from service.gateway.answer import Recommendation
from service.gateway.query import RecommendQuery
from service.gateway.recommender import Recommender
from service.history.store import HistoryStore
from service.types import Event, RememberedList

MakeRecommender = Callable[[HistoryStore], Recommender]


def query(**fields: Any) -> RecommendQuery:
    return RecommendQuery(**{"user_id": "ann", "history": ["item-1"], "num_items": 5, **fields})


def listed(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def count(recommender: Recommender, name: str, **labels: str) -> float:
    return recommender.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("fields", [{}, {"decoding": "beam"}, {"history": []}, {"temperature": 0.5}])
async def test_pages_hold_every_item_once_until_there_are_no_more(
    recommender: Recommender, fields: dict[str, Any]
) -> None:
    pages = [await recommender.recommend(query(**fields))]
    while not pages[-1].exhausted:
        after = pages[-1].recommendation_id
        pages.append(await recommender.recommend(query(**fields, after_recommendation_id=after)))
    items = [item for page in pages for item in listed(page)]
    num_items = 20 if fields.get("history") == [] else 19
    assert len(items) == len(set(items)) == num_items
    assert [len(page.items) for page in pages[:3]] == [5] * 3
    assert [item.rank for item in pages[1].items] == [1, 2, 3, 4, 5]
    after = pages[-1].recommendation_id
    end = await recommender.recommend(query(**fields, after_recommendation_id=after))
    assert (end.items, end.exhausted, end.degraded) == ((), True, False)


async def test_a_page_may_be_asked_for_again(recommender: Recommender) -> None:
    first = await recommender.recommend(query())
    second, again = [
        await recommender.recommend(query(after_recommendation_id=first.recommendation_id)) for _ in range(2)
    ]
    assert listed(second) == listed(again)
    assert second.recommendation_id != again.recommendation_id


async def test_a_page_of_a_history_that_grew(recommender: Recommender, store: HistoryStore) -> None:
    await store.append([Event("ann", "item-1", 1.0)])
    first = await recommender.recommend(query(history=None))
    clicked = listed(first)[0]
    await store.append([Event("ann", clicked, 2.0)])
    second = await recommender.recommend(
        query(history=None, exclude_seen=False, after_recommendation_id=first.recommendation_id)
    )
    assert set(listed(first)).isdisjoint(listed(second))


async def test_items_that_a_later_bundle_does_not_hold_are_no_matter(
    recommender: Recommender, store: HistoryStore
) -> None:
    await store.remember(RememberedList("ann", "old", ("no-1", "item-2"), ("no-2", "item-3")))
    answer = await recommender.recommend(query(num_items=20, after_recommendation_id="old"))
    assert len(answer.items) == 17
    assert {"item-2", "item-3"}.isdisjoint(listed(answer))
    assert answer.ignored_item_ids == ()


async def test_what_is_not_remembered_of_this_user_is_no_list(
    recommender: Recommender, worker: Any, store: HistoryStore
) -> None:
    first = await recommender.recommend(query())
    for fields in (
        {"after_recommendation_id": "no-1"},
        {"after_recommendation_id": first.recommendation_id, "user_id": "bob"},
    ):
        with pytest.raises(NoSuchRecommendationError, match=r"^after_recommendation_id: no such"):
            await recommender.recommend(query(**fields))
    await recommender.delete_history("ann")
    with pytest.raises(NoSuchRecommendationError):
        await recommender.recommend(query(after_recommendation_id=first.recommendation_id))
    assert len(worker.requests) == 1


async def test_pages_are_bounded(recommender: Recommender, store: HistoryStore) -> None:
    await store.remember(RememberedList("ann", "1", ("a",) * 5, ("b",) * 20))
    await store.remember(RememberedList("ann", "2", ("a",) * 6, ("b",) * 20))
    await recommender.recommend(query(after_recommendation_id="1"))
    with pytest.raises(RequestError, match="at most 25") as raised:
        await recommender.recommend(query(after_recommendation_id="2"))
    assert raised.value.field == "after_recommendation_id"


async def test_without_the_store_a_page_is_degraded(
    make_recommender: MakeRecommender, down_store: HistoryStore
) -> None:
    recommender = make_recommender(down_store)
    answer = await recommender.recommend(query(after_recommendation_id="1"))
    assert (answer.degraded, answer.fallback, len(answer.items)) == (True, None, 5)
    answer = await recommender.recommend(query(history=None, after_recommendation_id="1"))
    assert (answer.degraded, answer.fallback, len(answer.items)) == (True, "history_unavailable", 5)
    assert count(recommender, "padrec_history_store_errors_total") == 5


@pytest.mark.parametrize("call", ["remember", "recall"])
async def test_a_store_that_hangs_costs_a_share_of_the_deadline(
    recommender: Recommender, store: HistoryStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    first = await recommender.recommend(query())

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(store, call, hang)
    after = first.recommendation_id
    answer = await recommender.recommend(query(deadline_ms=300, after_recommendation_id=after))
    assert (len(answer.items), answer.degraded) == (5, call == "recall")
    assert count(recommender, "padrec_history_store_errors_total") == 1


async def test_a_list_that_nobody_remembers_is_answered(
    recommender: Recommender, store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> None:
        raise HistoryStoreError("history store: full")

    monkeypatch.setattr(store, "remember", refuse)
    answer = await recommender.recommend(query())
    assert (len(answer.items), answer.degraded) == (5, False)
    assert count(recommender, "padrec_history_store_errors_total") == 1
    with pytest.raises(NoSuchRecommendationError):
        await recommender.recommend(query(after_recommendation_id=answer.recommendation_id))


async def test_listed_items_are_counted_by_rank(recommender: Recommender) -> None:
    await recommender.recommend(query(num_items=14))
    await recommender.recommend(query(num_items=2, history=[]))
    await recommender.recommend(query(validate_only=True))
    counts = [
        count(recommender, "padrec_recommendation_items_total", rank=rank)
        for rank in ("1", "2", "3", "10", "11+")
    ]
    assert counts == [2, 2, 1, 1, 4]


async def test_a_query_that_is_only_checked_is_not_written_nor_remembered(
    recommender: Recommender, worker: Any, store: HistoryStore
) -> None:
    first = await recommender.recommend(query())
    checked = await recommender.recommend(
        query(
            history=["item-1", "no-1"],
            exclude_item_ids=["item-0", "no-2"],
            promotions=[{"item_id": "item-1", "rank": 1}, {"item_id": "no-3", "rank": 2}],
            after_recommendation_id=first.recommendation_id,
            validate_only=True,
        )
    )
    assert (checked.items, checked.recommendation_id, checked.fallback) == ((), "", None)
    assert checked.ignored_item_ids == ("no-1", "no-2", "no-3")
    # Of 20: not those of the first page, of which item-0 is one; item-1 is promoted.
    assert "item-0" in listed(first)
    assert (checked.num_allowed_items, checked.exhausted) == (15, False)
    assert checked.speculation is None
    assert len(worker.requests) == 1
    assert first.num_allowed_items is None


async def test_a_check_says_what_a_filter_leaves(recommender: Recommender, worker: Any) -> None:
    worker.error = AssertionError("asked")
    cheap = {"attribute": "price", "op": "<", "value": 4}
    for num_items, exhausted in ((3, False), (4, True)):
        checked = await recommender.recommend(query(filter=cheap, num_items=num_items, validate_only=True))
        assert (checked.num_allowed_items, checked.exhausted) == (3, exhausted)
    checked = await recommender.recommend(query(history=[], filter=cheap, validate_only=True))
    assert (checked.num_allowed_items, checked.fallback) == (4, "cold_start")
    assert count(recommender, "padrec_fallback_total", reason="cold_start") == 0


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("filter", {"filter": {"attribute": "colour", "op": "==", "value": "red"}}),
        ("filter", {"filter": {"attribute": "price", "op": "==", "value": "red"}}),
        ("num_items", {"num_items": 31}),
        ("temperature", {"temperature": 1, "decoding": "beam"}),
        ("deadline_ms", {"deadline_ms": 9_001}),
    ],
)
async def test_a_check_refuses_what_a_list_would(
    recommender: Recommender, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(RequestError) as raised:
        await recommender.recommend(query(**fields, validate_only=True))
    assert raised.value.field == field


async def test_a_check_without_the_store_is_degraded(
    make_recommender: MakeRecommender, down_store: HistoryStore
) -> None:
    checked = await make_recommender(down_store).recommend(query(history=None, validate_only=True))
    assert (checked.degraded, checked.fallback, checked.num_allowed_items) == (
        True,
        "history_unavailable",
        20,
    )
