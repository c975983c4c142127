from typing import Any

import pytest
from pydantic import ValidationError

from service.gateway.query import EventBatch, NewEvent, RecommendQuery


def test_defaults() -> None:
    query = RecommendQuery.model_validate({"user_id": "ann"})
    assert query.num_items == 10
    assert query.history is None
    assert query.exclude_item_ids == ()
    assert query.exclude_seen
    assert query.deadline_ms is None
    assert (query.temperature, query.top_p, query.seed) == (0.0, 1.0, None)
    assert query.decoding is None


def test_the_ends_of_every_range() -> None:
    for fields in (
        {"num_items": 1, "temperature": 2, "top_p": 1, "seed": 0, "deadline_ms": 1},
        {"num_items": 50, "temperature": 0.01, "top_p": 0.001, "seed": 2**63 - 1, "history": []},
    ):
        RecommendQuery.model_validate({"user_id": "x" * 256, **fields})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("user_id", "x" * 257),
        ("user_id", 7),
        ("user_id", "\ud800"),
        ("num_items", 0),
        ("num_items", 51),
        ("num_items", "10"),
        ("num_items", True),
        ("num_items", 1.5),
        ("history", "item-1"),
        ("history", [""]),
        ("history", [3]),
        ("exclude_item_ids", None),
        ("exclude_seen", "yes"),
        ("deadline_ms", 0),
        ("decoding", "greedy"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", 1e-39),
        ("temperature", 0.0099),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1e-46),
        ("top_p", 0.00099),
        ("top_p", 1.1),
        ("priority", 11),
        ("priority", 1.5),
        ("seed", -1),
        ("seed", 2**63),
        ("k", 5),
        ("filter", {"attribute": "price", "op": "in", "value": [1] * 1001}),
        ("filter", {"attribute": "price", "op": "<", "value": float("inf")}),
        ("filter", {"attribute": "price", "op": "<", "value": None}),
        ("promotions", [{"item_id": "a", "rank": 0}]),
        ("promotions", [{"item_id": "a", "rank": 51}]),
        ("promotions", [{"item_id": "a", "rank": "1"}]),
        ("promotions", [{"item_id": "a", "rank": True}]),
        ("promotions", [{"item_id": "a"}]),
        ("promotions", [{"item_id": "", "rank": 1}]),
        ("promotions", [{"item_id": "a", "rank": 11}]),
        ("promotions", [{"item_id": "a", "rank": 1}, {"item_id": "b", "rank": 1}]),
        ("promotions", [{"item_id": "a", "rank": 1}, {"item_id": "a", "rank": 2}]),
        ("promotions", None),
        ("after_recommendation_id", ""),
        ("after_recommendation_id", "x" * 257),
        ("validate_only", 1),
    ],
)
def test_what_is_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        RecommendQuery.model_validate({"user_id": "ann", field: value})
    assert [error["loc"][0] for error in raised.value.errors()] == [field]


def test_as_many_promotions_as_there_may_be() -> None:
    many = [{"item_id": f"item-{number}", "rank": 50 - number} for number in range(11)]
    query = {"user_id": "ann", "num_items": 50}
    assert len(RecommendQuery.model_validate({**query, "promotions": many[:10]}).promotions) == 10
    with pytest.raises(ValidationError, match="at most 10 items"):
        RecommendQuery.model_validate({**query, "promotions": many})


def test_a_length_that_is_wrong_is_not_the_promotions_fault() -> None:
    with pytest.raises(ValidationError) as raised:
        RecommendQuery(user_id="ann", num_items=0, promotions=[{"item_id": "a", "rank": 50}])
    assert [error["loc"] for error in raised.value.errors()] == [("num_items",)]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0.0),
        (1_760_000_000.25, 1_760_000_000.25),
        ("2025-10-09T08:53:20Z", 1_760_000_000.0),
        ("2025-10-09T10:53:20.5+02:00", 1_760_000_000.5),
        (None, None),
    ],
)
def test_timestamps_in_seconds_or_iso_8601(given: Any, seconds: float | None) -> None:
    assert NewEvent(user_id="ann", item_id="a", timestamp=given).timestamp == seconds


@pytest.mark.parametrize(
    "given",
    ["yesterday", "2025-10-09T08:53:20", "2025-10-09", "", -1, 1_760_000_000_000, True, float("inf"), [1]],
)
def test_other_timestamps_are_refused(given: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        NewEvent(user_id="ann", item_id="a", timestamp=given)
    assert [error["loc"] for error in raised.value.errors()] == [("timestamp",)]


def test_a_batch_holds_at_least_one_event() -> None:
    with pytest.raises(ValidationError):
        EventBatch.model_validate({"events": []})
