from collections import Counter

import pytest

from loadtest.profile import Profile
from loadtest.traffic import BATCH, EVENTS, RECOMMEND, STREAM, Shop, Traffic
from service.gateway.query import EventBatch, RecommendBatch, RecommendQuery

ITEMS = [
    {"item_id": "a", "attributes": {"price": 3.5, "brand": "Fox", "sold_out": False, "none": None}},
    {"item_id": "b", "attributes": {"price": 3.5, "brand": "Elk", "tags": ["x"]}},
]
SHOP = Shop.of(ITEMS)
PROFILE = Profile(users=20, batch_share=0.1)


def test_a_shop_is_what_a_list_says_of_it() -> None:
    assert SHOP.item_ids == ("a", "b")
    assert SHOP.filters == (
        {"attribute": "price", "op": "<=", "value": 3.5},
        {"attribute": "brand", "op": "==", "value": "Fox"},
        {"attribute": "sold_out", "op": "==", "value": False},
        {"attribute": "brand", "op": "==", "value": "Elk"},
    )
    with pytest.raises(ValueError, match="nothing is known"):
        Shop.of([])


def test_calls_are_valid_and_mixed_as_the_profile_says() -> None:
    traffic = Traffic(PROFILE, SHOP)
    calls = [traffic.next() for _ in range(4_000)]
    models = {RECOMMEND: RecommendQuery, STREAM: RecommendQuery, BATCH: RecommendBatch, EVENTS: EventBatch}
    for call in calls:
        models[call.name].model_validate(call.body)
    shares = {name: count / len(calls) for name, count in Counter(call.name for call in calls).items()}
    assert shares == pytest.approx({RECOMMEND: 0.65, STREAM: 0.1, BATCH: 0.1, EVENTS: 0.15}, abs=0.03)
    assert {call.name: call.num_lists for call in calls} == {RECOMMEND: 1, STREAM: 1, BATCH: 3, EVENTS: 0}
    lists = [call.body for call in calls if call.num_lists == 1]
    assert sum("filter" in body for body in lists) / len(lists) == pytest.approx(0.2, abs=0.03)
    new = [body["user_id"] for body in lists if body["user_id"].startswith("load-new-")]
    assert len(new) == len(set(new))
    assert len(new) / len(lists) == pytest.approx(0.02, abs=0.015)
    assert {body["num_items"] for body in lists} == set(PROFILE.list_sizes)


def test_the_same_seed_asks_the_same() -> None:
    one, other = Traffic(PROFILE, SHOP), Traffic(PROFILE, SHOP)
    assert [one.next() for _ in range(50)] == [other.next() for _ in range(50)]


def test_every_user_begins_with_a_history() -> None:
    traffic = Traffic(PROFILE, SHOP)
    lots = traffic.histories()
    events = [event for lot in lots for event in lot]
    counts = Counter(event["user_id"] for event in events)
    assert len(counts) == 20
    assert all(2 <= count <= 8 for count in counts.values())
    assert len({event["event_id"] for event in events}) == len(events)
    assert lots == traffic.histories()


def test_many_histories_are_told_in_several_calls() -> None:
    lots = Traffic(Profile(users=300, history_items=(4, 4)), SHOP).histories()
    assert [len(lot) for lot in lots] == [500, 500, 200]


def test_some_events_name_a_list_that_was_answered() -> None:
    traffic = Traffic(Profile(event_share=1.0, stream_share=0, batch_share=0, joined_share=1.0), SHOP)
    assert "recommendation_id" not in traffic.next().body["events"][0]
    traffic.listed({"user_id": "ann", "recommendation_id": "r1", "items": [{"item_id": "b"}]})
    traffic.listed({"user_id": "bob", "recommendation_id": "r2", "items": []})
    [event] = traffic.next().body["events"]
    assert event == {"user_id": "ann", "item_id": "b", "recommendation_id": "r1"}
    assert "recommendation_id" not in traffic.next().body["events"][0]


def test_generators_draw_calls_of_their_own() -> None:
    profile = Profile(users=20, generators=3, new_user_share=0.5)
    new = [
        {
            body["user_id"]
            for call in [traffic.next() for _ in range(200)]
            if call.num_lists == 1 and (body := call.body)["user_id"].startswith("load-new-")
        }
        for traffic in (Traffic(profile, SHOP, number) for number in range(3))
    ]
    assert all(len(users) > 20 for users in new)
    assert len(set().union(*new)) == sum(map(len, new))
