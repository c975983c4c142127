"""Item records of any fields as a table of titles and attributes.

A record is a mapping from field to value. Strings become plain text, empty ones count as missing. An
attribute has one type in the whole table: string, int64, double, bool or list<string>; where records differ,
the type that holds them all. `categories` becomes `category`, a list; a string of them is split at commas.
"""

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from service.data.text import plain_text, whole
from service.errors import DatasetError
from service.types import AttributeValue

Record = tuple[str, Mapping[str, Any]]
"""An item ID and the item's fields."""

CHUNK = 10_000
NOT_ATTRIBUTES = frozenset({"item_id", "title", "codes"})
_LIST = pa.list_(pa.string())


def record_id(file: Path, fields: Mapping[str, Any], column: str) -> str:
    """The ID in an item's fields.

    Raises:
        DatasetError: there is none, or it is neither text nor a whole number; the message names `file`.
    """
    value = fields.get(column)
    if value is None or value == "":
        raise DatasetError(f"{file}: an item has no '{column}': {reprlib.repr(dict(fields))}")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DatasetError(f"{file}: '{column}' {reprlib.repr(value)} is neither text nor a whole number")
    item_id = str(value)
    if whole(item_id) != item_id:
        raise DatasetError(f"{file}: '{column}' {item_id!r} has half a character (a lone surrogate)")
    return item_id


def tidy_fields(fields: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """The attributes among an item's fields; nested values other than lists of strings are left out."""
    tidy: dict[str, AttributeValue] = {}
    for name, value in fields.items():
        if name == "categories":
            parts = value.split(",") if isinstance(value, str) else value
            name, value = "category", parts
        clean = _tidy(value)
        if name not in NOT_ATTRIBUTES and clean is not None:
            tidy[whole(name)] = clean
    return tidy


def _tidy(value: Any) -> AttributeValue:
    if isinstance(value, str):
        return plain_text(value) or None
    if isinstance(value, list):
        return [text for part in value if isinstance(part, str) and (text := plain_text(part))] or None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float) else None


def attribute_types(records: Iterable[Record]) -> dict[str, pa.DataType]:
    """The type of each attribute, by the order of first appearance."""
    types: dict[str, pa.DataType] = {}
    for _, fields in records:
        for name, value in tidy_fields(fields).items():
            own = _type_of(value)
            known = types.setdefault(name, own)
            if own != known:
                types[name] = _common(known, own)
    return types


def _type_of(value: AttributeValue) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if abs(value) < 2**63 else pa.string()
    if isinstance(value, float):
        return pa.float64()
    return _LIST if isinstance(value, list) else pa.string()


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if _LIST in (one, other):
        return _LIST
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _as_type(value: AttributeValue, wanted: pa.DataType) -> AttributeValue:
    if value is None:
        return None
    if wanted == _LIST:
        return value if isinstance(value, list) else [str(value)]
    if wanted == pa.string():
        return str(value)
    return float(value) if wanted == pa.float64() and isinstance(value, int) else value


def item_table(records: Iterable[Record], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Columns `item_id`, `title` and `attributes` with fields of `types`, in the order of `records`."""
    struct = pa.struct(list(types.items()))
    schema = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("attributes", struct)])
    return pa.Table.from_batches(_batches(iter(records), schema), schema=schema)


def _batches(records: Iterator[Record], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    types = {field.name: field.type for field in schema.field("attributes").type}
    while chunk := list(islice(records, CHUNK)):
        titles = [fields.get("title") for _, fields in chunk]
        rows = [tidy_fields(fields) for _, fields in chunk]
        columns = [
            pa.array([item_id for item_id, _ in chunk], pa.string()),
            pa.array([plain_text(title) if isinstance(title, str) else "" for title in titles], pa.string()),
            pa.array(
                [{name: _as_type(row.get(name), own) for name, own in types.items()} for row in rows],
                schema.field("attributes").type,
            ),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def distinct(table: pa.Table, file: Path) -> pa.Table:
    """`table` itself.

    Raises:
        DatasetError: an item ID stands twice.
    """
    if pc.count_distinct(table["item_id"]).as_py() != len(table):
        twice = next(entry for entry in table["item_id"].value_counts() if entry["counts"].as_py() > 1)
        raise DatasetError(f"{file}: item '{twice['values']}' stands twice")
    return table
