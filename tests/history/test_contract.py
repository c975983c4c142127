"""What every history store must do."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.config import HistorySettings
from service.history.opening import open_store
from service.history.store import EVENT_IDS_PER_ITEM, MAX_LISTS, HistoryStore
from service.types import Event, JoinedItem, RememberedList

OpenStore = Callable[..., HistoryStore]


@pytest.fixture
async def open_bounded(store_url: str) -> AsyncIterator[OpenStore]:
    """Opens stores of one kind, all on the same data, that keep so many items for each user."""
    async with AsyncExitStack() as stack:

        def open_one(max_items: int, remember_minutes: float = 60) -> HistoryStore:
            settings = HistorySettings(
                url=store_url,
                max_items_per_user=max_items,
                remember_minutes=remember_minutes,
                timeout_seconds=20,  # what is asked is not how fast a busy machine is
            )
            store = open_store(settings)
            stack.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
def store(open_bounded: OpenStore) -> HistoryStore:
    return open_bounded(5)


def event(item: str, timestamp: float, event_id: str | None = None, user: str = "ann") -> Event:
    return Event(user_id=user, item_id=item, timestamp=timestamp, event_id=event_id)


async def test_an_unknown_user_has_an_empty_history(store: HistoryStore) -> None:
    assert await store.get("nobody") == []
    await store.delete("nobody")


async def test_items_come_back_oldest_first(store: HistoryStore) -> None:
    await store.append([event("b", 2.0), event("c", 3.5)])
    await store.append([event("a", 1.0)])
    assert await store.get("ann") == ["a", "b", "c"]


async def test_equal_timestamps_keep_the_order_of_arrival(store: HistoryStore) -> None:
    await store.append([event("z", 1.0), event("a", 1.0)])
    await store.append([event("m", 1.0)])
    assert await store.get("ann") == ["z", "a", "m"]


async def test_timestamps_are_kept_exactly(store: HistoryStore) -> None:
    now = 1_760_000_000.123456
    await store.append([event("later", now + 1e-6), event("sooner", now), event("before", -5e9)])
    assert await store.get("ann") == ["before", "sooner", "later"]


async def test_only_the_newest_are_kept(store: HistoryStore) -> None:
    await store.append([event(str(number), float(number)) for number in range(9)])
    assert await store.get("ann") == ["4", "5", "6", "7", "8"]
    await store.append([event("too old", 0.0)])
    assert await store.get("ann") == ["4", "5", "6", "7", "8"]


async def test_a_repeated_item_counts_each_time(store: HistoryStore) -> None:
    await store.append([event("a", 1.0), event("a", 1.0), event("b", 2.0)])
    assert await store.get("ann") == ["a", "a", "b"]


async def test_a_repeated_event_id_changes_nothing(store: HistoryStore) -> None:
    await store.append([event("a", 1.0, "1"), event("x", 1.5, "1"), event("b", 2.0, "2")])
    await store.append([event("a", 9.0, "1")])
    assert await store.get("ann") == ["a", "b"]


async def test_an_event_id_is_remembered_after_its_event_was_dropped(store: HistoryStore) -> None:
    await store.append([event(str(number), float(number), f"id {number}") for number in range(10)])
    await store.append([event("0", 99.0, "id 0")])
    assert await store.get("ann") == ["5", "6", "7", "8", "9"]


async def test_event_ids_are_bounded_too(store: HistoryStore) -> None:
    num_events = 5 * EVENT_IDS_PER_ITEM + 1
    await store.append([event(str(number), float(number), f"id {number}") for number in range(num_events)])
    await store.append([event("1", 98.0, "id 1"), event("0", 99.0, "id 0")])
    assert await store.get("ann") == ["17", "18", "19", "20", "0"]


async def test_event_ids_belong_to_their_user(store: HistoryStore) -> None:
    await store.append([event("a", 1.0, "1"), event("b", 1.0, "1", user="bob")])
    assert await store.get("ann") == ["a"]
    assert await store.get("bob") == ["b"]


async def test_delete_forgets_one_user_and_all_of_them(store: HistoryStore) -> None:
    await store.append([event("a", 1.0, "1"), event("b", 1.0, user="bob")])
    await store.delete("ann")
    assert await store.get("ann") == []
    assert await store.get("bob") == ["b"]
    await store.append([event("a", 1.0, "1")])
    assert await store.get("ann") == ["a"]


async def test_appending_nothing_is_fine(store: HistoryStore) -> None:
    await store.append([])
    await store.ping()


@pytest.mark.parametrize("name", ["a b", "}{", "a}:history", "'; DROP TABLE events; --", "ünï→😀", "x" * 256])
async def test_any_text_is_an_id(store: HistoryStore, name: str) -> None:
    await store.append([event(name, 1.0, name, user=name), event(name, 2.0, name, user=name)])
    assert await store.get(name) == [name]


async def test_all_events_of_an_append_or_none(store: HistoryStore, request: pytest.FixtureRequest) -> None:
    with pytest.raises(UnicodeEncodeError):
        await store.append([event("a", 1.0), event("b", 1.0, user="bob"), event("\ud800", 2.0)])
    assert await store.get("ann") == []
    is_cluster = "cluster" in request.node.name  # whose nodes keep users apart
    assert await store.get("bob") == (["b"] if is_cluster else [])


async def test_another_store_on_the_same_data_sees_what_was_acknowledged(open_bounded: OpenStore) -> None:
    first, second = open_bounded(5), open_bounded(5)
    await first.append([event("a", 1.0, "1")])
    assert await second.get("ann") == ["a"]
    await second.append([event("a", 1.0, "1"), event("b", 2.0)])
    assert await first.get("ann") == ["a", "b"]


async def test_a_smaller_bound_holds_at_once(open_bounded: OpenStore) -> None:
    await open_bounded(5).append([event(str(number), float(number)) for number in range(5)])
    assert await open_bounded(2).get("ann") == ["3", "4"]


async def test_concurrent_appends_all_count(open_bounded: OpenStore) -> None:
    stores = [open_bounded(100), open_bounded(100)]
    await asyncio.gather(
        *(
            stores[number % 2].append(
                [event(f"{number}", float(number), f"id {number}"), event("same", -1.0, "x")]
            )
            for number in range(40)
        ),
        *(stores[number % 2].get("ann") for number in range(40)),
    )
    assert await stores[0].get("ann") == ["same"] + [str(number) for number in range(40)]


def listed(name: str, *item_ids: str, user: str = "ann", before: tuple[str, ...] = ()) -> RememberedList:
    return RememberedList(user, name, item_ids, before)


def later(store: HistoryStore, seconds: float) -> None:
    """Let time pass for a store."""
    getattr(store, "_store", store)._clock = lambda: time.time() + seconds


async def test_a_list_is_remembered_for_its_user(open_bounded: OpenStore) -> None:
    first, second = open_bounded(5), open_bounded(5)
    page = listed("2", "a", "b", before=("c", "d"))
    await first.remember(listed("1"))
    await first.remember(page)
    assert await second.recall("ann", "2") == page
    assert await second.recall("ann", "1") == listed("1")
    assert await second.recall("bob", "2") is None
    assert await second.recall("ann", "3") is None
    assert await second.get("ann") == []


async def test_a_list_is_forgotten_in_time(store: HistoryStore) -> None:
    await store.remember(listed("1", "a"))
    later(store, 3_590)
    assert await store.recall("ann", "1") == listed("1", "a")
    later(store, 3_601)
    assert await store.recall("ann", "1") is None
    assert await store.join("ann", "1", ["a"]) == []
    await store.remember(listed("2", "b"))
    later(store, 0)  # were it still kept, it would be known again
    assert await store.recall("ann", "1") is None
    assert await store.recall("ann", "2") == listed("2", "b")


async def test_without_time_no_list_is_remembered(open_bounded: OpenStore) -> None:
    store = open_bounded(5, remember_minutes=0)
    await store.remember(listed("1", "a"))
    assert await store.recall("ann", "1") is None
    assert await store.join("ann", "1", ["a"]) == []


async def test_the_latest_lists_of_a_user_are_remembered(store: HistoryStore) -> None:
    await store.remember(listed("bob's", "a", user="bob"))
    for number in range(MAX_LISTS + 2):
        await store.remember(listed(str(number), "a"))
        await store.join("ann", str(number), ["a"])
    kept = [number for number in range(MAX_LISTS + 2) if await store.recall("ann", str(number))]
    assert kept == list(range(2, MAX_LISTS + 2))
    assert await store.recall("bob", "bob's") == listed("bob's", "a", user="bob")


async def test_each_item_of_a_list_is_joined_once(store: HistoryStore) -> None:
    await store.remember(listed("1", "a", "b", "c"))
    await store.remember(listed("2", "a"))
    assert await store.join("ann", "1", ["c", "x", "a"]) == [
        JoinedItem("c", 3, True),
        JoinedItem("a", 1, True),
    ]
    assert await store.join("ann", "1", ["a", "b"]) == [JoinedItem("a", 1, False), JoinedItem("b", 2, True)]
    assert await store.join("ann", "2", ["a"]) == [JoinedItem("a", 1, True)]
    assert await store.join("bob", "1", ["a"]) == []
    assert await store.join("ann", "3", ["a"]) == []
    assert await store.recall("ann", "1") == listed("1", "a", "b", "c")


async def test_of_events_that_come_at_once_one_is_the_first(open_bounded: OpenStore) -> None:
    stores = [open_bounded(5), open_bounded(5)]
    await stores[0].remember(listed("1", "a", "b"))
    joined = await asyncio.gather(*(stores[number % 2].join("ann", "1", ["b"]) for number in range(20)))
    assert sorted(one.is_first for [one] in joined) == [False] * 19 + [True]


async def test_delete_forgets_the_lists_of_one_user(store: HistoryStore) -> None:
    await store.remember(listed("1", "a"))
    await store.remember(listed("2", "a", user="bob"))
    await store.join("ann", "1", ["a"])
    await store.delete("ann")
    assert await store.recall("ann", "1") is None
    assert await store.recall("bob", "2") == listed("2", "a", user="bob")
    await store.remember(listed("1", "a"))
    assert await store.join("ann", "1", ["a"]) == [JoinedItem("a", 1, True)]


async def test_histories_and_lists_do_not_know_each_other(store: HistoryStore) -> None:
    await store.append([event(str(number), float(number)) for number in range(9)])
    await store.remember(listed("1", "a"))
    await store.append([event("9", 9.0)])
    assert await store.get("ann") == ["5", "6", "7", "8", "9"]
    assert await store.recall("ann", "1") == listed("1", "a")


@pytest.mark.parametrize("name", ["}{", "a}:lists", "'; DROP TABLE lists; --", 'ünï→😀"\\', "1,2", "x" * 256])
async def test_any_text_names_a_list(store: HistoryStore, name: str) -> None:
    page = listed(name, "1", name, user=name, before=(name, "2"))
    await store.remember(page)
    assert await store.recall(name, name) == page
    assert await store.join(name, name, [name]) == [JoinedItem(name, 2, True)]


async def test_many_lists_at_once(open_bounded: OpenStore) -> None:
    stores = [open_bounded(5), open_bounded(5)]
    pages = [listed(str(number), f"item {number}", user=f"user {number % 3}") for number in range(90)]
    await asyncio.gather(*(stores[number % 2].remember(page) for number, page in enumerate(pages)))
    assert [await stores[0].recall(page.user_id, page.recommendation_id) for page in pages] == pages


class Model:
    """A history as plainly as it can be written."""

    def __init__(self, max_items: int) -> None:
        self.max_items = max_items
        self.num_arrived = 0
        self.events: list[tuple[float, int, str]] = []
        self.event_ids: list[str] = []

    def append(self, events: list[Event]) -> None:
        for one in events:
            if one.event_id in self.event_ids:
                continue
            self.num_arrived += 1
            self.events.append((one.timestamp, self.num_arrived, one.item_id))
            if one.event_id is not None:
                self.event_ids.append(one.event_id)
        self.events = sorted(self.events)[-self.max_items :]
        self.event_ids = self.event_ids[-self.max_items * EVENT_IDS_PER_ITEM :]

    def get(self) -> list[str]:
        return [item for _, _, item in self.events]


EVENTS = st.builds(
    event,
    st.sampled_from("abcdef"),
    st.one_of(st.integers(0, 4).map(float), st.floats(-1e12, 1e12)),
    st.one_of(st.none(), st.integers(0, 30).map(str)),
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batches=st.lists(st.lists(EVENTS, max_size=12), max_size=8))
async def test_it_does_what_the_model_does(store: HistoryStore, batches: list[list[Event]]) -> None:
    user = uuid.uuid4().hex
    model = Model(5)
    for batch in batches:
        own = [event(one.item_id, one.timestamp, one.event_id, user=user) for one in batch]
        model.append(own)
        await store.append(own)
        assert await store.get(user) == model.get()
