"""The fallback list: for users without a history, and while the history store is down."""

from collections.abc import Sequence, Set
from itertools import chain


class PopularList:
    """All rows of a catalogue: first the popular ones, most popular first, then the others by row."""

    def __init__(self, popular: Sequence[int], num_items: int) -> None:
        self._popular = popular
        self._num_items = num_items

    def first(self, count: int, excluded: Set[int]) -> list[int]:
        """The first `count` rows that are not excluded; fewer where there are no more."""
        rows: list[int] = []
        passed = set(excluded)
        for row in chain(self._popular, range(self._num_items)):
            if len(rows) == count:
                break
            if row not in passed:
                passed.add(row)
                rows.append(row)
        return rows
