import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.gateway import clicks
from service.gateway.query import NewEvent, RecommendQuery
from service.gateway.recommender import Recommender
from service.history.store import HistoryStore
from service.telemetry.metrics import GatewayMetrics
from service.types import RememberedList
from tests.gateway.conftest import DownStore


def event(item_id: str, recommendation_id: str | None, user_id: str = "ann", **fields: Any) -> NewEvent:
    return NewEvent(user_id=user_id, item_id=item_id, recommendation_id=recommendation_id, **fields)


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics(CollectorRegistry())


def joined(metrics: GatewayMetrics) -> dict[str, float]:
    return {
        sample.labels["rank"]: sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "padrec_recommendation_events_total" and sample.value
    }


async def test_events_that_name_their_list_are_counted_once(
    store: HistoryStore, metrics: GatewayMetrics
) -> None:
    await store.remember(RememberedList("ann", "1", tuple(f"item-{n}" for n in range(14))))
    await store.remember(RememberedList("ann", "2", ("item-0",)))
    counted = clicks.Clicks(store, metrics)
    events = [
        event("item-2", "1"),
        event("item-2", "1", event_id="x"),
        event("item-12", "1"),
        event("item-13", "1"),
        event("item-0", "2"),
        event("item-1", "2"),
        event("item-3", None),
        event("item-3", "no-1"),
        event("item-3", "1", user_id="bob"),
    ]
    assert await counted.join(events) == 5
    assert joined(metrics) == {"1": 1, "3": 1, "11+": 2}
    assert await counted.join([*events, event("item-1", "1")]) == 6
    assert joined(metrics) == {"1": 1, "2": 1, "3": 1, "11+": 2}


async def test_events_of_no_list_ask_nothing(metrics: GatewayMetrics) -> None:
    assert await clicks.Clicks(DownStore(), metrics).join([event("item-1", None)]) == 0
    assert metrics.registry.get_sample_value("padrec_history_store_errors_total") == 0


async def test_a_store_that_joins_nothing_refuses_no_event(
    recommender: Recommender, store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "join", DownStore().join)
    accepted = await recommender.record_events([event("item-1", "1")])
    assert (accepted.accepted, accepted.joined) == (1, 0)
    assert await store.get("ann") == ["item-1"]

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(clicks, "_SECONDS", 0.01)
    monkeypatch.setattr(store, "join", hang)
    assert (await recommender.record_events([event("item-2", "1")])).joined == 0
    assert await store.get("ann") == ["item-1", "item-2"]
    assert recommender.metrics.registry.get_sample_value("padrec_history_store_errors_total") == 2


async def test_events_that_are_not_recorded_are_not_joined(
    recommender: Recommender, store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await recommender.recommend(RecommendQuery(user_id="ann", num_items=2))
    clicked = event(answer.items[1].item_id, answer.recommendation_id)
    with monkeypatch.context() as patch:
        patch.setattr(store, "append", DownStore().append)
        with pytest.raises(Exception, match="refused"):
            await recommender.record_events([clicked])
    assert joined(recommender.metrics) == {}
    assert (await recommender.record_events([clicked])).joined == 1
    assert joined(recommender.metrics) == {"2": 1}


async def test_unknown_lists_refuse_no_event_without_memory(
    make_recommender: Callable[[HistoryStore], Recommender], store: HistoryStore
) -> None:
    store._remember_seconds = 0
    recommender = make_recommender(store)
    answer = await recommender.recommend(RecommendQuery(user_id="ann", num_items=2))
    accepted = await recommender.record_events([event(answer.items[0].item_id, answer.recommendation_id)])
    assert (accepted.accepted, accepted.joined) == (1, 0)
