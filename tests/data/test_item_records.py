import pytest

from service.data.item_records import attribute_types, item_table, tidy_fields


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
