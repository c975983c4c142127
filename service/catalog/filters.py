"""Which items a request is about: conditions on their attributes, as JSON, and the rows that meet them.

A filter is one condition, `{"attribute": "price", "op": "<=", "value": 20}`, or has others below it: all of them hold,
any of them, or none. An attribute with several values meets a condition when one of them does. An item without the
attribute meets `!=` and `not in`, and nothing else.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

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

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [part for part in (self.all, self.any, self.none) if part is not None]
        condition = (self.attribute, self.op, self.value)
        is_condition = all(part is not None for part in condition)
        if len(given) + is_condition != 1 or (given and condition != (None, None, None)):
            raise ValueError("give attribute, op and value, or one of all, any and none")
        if is_condition and isinstance(self.value, tuple) != (self.op in ("in", "not in")):
            raise ValueError("'in' and 'not in' take a list of values, the others take one")
        if isinstance(self.value, tuple) and len(self.value) > MAX_VALUES:
            raise ValueError(f"at most {MAX_VALUES} values")
        return self

    @property
    def parts(self) -> "tuple[Filter, ...]":
        """The filters below it."""
        return self.all or self.any or self.none or ()

    def size(self) -> tuple[int, int]:
        """How many conditions it has, and how deep they stand."""
        sizes = [part.size() for part in self.parts]
        return sum(count for count, _ in sizes) or 1, 1 + max((depth for _, depth in sizes), default=0)


class Filters:
    """Filters of a catalogue; those that were asked for lately are found again.

    Args:
        catalogue: of the items.
        num_kept: so many of them.
    """

    def __init__(self, catalogue: Catalogue, num_kept: int = 256) -> None:
        self._catalogue = catalogue
        self._columns = {name: catalogue.attribute(name) for name in catalogue.attribute_names}
        self._bits_of = lru_cache(num_kept)(self._compiled)

    def bits(self, wanted: Filter) -> bytes:
        """The rows that meet it, a bit for each, the first row's the lowest.

        Raises:
            RequestError: the catalogue has no such attribute, or of another kind.
        """
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
        column = self._columns.get(wanted.attribute)
        if column is None:
            there_are = ", ".join(self._columns) or "none"
            raise RequestError(
                "filter", f"items have no attribute '{wanted.attribute}'; there are: {there_are}"
            )
        op = _OPPOSITE.get(wanted.op, wanted.op)
        met_one = _meets(column, op, wanted)
        return met_one if op == wanted.op else ~met_one


def unpacked(bits: bytes, num_rows: int) -> BoolArray:
    """Whether each row's bit is set, [num_rows]."""
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=num_rows, bitorder="little").view(bool)


def _meets(column: pa.Array, op: str, wanted: Filter) -> BoolArray:
    """Whether a value of each row meets a condition that is no negation."""
    is_list = pa.types.is_list(column.type)
    values = pc.list_flatten(column) if is_list else column
    asked = list(wanted.value) if isinstance(wanted.value, tuple) else [wanted.value]
    for one in asked:
        _check_kind(str(wanted.attribute), values.type, op, one)
    if op == "in":
        met = pc.is_in(values, value_set=pa.array(asked, type=_wide(values.type)))
    else:
        met = _COMPARE[op](values, pa.scalar(asked[0], type=_wide(values.type)))
    holds: BoolArray = pc.fill_null(met, False).to_numpy(zero_copy_only=False)
    if not is_list:
        return holds
    rows = np.zeros(len(column), dtype=bool)
    rows[pc.list_parent_indices(column).to_numpy()[holds]] = True
    return rows


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
        raise RequestError("filter", f"attribute '{name}' is {holds}, and is compared with {value!r}")


def _wide(kind: pa.DataType) -> pa.DataType:
    """Of the values that a column of this kind is compared with: 1.5 may be asked of whole numbers."""
    return pa.float64() if pa.types.is_integer(kind) or pa.types.is_floating(kind) else kind
