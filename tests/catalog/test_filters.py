"""Filters over items of every kind of attribute, beside what a reader of each item would say."""

import operator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.catalog.filters import Filter, Filters, unpacked
from service.catalog.items import Catalogue
from service.errors import RequestError

COMPARE = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, wanted: value in wanted,
}
OPPOSITE = {"!=": "==", "not in": "in"}

PRICES, STOCKS, BRANDS, TAGS = [1.5, 2.0, 9.75], [0, 1, 2, 7], ["Ann", "Bob", "Üte"], ["a", "b", "c"]
ITEMS = [
    {
        "price": None if n % 7 == 0 else PRICES[n % 3],
        "stock": None if n % 11 == 0 else STOCKS[n % 4],
        "code": None if n % 9 == 0 else [2**53 + 1, 2**53, 2**63 - 1, -(2**63), 7][n % 5],
        "brand": None if n % 5 == 0 else BRANDS[n % 3],
        "used": None if n % 6 == 0 else bool(n % 2),
        "tags": None if n % 4 == 0 else TAGS[: n % 4],
    }
    for n in range(60)
]


def catalogue_of(items: list[dict[str, Any]]) -> Catalogue:
    codes = np.stack([np.arange(len(items)) // 8, np.arange(len(items)) % 8], axis=1)
    names = [str(n) for n in range(len(items))]
    return Catalogue.build(names, codes, names, pa.array(items))


FILTERS = Filters(catalogue_of(ITEMS))

# Beyond what a column can hold, and what a float can tell apart.
LARGE = [
    2**53 + 1,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**70,
    10**400,
    1e300,
    -1e19,
    float(2**53),
]
numbers = st.sampled_from(["price", "stock", "code"]), st.sampled_from([*PRICES, *STOCKS, 1.99, -3, *LARGE])
texts = st.sampled_from(["brand", "tags"]), st.sampled_from([*BRANDS, *TAGS, "", "B"])
flags = st.just("used"), st.booleans()


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from([numbers, texts, flags]))
    ops = ["==", "!=", "in", "not in"] + ([] if kind is flags else ["<", "<=", ">", ">="])
    op = draw(st.sampled_from(ops))
    value = draw(st.lists(kind[1], max_size=3)) if op.endswith("in") else draw(kind[1])
    return {"attribute": draw(kind[0]), "op": op, "value": value}


wanted = st.recursive(
    conditions(),
    lambda below: st.builds(
        lambda name, parts: {name: parts},
        st.sampled_from(["all", "any", "none"]),
        st.lists(below, min_size=1, max_size=3),
    ),
    max_leaves=8,
)


def meets(item: dict[str, Any], asked: dict[str, Any]) -> bool:
    for name, of_parts in (("all", all), ("any", any), ("none", lambda parts: not any(parts))):
        if name in asked:
            return of_parts([meets(item, part) for part in asked[name]])
    op, found = asked["op"], item[asked["attribute"]]
    if op in OPPOSITE:
        return not meets(item, {**asked, "op": OPPOSITE[op]})
    values = found if isinstance(found, list) else [] if found is None else [found]
    return any(COMPARE[op](value, asked["value"]) for value in values)


@given(asked=wanted)
@settings(max_examples=400, deadline=None)
def test_the_rows_that_meet_a_filter(asked: dict[str, Any]) -> None:
    bits = FILTERS.bits(Filter.model_validate(asked))
    assert unpacked(bits, len(ITEMS)).tolist() == [meets(item, asked) for item in ITEMS]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"attribute": "colour", "op": "==", "value": "red"},
            "no attribute 'colour'; there are: price, stock, code",
        ),
        (
            {"attribute": "price", "op": "<", "value": "cheap"},
            "'price' is a number, and is compared with 'cheap'",
        ),
        (
            {"attribute": "stock", "op": "in", "value": [1, True]},
            "'stock' is a number, and is compared with True",
        ),
        ({"attribute": "brand", "op": "==", "value": 3}, "'brand' is text, and is compared with 3"),
        ({"attribute": "tags", "op": "in", "value": ["a", 1]}, "'tags' is text, and is compared with 1"),
        (
            {"attribute": "used", "op": "<", "value": True},
            "'used' is true or false, which '<' does not compare",
        ),
        ({"attribute": "used", "op": "==", "value": 1}, "'used' is true or false, and is compared with 1"),
    ],
)
def test_what_the_catalogue_cannot_answer(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        FILTERS.bits(Filter.model_validate(asked))
    assert caught.value.field == "filter"


def test_items_without_attributes() -> None:
    plain = Filters(Catalogue.build(["a"], np.array([[0]]), ["A"]))
    with pytest.raises(RequestError, match="there are: none"):
        plain.bits(Filter(attribute="price", op="<", value=3))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"all": []},
        {"all": [], "any": []},
        {"attribute": "price", "op": "<"},
        {"attribute": "price", "op": "<", "value": 1, "all": [{"attribute": "price", "op": "<", "value": 1}]},
        {"attribute": "price", "value": 1, "none": [{"attribute": "price", "op": "<", "value": 1}]},
        {"attribute": "price", "op": "~", "value": 1},
        {"attribute": "price", "op": "<", "value": [1]},
        {"attribute": "price", "op": "in", "value": 1},
        {"attribute": "price", "op": "<", "value": float("nan")},
        {"attribute": "price", "op": "<", "value": {"a": 1}},
        {"price": 1},
    ],
)
def test_what_is_no_filter(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Filter.model_validate(asked)


def test_a_filter_that_was_asked_for_lately_is_not_compiled_again() -> None:
    asked = Filter(attribute="price", op="<=", value=2)
    filters = Filters(catalogue_of(ITEMS), num_kept=1)
    assert filters.bits(asked) is filters.bits(Filter.model_validate(asked.model_dump()))


def test_its_size() -> None:
    one, two = ({"attribute": "price", "op": op, "value": value} for op, value in (("<", 1), ("in", [1, 2])))
    for asked, size in ((one, (1, 1, 1)), ({"all": [one, {"none": [one, {"any": [two]}]}]}, (3, 4, 4))):
        wanted = Filter.model_validate(asked)
        assert (len(list(wanted.conditions())), wanted.depth, wanted.num_values) == size


def test_attributes_of_other_kinds_are_not_compared() -> None:
    codes = np.array([[0], [1], [2]])
    columns = {
        "when": pa.array([1, 2, None], pa.timestamp("s")),
        "none": pa.nulls(3),
        "numbers": pa.array([[1], [], None]),
        "words": pa.array([["a"], None, ["b", "a"]]),
    }
    hidden = pa.StructArray.from_arrays(
        list(columns.values()), names=list(columns), mask=pa.array([True, False, False])
    )
    filters = Filters(Catalogue.build(["a", "b", "c"], codes, ["A", "B", "C"], hidden))
    for name in ("when", "none", "numbers"):
        with pytest.raises(RequestError, match=f"'{name}' is of a kind that no filter compares"):
            filters.bits(Filter(attribute=name, op="==", value=1))
    found = filters.bits(Filter(attribute="words", op="==", value="a"))
    assert unpacked(found, 3).tolist() == [False, False, True]
