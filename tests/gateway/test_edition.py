import asyncio
from typing import Any

from service.catalog.bundle import Bundle
from service.gateway.edition import Edition
from service.gateway.query import RecommendQuery
from service.gateway.recommender import Recommender


async def test_it_is_in_use_until_the_last_holder_lets_go(bundle: Bundle, worker: Any) -> None:
    edition = Edition.read(bundle, worker)
    assert await edition.unused(0)
    with edition.held():
        with edition.held():
            assert not await edition.unused(0)
        waiting = asyncio.create_task(edition.unused(60))
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting


async def test_known_items_and_others_keep_their_order(bundle: Bundle, worker: Any) -> None:
    edition = Edition.read(bundle, worker)
    rows, unknown = edition.known(["item-4", "b", "item-1", "a"])
    assert [edition.catalogue.item_ids[row] for row in rows] == ["item-4", "item-1"]
    assert unknown == ["b", "a"]


async def test_requests_end_with_the_edition_that_they_started_with(
    recommender: Recommender, bundle: Bundle, worker: Any
) -> None:
    worker.release.clear()
    old = recommender.edition
    query = RecommendQuery(user_id="ann", history=["item-1"])
    asked = [
        asyncio.create_task(recommender.recommend(query)),
        asyncio.create_task(recommender.recommend_batch([query] * 2)),
    ]
    while len(worker.requests) < 3:
        await asyncio.sleep(0.01)
    other = type(worker)(bundle.manifest.num_items)
    recommender.edition = Edition.read(bundle, other)
    await recommender.recommend(query)
    assert (len(worker.requests), len(other.requests)) == (3, 1)
    assert not await old.unused(0)
    worker.release.set()
    await asyncio.gather(*asked)
    assert await old.unused(0)
