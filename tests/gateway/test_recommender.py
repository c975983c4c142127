import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.catalog.bundle import Bundle
from service.catalog.filters import Filter
from service.config import GatewaySettings
from service.errors import (
    DeadlineExceededError,
    HistoryStoreError,
    NoSuchItemError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from service.gateway.answer import EventsAccepted, ItemAnswer, Speculation
from service.gateway.query import NewEvent, RecommendQuery
from service.gateway.recommender import Recommender
from service.history.store import HistoryStore
from service.types import Event


def query(**fields: Any) -> RecommendQuery:
    return RecommendQuery(user_id="ann", **fields)


def rows(bundle: Bundle, *item_ids: str) -> tuple[int, ...]:
    catalogue = bundle.read_catalogue()
    return tuple(catalogue.row_of(item_id) for item_id in item_ids)


def fallbacks(recommender: Recommender, reason: str) -> float:
    registry: CollectorRegistry = recommender.metrics.registry
    return registry.get_sample_value("padrec_fallback_total", {"reason": reason}) or 0.0


async def test_a_list_from_the_requests_history(
    recommender: Recommender, worker: Any, bundle: Bundle
) -> None:
    answer = await recommender.recommend(query(history=["item-3", "item-7"], num_items=3))
    (request,) = worker.requests
    assert request.request_id == answer.recommendation_id
    assert len(request.request_id) == 32
    assert request.history == rows(bundle, "item-3", "item-7")
    assert set(request.excluded) == set(request.history)
    assert request.num_items == 3
    catalogue = bundle.read_catalogue()
    expected = [row for row in range(20) if row not in request.history][:3]
    assert [item.item_id for item in answer.items] == [catalogue.item_ids[row] for row in expected]
    assert [item.rank for item in answer.items] == [1, 2, 3]
    assert [item.score for item in answer.items] == [1 / 2, 1 / 3, 1 / 4]
    first = catalogue.item(expected[0])
    assert (answer.items[0].title, answer.items[0].attributes) == (first.title, first.attributes)
    assert answer.user_id == "ann"
    assert answer.model_version == "model-1"
    assert answer.catalog_version == bundle.manifest.catalog_version
    assert answer.fallback is None
    assert (answer.degraded, answer.exhausted, answer.ignored_item_ids) == (False, False, ())
    timings = answer.timings
    assert (timings.queue_ms, timings.prefill_ms, timings.decode_ms) == (1.0, 2.0, 3.0)
    assert 0 <= timings.history_ms <= timings.total_ms
    assert answer.speculation == Speculation(
        rounds=3, accepted_length=4.667, accepted_length_without_forced=3.333
    )


async def test_a_list_from_the_stored_history(
    recommender: Recommender, store: HistoryStore, worker: Any, bundle: Bundle
) -> None:
    await store.append(
        [Event("ann", "item-9", 2.0), Event("ann", "item-1", 1.0), Event("bob", "item-5", 1.0)]
    )
    answer = await recommender.recommend(query())
    assert worker.requests[0].history == rows(bundle, "item-1", "item-9")
    assert worker.requests[0].num_items == 10
    assert len(answer.items) == 10


async def test_the_model_reads_the_latest_items_and_all_are_excluded(
    recommender: Recommender, worker: Any, bundle: Bundle
) -> None:
    history = [f"item-{number}" for number in range(6)]
    await recommender.recommend(query(history=history))
    assert worker.requests[0].history == rows(bundle, *history[2:])
    assert set(worker.requests[0].excluded) == set(rows(bundle, *history))


async def test_seen_items_may_be_listed_again(recommender: Recommender, worker: Any, bundle: Bundle) -> None:
    await recommender.recommend(query(history=["item-1"], exclude_seen=False, exclude_item_ids=["item-2"]))
    assert worker.requests[0].excluded == rows(bundle, "item-2")


async def test_unknown_items_are_listed_once_and_ignored(
    recommender: Recommender, worker: Any, bundle: Bundle
) -> None:
    answer = await recommender.recommend(
        query(history=["no-2", "item-1", "no-1", "no-2"], exclude_item_ids=["no-3", "no-1", "item-2"])
    )
    assert answer.ignored_item_ids == ("no-2", "no-1", "no-3")
    assert worker.requests[0].history == rows(bundle, "item-1")
    assert set(worker.requests[0].excluded) == set(rows(bundle, "item-1", "item-2"))


async def test_sampling_options_reach_the_worker(recommender: Recommender, worker: Any) -> None:
    await recommender.recommend(query(history=["item-1"], temperature=0.5, top_p=0.9, seed=7, priority=3))
    request = worker.requests[0]
    assert (request.temperature, request.top_p, request.seed, request.priority) == (0.5, 0.9, 7, 3)
    for _ in range(2):
        await recommender.recommend(query(history=["item-1"], temperature=0.5))
    assert worker.requests[1].seed != worker.requests[2].seed


async def test_beam_decoding_reaches_the_worker_and_has_no_speculation(
    recommender: Recommender, worker: Any
) -> None:
    answer = await recommender.recommend(query(history=["item-1"], decoding="beam"))
    assert worker.requests[0].decoding == "beam"
    assert answer.speculation is None
    answer = await recommender.recommend(query(history=["item-1"]))
    assert worker.requests[1].decoding == "list"
    assert answer.speculation is not None


async def test_a_bundle_built_for_beam_decoding_is_asked_for_it(
    recommender: Recommender, worker: Any
) -> None:
    manifest = recommender.edition.manifest
    defaults = manifest.decoding.model_copy(update={"decoding": "beam"})
    recommender.edition.manifest = manifest.model_copy(update={"decoding": defaults})
    await recommender.recommend(query(history=["item-1"]))
    await recommender.recommend(query(history=["item-1"], decoding="list", temperature=0.5))
    assert [request.decoding for request in worker.requests] == ["beam", "list"]
    with pytest.raises(RequestError, match="beam decoding takes no temperature"):
        await recommender.recommend(query(history=["item-1"], temperature=0.5))


@pytest.mark.parametrize("history", [[], None, ["no-1"]])
async def test_a_cold_start_gets_the_popular_list(
    recommender: Recommender, worker: Any, bundle: Bundle, history: list[str] | None
) -> None:
    answer = await recommender.recommend(query(history=history, num_items=3, exclude_item_ids=["item-1"]))
    assert worker.requests == []
    assert [item.item_id for item in answer.items] == ["item-0", "item-2", "item-3"]
    assert [item.score for item in answer.items] == [None] * 3
    assert [item.rank for item in answer.items] == [1, 2, 3]
    assert answer.fallback == "cold_start"
    assert answer.speculation is None
    assert answer.model_version == bundle.manifest.model_version
    assert not answer.degraded
    assert not answer.exhausted
    assert fallbacks(recommender, "cold_start") == 1.0


@pytest.mark.parametrize("history", [[], None, ["no-1"]])
async def test_a_cold_start_gets_popular_items_of_its_filter(
    recommender: Recommender, worker: Any, history: list[str] | None
) -> None:
    brand = Filter(attribute="brand", op="==", value="Brand 2")
    answer = await recommender.recommend(
        query(history=history, num_items=3, filter=brand, exclude_item_ids=["item-5"])
    )
    assert [item.item_id for item in answer.items] == ["item-2", "item-8", "item-11"]
    assert (answer.fallback, answer.exhausted, worker.requests) == ("cold_start", False, [])
    answer = await recommender.recommend(query(history=history, num_items=7, filter=brand))
    assert [item.item_id for item in answer.items] == [f"item-{n}" for n in range(2, 20, 3)]
    assert (answer.fallback, answer.exhausted) == ("cold_start", True)
    assert all(item.attributes["brand"] == "Brand 2" for item in answer.items)


async def test_nothing_left_is_a_short_list(recommender: Recommender) -> None:
    most = [f"item-{number}" for number in range(2, 20)]
    for history in ([], ["item-1"]):
        answer = await recommender.recommend(query(history=history, exclude_item_ids=most, num_items=5))
        assert [item.item_id for item in answer.items] == ["item-0", "item-1"][: 2 - len(history)]
        assert answer.exhausted


async def test_without_the_store_the_popular_list(
    make_recommender: Callable[[HistoryStore], Recommender], down_store: HistoryStore, worker: Any
) -> None:
    recommender = make_recommender(down_store)
    answer = await recommender.recommend(query(num_items=2))
    assert [item.item_id for item in answer.items] == ["item-0", "item-1"]
    assert answer.degraded
    assert answer.fallback == "history_unavailable"
    assert fallbacks(recommender, "history_unavailable") == 1.0
    registry = recommender.metrics.registry
    assert (
        registry.get_sample_value("padrec_history_store_errors_total") == 2.0
    )  # its list is not remembered either
    answer = await recommender.recommend(query(num_items=2, history=["item-4"]))
    assert len(worker.requests) == 1
    assert answer.fallback is None
    assert not answer.degraded


async def test_the_worker_gets_what_is_left_of_the_deadline(
    recommender: Recommender, worker: Any, settings: GatewaySettings
) -> None:
    await recommender.recommend(query(history=["item-1"], deadline_ms=700))
    await recommender.recommend(query(history=["item-1"]))
    assert 0 < worker.timeouts[0] <= 0.7
    assert 0.7 < worker.timeouts[1] <= settings.default_deadline_ms / 1000


async def test_a_store_that_hangs_is_down(
    make_recommender: Callable[[HistoryStore], Recommender], down_store: HistoryStore, monkeypatch: Any
) -> None:
    async def hang(_user_id: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(down_store, "get", hang)
    recommender = make_recommender(down_store)
    answer = await recommender.recommend(query(deadline_ms=300, num_items=2))
    assert [item.item_id for item in answer.items] == ["item-0", "item-1"]
    assert (answer.degraded, answer.fallback) == (True, "history_unavailable")
    # Its list is not remembered either.
    assert recommender.metrics.registry.get_sample_value("padrec_history_store_errors_total") == 2.0


@pytest.mark.parametrize(
    "error", [QueueFullError("full"), UnavailableError("gone"), DeadlineExceededError("late")]
)
async def test_what_the_worker_says_is_passed_on(
    recommender: Recommender, worker: Any, error: Exception
) -> None:
    worker.error = error
    with pytest.raises(type(error)):
        await recommender.recommend(query(history=["item-1"]))


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("num_items", {"num_items": 31}),
        ("history", {"history": ["item-1"] * 13}),
        ("exclude_item_ids", {"exclude_item_ids": ["item-1"] * 26}),
        ("deadline_ms", {"deadline_ms": 9_001}),
    ],
)
async def test_bounds_of_settings_and_bundle(
    recommender: Recommender, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(RequestError) as raised:
        await recommender.recommend(query(**fields))
    assert raised.value.field == field


async def test_events_become_history(recommender: Recommender, store: HistoryStore) -> None:
    early = NewEvent(user_id="ann", item_id="item-2", timestamp=5.0, event_id="1")
    now = NewEvent(user_id="ann", item_id="item-1")
    unknown = NewEvent(user_id="ann", item_id="no-1", timestamp=6.0)
    accepted = await recommender.record_events([now, early, unknown])
    assert accepted == EventsAccepted(accepted=3, ignored_item_ids=("no-1",), joined=0)
    assert (await recommender.record_events([early])).ignored_item_ids == ()
    assert await recommender.get_history("ann") == ["item-2", "no-1", "item-1"]
    await recommender.delete_history("ann")
    assert await store.get("ann") == []
    with pytest.raises(RequestError, match="at most 3"):
        await recommender.record_events([early] * 4)


async def test_errors_of_the_store_are_counted(
    make_recommender: Callable[[HistoryStore], Recommender], down_store: HistoryStore
) -> None:
    recommender = make_recommender(down_store)
    with pytest.raises(HistoryStoreError):
        await recommender.record_events([NewEvent(user_id="ann", item_id="item-1")])
    with pytest.raises(HistoryStoreError):
        await recommender.get_history("ann")
    with pytest.raises(HistoryStoreError):
        await recommender.delete_history("ann")
    assert recommender.metrics.registry.get_sample_value("padrec_history_store_errors_total") == 3.0


async def test_items_by_their_id(recommender: Recommender) -> None:
    told = ItemAnswer(item_id="item-4", title="Item 4", attributes={"price": 4.0, "brand": "Brand 1"})
    assert recommender.get_item("item-4") == told
    with pytest.raises(NoSuchItemError, match="no such item: no-1"):
        recommender.get_item("no-1")


async def test_checks_name_what_does_not_answer(
    recommender: Recommender,
    make_recommender: Callable[[HistoryStore], Recommender],
    down_store: HistoryStore,
    worker: Any,
) -> None:
    assert await recommender.checks() == {"worker": True, "history_store": True}
    worker.is_ready = False
    assert await make_recommender(down_store).checks() == {"worker": False, "history_store": False}
