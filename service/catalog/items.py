"""The catalogue: every item with its codes, title and attributes, in trie order."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.catalog.trie import Int32Array, Trie, trie_order
from service.types import AttributeValue, Item


class Catalogue:
    """Items by row. A row is an index into the table, which is sorted in trie order.

    Args:
        table: columns `item_id` (string, distinct), `codes` (list of L int32), `title` (string) and, where
            items have any, `attributes` (struct).

    Raises:
        ValueError: the columns are not those, an item ID stands twice, or the rows are not in trie order.
    """

    def __init__(self, table: pa.Table) -> None:
        missing = {"item_id", "codes", "title"} - set(table.column_names)
        if missing:
            raise ValueError(f"column '{sorted(missing)[0]}' is missing")
        if table.num_rows == 0:
            raise ValueError("there are no items")
        self._table = table.combine_chunks()
        self.item_ids: list[str] = table["item_id"].to_pylist()
        self.codes = _code_matrix(self._table["codes"])
        self.trie = Trie.build(self.codes)
        if len(self._rows) != len(self.item_ids):
            raise ValueError("an item ID stands twice")

    @classmethod
    def read(cls, path: Path) -> "Catalogue":
        """Read `items.parquet`; raises what the constructor and pyarrow raise."""
        return cls(pq.read_table(path))

    @classmethod
    def build(
        cls,
        item_ids: Sequence[str],
        codes: npt.NDArray[np.integer],
        titles: Sequence[str],
        attributes: pa.Array | None = None,
        popularity: npt.NDArray[np.integer] | None = None,
    ) -> "Catalogue":
        """Put items in trie order; `popularity` decides between items that share a semantic ID."""
        counts = np.zeros(len(item_ids), dtype=np.int64) if popularity is None else popularity
        columns: dict[str, pa.Array] = {
            "item_id": pa.array(item_ids, type=pa.string()),
            "codes": pa.array(list(codes.astype(np.int32)), type=pa.list_(pa.int32())),
            "title": pa.array(titles, type=pa.string()),
        }
        if attributes is not None:
            columns["attributes"] = attributes
        return cls(pa.table(columns).take(pa.array(trie_order(codes, counts))))

    def write(self, path: Path) -> None:
        """Write `items.parquet`."""
        pq.write_table(self._table, path)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    def row_of(self, item_id: str) -> int | None:
        """The row of an item, or None for one that does not exist."""
        return self._rows.get(item_id)

    def item(self, row: int) -> Item:
        """What callers know of the item in `row`."""
        attributes: Mapping[str, AttributeValue] = {}
        if "attributes" in self._table.column_names:
            attributes = self._table["attributes"][row].as_py() or {}
        return Item(
            item_id=self.item_ids[row],
            title=self._table["title"][row].as_py() or "",
            attributes={name: value for name, value in attributes.items() if value is not None},
        )

    @property
    def attribute_names(self) -> list[str]:
        """Of all items."""
        if "attributes" not in self._table.column_names:
            return []
        return [field.name for field in self._table.schema.field("attributes").type]

    def attribute(self, name: str) -> pa.Array:
        """The values of an attribute, by row; null where an item has none."""
        return pc.struct_field(self._table["attributes"], name).combine_chunks()

    @property
    def num_distinct_ids(self) -> int:
        """Number of distinct semantic IDs; fewer than items where some share one."""
        return int(np.count_nonzero(np.diff(self.trie.child_begin) == 0))


def _code_matrix(column: pa.ChunkedArray) -> Int32Array:
    lengths = np.unique(pc.list_value_length(column).to_numpy())
    if len(lengths) != 1 or lengths[0] < 1:
        raise ValueError("items do not all have the same number of codes")
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    codes: Int32Array = values.reshape(-1, int(lengths[0])).astype(np.int32)
    if (codes < 0).any():
        raise ValueError("a code is negative")
    return codes
