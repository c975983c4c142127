"""Which items a request is about: conditions on their attributes, as JSON, and the rows that meet them.

A filter is one condition, `{"attribute": "price", "op": "<=", "value": 20}`, or has others below it: all of them hold,
any of them, or none. An attribute with several values meets a condition when one of them does. An item without the
attribute meets `!=` and `not in`, and nothing else.
"""

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.catalog.items import Catalogue
from service.catalog.trie import BoolArray
from service.errors import RequestError

MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES = 64, 8, 1_000

Scalar = bool | int | float | str
Op = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_OPPOSITE: dict[str, Op] = {"!=": "==", "not in": "in"}
_LEAST, _MOST = -(2**63), 2**63 - 1


class Filter(BaseModel):
    """One condition (`attribute`, `op`, `value`), or one of `all`, `any` and `none` of several filters."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {
                    "all": [
                        {"attribute": "category", "op": "in", "value": ["pens", "paper"]},
                        {"attribute": "price", "op": "<=", "value": 20},
                    ]
                }
            ]
        },
    )

    all: "tuple[Filter, ...] | None" = Field(None, min_length=1, description="Every one of these holds.")
    any: "tuple[Filter, ...] | None" = Field(None, min_length=1, description="At least one of these holds.")
    none: "tuple[Filter, ...] | None" = Field(None, min_length=1, description="Not one of these holds.")
    attribute: str | None = Field(None, min_length=1, max_length=256, description="An attribute of items.")
    op: Op | None = Field(None, description="How its value is compared; `in` and `not in` take several.")
    value: Scalar | tuple[Scalar, ...] | None = Field(None, description="With what.")

    @field_validator("value", mode="before")
    @classmethod
    def _is_plain(cls, value: Any) -> Any:
        for one in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(one, bool | int | float | str) or (
                isinstance(one, float) and not math.isfinite(one)
            ):
                raise ValueError("give a number, text, true or false, or a list of these")
        return value

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [part for part in (self.all, self.any, self.none) if part is not None]
        condition = (self.attribute, self.op, self.value)
        is_condition = all(part is not None for part in condition)
        if len(given) + is_condition != 1 or (given and condition != (None, None, None)):
            raise ValueError("give attribute, op and value, or one of all, any and none")
        if is_condition and isinstance(self.value, tuple) != (self.op in ("in", "not in")):
            raise ValueError("'in' and 'not in' take a list of values, the others take one")
        return self

    @property
    def parts(self) -> "tuple[Filter, ...]":
        """The filters below it."""
        return self.all or self.any or self.none or ()

    @property
    def depth(self) -> int:
        """How deep its conditions stand, from 1."""
        return 1 + max((part.depth for part in self.parts), default=0)

    def conditions(self) -> "Iterator[Filter]":
        """All that have a value."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.conditions()

    @property
    def num_values(self) -> int:
        """Of all its conditions."""
        return sum(len(one.value) if isinstance(one.value, tuple) else 1 for one in self.conditions())


class Filters:
    """Filters of a catalogue; those that were asked for lately are found again.

    Args:
        catalogue: of the items.
        num_kept: so many of them.
    """

    def __init__(self, catalogue: Catalogue, num_kept: int = 256) -> None:
        self._columns = {name: _tidy(catalogue.attribute(name)) for name in catalogue.attribute_names}
        self._bits_of = lru_cache(num_kept)(self._compiled)

    def bits(self, wanted: Filter) -> bytes:
        """The rows that meet it, a bit for each, the first row's the lowest.

        Raises:
            RequestError: the catalogue has no such attribute, or of another kind.
        """
        # As text, for 1, 1.0 and true are the same key and not the same value.
        return self._bits_of(wanted.model_dump_json(exclude_none=True))

    def _compiled(self, wanted: str) -> bytes:
        met = self._met(Filter.model_validate_json(wanted))
        return np.packbits(met, bitorder="little").tobytes()

    def _met(self, wanted: Filter) -> BoolArray:
        if wanted.parts:
            met = [self._met(part) for part in wanted.parts]
            if wanted.all:
                every: BoolArray = np.logical_and.reduce(met)
                return every
            some: BoolArray = np.logical_or.reduce(met)
            return ~some if wanted.none else some
        assert wanted.attribute is not None
        assert wanted.op is not None
        if wanted.attribute not in self._columns:
            there_are = ", ".join(self._columns) or "none"
            asked = reprlib.repr(wanted.attribute)
            raise RequestError("filter", f"items have no attribute {asked}; there are: {there_are}")
        column = self._columns[wanted.attribute]
        if column is None:
            raise RequestError(
                "filter", f"attribute '{wanted.attribute}' is of a kind that no filter compares"
            )
        op = _OPPOSITE.get(wanted.op, wanted.op)
        met_one = _meets(column, op, wanted)
        return met_one if op == wanted.op else ~met_one


