from pathlib import Path
from typing import Any

import pytest

from service.data.item_records import attribute_types, item_table, record_id, tidy_fields
from service.errors import DatasetError


def test_fields_become_attributes() -> None:
    fields = {
        "item_id": "x",
        "title": "Cup",
        "brand": " Finch ",
        "empty": "",
        "none": None,
        "nested": {"a": 1},
        "tags": ["a", "", 3],
        "nan": float("nan"),
        "new": True,
        "categories": "Home,Cups",
    }
    assert tidy_fields(fields) == {"brand": "Finch", "tags": ["a"], "new": True, "category": ["Home", "Cups"]}


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([1, "two"], ["1", "two"]),
        (["one", ["two", "three"]], [["one"], ["two", "three"]]),
        ([True, 2], ["True", "2"]),
        ([2**70, 1], [str(2**70), "1"]),
        ([None, 1], [None, 1]),
    ],
)
def test_differing_types_meet(values: list[object], stored: list[object]) -> None:
    records = [(str(place), {"value": value}) for place, value in enumerate(values)]
    table = item_table(records, attribute_types(records))
    assert [(row or {}).get("value") for row in table["attributes"].to_pylist()] == stored


def test_no_attributes_at_all() -> None:
    table = item_table([("x", {"title": 7})], {})
    assert table["title"].to_pylist() == [""]
    assert table.column_names == ["item_id", "title", "attributes"]


def test_half_a_character_is_replaced() -> None:
    records = [("x", {"title": "Cup \ud800", "brand\udfff": "Fin\ud83dch", "tags": ["\ud800"]})]
    [row] = item_table(records, attribute_types(records)).to_pylist()
    assert row["title"] == "Cup \ufffd"
    assert row["attributes"] == {"brand\ufffd": "Fin\ufffdch", "tags": ["\ufffd"]}


@pytest.mark.parametrize(("value", "item_id"), [("a", "a"), (7, "7"), (0, "0")])
def test_ids_are_text_or_whole_numbers(value: Any, item_id: str) -> None:
    assert record_id(Path("i.jsonl"), {"id": value}, "id") == item_id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "an item has no 'id': {}"),
        ({"id": ""}, "an item has no 'id': {'id': ''}"),
        ({"id": None}, "no 'id'"),
        ({"id": True}, "'id' True is neither"),
        ({"id": 1.5}, "'id' 1.5 is neither"),
        ({"id": ["a"]}, "is neither"),
        ({"id": "a\ud800"}, r"'a\ud800' has half a character"),
    ],
)
def test_other_ids_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        record_id(Path("i.jsonl"), fields, "id")
    assert str(caught.value).startswith("i.jsonl: ")
    assert message in str(caught.value)
