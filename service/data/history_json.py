"""Histories as one JSON object, from user to item numbers."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from service.data.dataset import BATCH_ROWS, INTERACTION_SCHEMA
from service.data.reading import json_object
from service.errors import DatasetError


class Histories(Iterable[pa.RecordBatch]):
    """Batches of interactions, with the position in the user's list as timestamp.

    Args:
        file: `{user: [item number, ...]}`, oldest first.
        semantic_ids: the file that lists the items; named in messages.
        item_ids: string [num_items], all known items.

    Iterating raises DatasetError: `file` is torn, a user stands twice, or a list holds something else than
    known items.

    Attributes:
        num_empty_users: filled while iterating.
    """

    def __init__(self, file: Path, semantic_ids: Path, item_ids: pa.Array) -> None:
        self.num_empty_users = 0
        self._file = file
        self._semantic_ids = semantic_ids
        self._item_ids = item_ids
        self._row_of = {item_id: row for row, item_id in enumerate(item_ids.to_pylist())}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        seen: set[str] = set()
        users: list[str] = []
        rows: list[int] = []
        lengths: list[int] = []
        for user, items in json_object(self._file):
            if user in seen:
                raise DatasetError(f"{self._file}: user '{user}' stands twice")
            seen.add(user)
            own = self._rows(user, items)
            if not own:
                self.num_empty_users += 1
                continue
            users.append(user)
            lengths.append(len(own))
            rows += own
            if len(rows) >= BATCH_ROWS:
                yield self._batch(users, lengths, rows)
                users, rows, lengths = [], [], []
        if rows:
            yield self._batch(users, lengths, rows)

    def _rows(self, user: str, items: Any) -> list[int]:
        if not isinstance(items, list):
            raise DatasetError(f"{self._file}: user '{user}': not a list of item numbers")
        rows = []
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int | str):
                raise DatasetError(f"{self._file}: user '{user}': {item!r} is not an item number")
            row = self._row_of.get(str(item))
            if row is None:
                unknown = f"item '{item}' has no semantic ID in {self._semantic_ids.name}"
                raise DatasetError(f"{self._file}: user '{user}': {unknown}")
            rows.append(row)
        return rows

    def _batch(self, users: list[str], lengths: list[int], rows: list[int]) -> pa.RecordBatch:
        ends = np.cumsum(lengths)
        position = np.arange(len(rows)) - np.repeat(ends - lengths, lengths)
        owner = np.repeat(np.arange(len(users)), lengths)
        columns = [
            pa.array(users, pa.string()).take(pa.array(owner)),
            self._item_ids.take(pa.array(rows, pa.int32())),
            pa.array(position, pa.float64()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=INTERACTION_SCHEMA)
