"""Where one list stands in the trie: the host's half of the constraint."""

from collections.abc import Sequence

import numpy as np

from service.catalog.items import Catalogue
from service.catalog.trie import BoolArray, Trie


class Cursor:
    """What a list has written, and what it may write next.

    Items are rows in trie order, so the items below a node are a range of rows; whether a token is forced shows in the
    first and the last free row of that range alone.

    Args:
        catalogue: all items.
        excluded: rows that must not be written.

    Attributes:
        free: bool [num_items], rows that may still be written.
        num_free: how many there are.
        node: of the trie, the current item's codes so far.
        depth: how many codes those are.
    """

    __slots__ = ("_codes", "_trie", "depth", "free", "node", "num_free")

    def __init__(self, catalogue: Catalogue, excluded: Sequence[int]) -> None:
        self._trie = catalogue.trie
        self._codes = catalogue.codes
        self.free: BoolArray = np.ones(len(catalogue), dtype=bool)
        self.free[list(excluded)] = False
        self.num_free = int(self.free.sum())
        self.node = Trie.ROOT
        self.depth = 0

    def forced(self) -> int | None:
        """The only child that may come next, where there is just one; None where there is a choice."""
        begin, end = int(self._trie.item_begin[self.node]), int(self._trie.item_end[self.node])
        below = self.free[begin:end]
        # Most of the time the last row is free; only where it is not is it worth a copy to look backwards.
        last = end - 1 if below[-1] else end - 1 - int(below[::-1].argmax())
        first = begin + int(below.argmax())
        if self._codes[first, self.depth] != self._codes[last, self.depth]:
            return None
        return self._child_towards(first)

    def append(self, child: int) -> int | None:
        """Take an allowed child; the row of the item that this completes, or None.

        Of items that share a semantic ID the first that is free is written.
        """
        self.node = child
        self.depth += 1
        if self.depth < self._trie.num_levels:
            return None
        begin, end = int(self._trie.item_begin[child]), int(self._trie.item_end[child])
        row = begin + int(self.free[begin:end].argmax())
        self.free[row] = False
        self.num_free -= 1
        self.node = Trie.ROOT
        self.depth = 0
        return row

    def _child_towards(self, row: int) -> int:
        """The child of the current node on the path to `row`."""
        begin, end = self._trie.child_begin[self.node], self._trie.child_begin[self.node + 1]
        # Children are in the order of their rows.
        return int(begin + np.searchsorted(self._trie.item_begin[begin:end], row, side="right") - 1)
