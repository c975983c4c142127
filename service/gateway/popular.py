"""The fallback list: for users without a history, and while the history store is down."""

from collections.abc import Sequence

import numpy as np

from service.catalog.trie import BoolArray


class PopularList:
    """All rows of a catalogue: first the popular ones, most popular first, then the others by row."""

    def __init__(self, popular: Sequence[int]) -> None:
        self._popular = popular

    def first(self, count: int, allowed: BoolArray) -> list[int]:
        """The first `count` of the rows that are allowed, [num_items]; fewer where there are no more."""
        rows: list[int] = []
        left = allowed.copy()
        for row in self._popular:
            if len(rows) == count:
                return rows
            if left[row]:
                left[row] = False
                rows.append(row)
        others: list[int] = np.flatnonzero(left)[: count - len(rows)].tolist()
        return rows + others