def is_set(bits: bytes, row: int) -> bool:
    """Whether a row's bit is."""
    return bool(bits[row // 8] >> row % 8 & 1)


def unpacked(bits: bytes, num_rows: int) -> BoolArray:
    """Whether each row's bit is set, [num_rows]."""
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=num_rows, bitorder="little").view(bool)


def _tidy(column: pa.Array) -> pa.Array | None:
    """A column as filters read it: whole numbers as int64, nothing behind a null; None for one of another kind."""
    is_list = pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    if pa.types.is_integer(kind) and not is_list:
        return column.cast(pa.int64())
    if not (pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)):
        return None
    return column.take(pa.array(np.arange(len(column)))) if is_list else column


def _meets(column: pa.Array, op: str, wanted: Filter) -> BoolArray:
    """Whether a value of each row meets a condition that is no negation."""
    is_list = pa.types.is_list(column.type)
    values = pc.list_flatten(column) if is_list else column
    asked = list(wanted.value) if isinstance(wanted.value, tuple) else [wanted.value]
    for one in asked:
        _check_kind(str(wanted.attribute), values.type, op, one)
    holds: BoolArray = pc.fill_null(_compared(values, op, asked), False).to_numpy(zero_copy_only=False)
    if not is_list:
        return holds
    rows = np.zeros(len(column), dtype=bool)
    rows[pc.list_parent_indices(column).to_numpy()[holds]] = True
    return rows


def _compared(values: pa.Array, op: str, asked: Sequence[Any]) -> pa.Array:
    """Whether each value meets `op` with what is asked, of its kind; one thing, but for `in`."""
    if pa.types.is_floating(values.type):
        asked = [_as_float(one) for one in asked]
    elif pa.types.is_integer(values.type):
        if op == "in":
            asked = [int(one) for one in asked if _LEAST <= one <= _MOST and one == int(one)]
        else:
            op, asked = _on_whole_numbers(op, asked[0])
    if op == "in":
        return pc.is_in(values, value_set=pa.array(asked, type=values.type))
    return _COMPARE[op](values, pa.scalar(asked[0], type=values.type))


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _on_whole_numbers(op: str, value: float) -> tuple[str, list[int]]:
    """The same condition with a whole number that a column of them can hold; `in` nothing where none meets it."""
    if op in ("<", "<="):
        highest = math.ceil(value) - 1 if op == "<" else math.floor(value)
        return ("<=", [min(highest, _MOST)]) if highest >= _LEAST else ("in", [])
    if op in (">", ">="):
        lowest = math.floor(value) + 1 if op == ">" else math.ceil(value)
        return (">=", [max(lowest, _LEAST)]) if lowest <= _MOST else ("in", [])
    whole = math.floor(value)
    return ("==", [whole]) if whole == value and _LEAST <= whole <= _MOST else ("in", [])


def _check_kind(name: str, kind: pa.DataType, op: str, value: Any) -> None:
    """Raise a `RequestError` unless values of a kind can be compared with this one."""
    if pa.types.is_boolean(kind):
        fits, holds = isinstance(value, bool), "true or false"
        if op not in ("==", "in"):
            raise RequestError(
                "filter", f"attribute '{name}' is true or false, which '{op}' does not compare"
            )
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        fits, holds = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    else:
        fits, holds = isinstance(value, str), "text"
    if not fits:
        raise RequestError(
            "filter", f"attribute '{name}' is {holds}, and is compared with {reprlib.repr(value)}"
        )
