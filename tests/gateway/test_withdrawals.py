import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.catalog.bundle import Bundle
from service.catalog.filters import Filter, unpacked
from service.errors import HistoryStoreError, RequestError
from service.gateway.edition import Edition
from service.gateway.query import RecommendQuery
from service.gateway.recommender import Recommender
from service.gateway.withdrawals import Withdrawals
from service.telemetry.metrics import GatewayMetrics
from tests.gateway.conftest import FakeWorker, MemoryWithdrawals


def query(**fields: Any) -> RecommendQuery:
    return RecommendQuery(**{"user_id": "ann", "history": ["item-0"], "num_items": 30} | fields)


async def listed(recommender: Recommender, **fields: Any) -> set[str]:
    return {item.item_id for item in (await recommender.recommend(query(**fields))).items}


def made(store: MemoryWithdrawals, limit: int = 5) -> Withdrawals:
    return Withdrawals(store, limit, GatewayMetrics(CollectorRegistry()))


async def changed(withdrawals: Withdrawals, *item_ids: str) -> None:
    async with asyncio.timeout(60):
        while withdrawals.now.item_ids != set(item_ids):
            await asyncio.sleep(0.01)


async def test_withdrawn_items_are_in_no_list_until_they_are_restored(recommender: Recommender) -> None:
    price = Filter(attribute="price", op="<=", value=4)
    everything = {f"item-{number}" for number in range(20)}
    assert await recommender.withdraw(["item-3", "no-1"]) == ("no-1",)
    assert await listed(recommender) == everything - {"item-0", "item-3"}
    assert await listed(recommender, history=[]) == everything - {"item-3"}
    assert await listed(recommender, filter=price) == {"item-1", "item-2", "item-4"}
    assert await listed(recommender, exclude_seen=False, exclude_item_ids=["item-1"]) == (
        everything - {"item-1", "item-3"}
    )
    assert await recommender.restore(["item-3", "item-4"]) == ()
    assert await listed(recommender) == everything - {"item-0"}
    assert set(recommender.withdrawals.now.item_ids) == {"no-1"}


async def test_they_are_not_promoted_either(recommender: Recommender) -> None:
    promotions = [{"item_id": "item-3", "rank": 1}, {"item_id": "item-4", "rank": 2}]
    await recommender.withdraw(["item-3"])
    answer = await recommender.recommend(query(num_items=3, promotions=promotions))
    assert "item-3" not in {item.item_id for item in answer.items}
    assert [item.item_id for item in answer.items if item.promoted] == ["item-4"]
    checked = await recommender.recommend(query(validate_only=True))
    assert checked.num_allowed_items == 18


async def test_in_histories_they_count(recommender: Recommender, worker: Any, bundle: Bundle) -> None:
    await recommender.withdraw(["item-3"])
    answer = await recommender.recommend(query(history=["item-3", "item-4"]))
    catalogue = bundle.read_catalogue()
    assert worker.requests[0].history == (catalogue.row_of("item-3"), catalogue.row_of("item-4"))
    assert answer.ignored_item_ids == ()


async def test_nothing_is_sent_when_nothing_is_withdrawn(recommender: Recommender, worker: Any) -> None:
    await recommender.recommend(query())
    await recommender.withdraw(["no-1"])
    await recommender.recommend(query())
    assert [(len(request.excluded), request.allowed) for request in worker.requests] == [(1, None)] * 2


async def test_very_many_are_sent_as_bits(
    recommender: Recommender, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    (tmp_path / "large").mkdir()
    large = Bundle.open(make_bundle(tmp_path / "large", 1_500, (12, 12, 12)))
    worker = FakeWorker(1_500)
    recommender.edition = Edition.read(large, worker)
    await recommender.withdraw([f"item-{number}" for number in range(1, 1_200)])
    assert await listed(recommender, filter=Filter(attribute="price", op="<=", value=1_203)) == {
        "item-1200",
        "item-1201",
        "item-1202",
        "item-1203",
    }
    await recommender.recommend(query())
    catalogue = large.read_catalogue()
    expected = [catalogue.row_of(f"item-{number}") for number in (0, *range(1_200, 1_500))]
    allowed = worker.requests[1].allowed
    assert allowed is not None
    assert unpacked(allowed, 1_500).nonzero()[0].tolist() == sorted(expected)
    assert worker.requests[1].excluded == (catalogue.row_of("item-0"),)


async def test_another_edition_leaves_out_its_own_rows(
    recommender: Recommender, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    await recommender.withdraw(["item-3", "item-25"])
    assert "item-3" not in await listed(recommender)
    (tmp_path / "other").mkdir()
    other = Bundle.open(make_bundle(tmp_path / "other", 30, (2, 4, 4)))
    recommender.edition = Edition.read(other, FakeWorker(30))
    assert await listed(recommender, num_items=50) == {f"item-{n}" for n in range(1, 30)} - {
        "item-3",
        "item-25",
    }


async def test_gateways_that_share_a_store_follow_each_other() -> None:
    store = MemoryWithdrawals()
    one, other = made(store), made(store)
    await one.withdraw(["a"])
    await other.start()
    assert other.now.item_ids == {"a"}
    await one.withdraw(["b", "c"])
    assert one.now.item_ids == {"a", "b", "c"}
    await changed(other, "a", "b", "c")
    await other.restore(["a", "b"])
    assert other.now.item_ids == {"c"}
    await one.start()
    await changed(one, "c")
    for withdrawals in (one, other):
        await withdrawals.close()


async def test_what_did_not_change_is_not_read_again() -> None:
    store = MemoryWithdrawals()
    withdrawals = made(store)
    await withdrawals.withdraw(["a"])
    now = withdrawals.now
    await withdrawals._read()
    assert withdrawals.now is now
    assert store.reads == 1


async def test_a_store_that_is_down_keeps_what_was_known() -> None:
    store = MemoryWithdrawals()
    one, late = made(store), made(store)
    await one.start()
    await one.withdraw(["a"])
    store.is_down = True
    await late.start()
    assert (late.is_known, late.now.item_ids) == (False, frozenset())
    with pytest.raises(HistoryStoreError):
        await one.withdraw(["b"])
    assert one.now.item_ids == {"a"}
    store.is_down = False
    await changed(late, "a")
    assert late.is_known
    for withdrawals in (one, late):
        await withdrawals.close()


async def test_they_are_bounded_and_counted() -> None:
    registry = CollectorRegistry()
    withdrawals = Withdrawals(MemoryWithdrawals(), 2, GatewayMetrics(registry))
    with pytest.raises(RequestError, match="at most 2"):
        await withdrawals.withdraw(["a", "b", "c"])
    await withdrawals.withdraw(["a", "b"])
    assert registry.get_sample_value("padrec_withdrawn_items") == 2.0


async def test_a_gateway_that_never_read_them_is_not_ready(recommender: Recommender) -> None:
    recommender.withdrawals.is_known = False
    assert await recommender.checks() == {"worker": True, "history_store": False}
