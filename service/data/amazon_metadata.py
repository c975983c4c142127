"""Product metadata of the public Amazon review datasets, in all three editions."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from service.data.item_records import Record, item_table
from service.data.reading import json_lines

TYPES = {
    "brand": pa.string(),
    "category": pa.list_(pa.string()),
    "price": pa.float64(),
    "description": pa.string(),
}

_PRICE = re.compile(r"\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)")


def read_metadata(files: list[Path], item_ids: pa.Array) -> pa.Table:
    """Columns `item_id`, `title` and `attributes` of those `item_ids` that the files have; the first of each.

    Raises:
        DatasetError: a file is torn, or a line is neither JSON nor a Python literal.
    """
    return item_table(_records(files, set(item_ids.to_pylist())), TYPES)


def _records(files: list[Path], wanted: set[str]) -> Iterator[Record]:
    for file in files:
        for product in json_lines(file, _parse):
            item_id = product.get("parent_asin") or product.get("asin")
            if isinstance(item_id, str) and item_id in wanted:
                wanted.remove(item_id)
                yield item_id, _fields(product)


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        # The edition of 2014 wrote Python literals.
        try:
            return ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise error from None


def _fields(product: dict[str, Any]) -> dict[str, Any]:
    description = product.get("description")
    if isinstance(description, list):
        description = " ".join(part for part in description if isinstance(part, str))
    return {
        "title": product.get("title"),
        "brand": _text(product.get("brand")) or _text(product.get("store")),
        "category": _category(product),
        "price": _price(product.get("price")),
        "description": _text(description),
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _category(product: dict[str, Any]) -> list[str] | None:
    """The path in the tree; of several, as in 2014, the first."""
    path = product.get("category") or product.get("categories")
    if isinstance(path, list) and path and isinstance(path[0], list):
        path = path[0]
    if isinstance(path, str):
        return [path]
    return path if isinstance(path, list) else None


def _price(value: Any) -> float | None:
    """`12.99`, `"$1,012.99"` or the lower end of `"$5.00 - $9.00"`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _PRICE.match(value.strip()) if isinstance(value, str) else None
    return float(match[1].replace(",", "")) if match else None
