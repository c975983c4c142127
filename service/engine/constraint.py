"""What may be written next: the trie's children that still lead to an item which is neither excluded nor written."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.catalog.trie import Int64Array, Trie


class BatchConstraint:
    """The state of a batch of lists that all fill the same slot.

    A list's blocked rows are kept as keys `list * num_items + row` in one sorted array, so that one binary search
    counts the blocked items below any set of nodes of any lists.

    Args:
        trie: of all real items.
        excluded: for each list, rows that must not be written.

    Attributes:
        depth: codes of the current item that are written, the same for all lists.
    """

    def __init__(self, trie: Trie, excluded: Sequence[Sequence[int]]) -> None:
        self._trie = trie
        self._num_items = trie.num_items
        keys = [np.asarray(rows, dtype=np.int64) + i * self._num_items for i, rows in enumerate(excluded)]
        self._blocked = np.unique(np.concatenate(keys))
        self._nodes = np.full(len(excluded), Trie.ROOT, dtype=np.int64)
        self.depth = 0

    def __len__(self) -> int:
        """Number of lists."""
        return len(self._nodes)

    def num_left(self) -> Int64Array:
        """Items that each list may still write below its current prefix, [batch]."""
        return self._num_allowed(self._nodes, np.arange(len(self)))

    def allowed(self) -> tuple[Int64Array, Int64Array]:
        """The nodes that may come next, list by list and by code within each, [total], and whose they are, [total]."""
        children, owner = self._trie.children(self._nodes)
        keep = self._num_allowed(children, owner) > 0
        return children[keep], owner[keep]

    def append(self, nodes: Int64Array) -> Int64Array | None:
        """Each list takes one allowed node, [batch]; when that completes items, their rows, [batch].

        Among items that share a semantic ID the first that is not blocked is written. A completed item is blocked,
        and its list stands at the root again.
        """
        self._nodes = nodes
        self.depth += 1
        if self.depth < self._trie.num_levels:
            return None
        lists = np.arange(len(self))
        rows = self._first_allowed(nodes, lists)
        self._blocked = np.sort(np.concatenate([self._blocked, lists * self._num_items + rows]))
        self._nodes = np.full(len(self), Trie.ROOT, dtype=np.int64)
        self.depth = 0
        return rows

    def select(self, keep: Int64Array) -> None:
        """Go on with these lists alone, in rising order, [num_kept]."""
        owner, row = np.divmod(self._blocked, self._num_items)
        place = np.searchsorted(keep, owner)
        kept = (place < len(keep)) & (keep[np.minimum(place, len(keep) - 1)] == owner)
        self._blocked = place[kept] * self._num_items + row[kept]
        self._nodes = self._nodes[keep]

    def _num_allowed(self, nodes: npt.NDArray[np.int64], lists: npt.NDArray[np.int64]) -> Int64Array:
        begin, end = (
            self._trie.item_begin[nodes].astype(np.int64),
            self._trie.item_end[nodes].astype(np.int64),
        )
        base = lists * self._num_items
        taken = np.searchsorted(self._blocked, base + end) - np.searchsorted(self._blocked, base + begin)
        return end - begin - taken

    def _first_allowed(self, leaves: Int64Array, lists: Int64Array) -> Int64Array:
        """The first row of each leaf that its list has not blocked; a few steps, as few items share an ID."""
        rows = self._trie.item_begin[leaves].astype(np.int64)
        while True:
            key = lists * self._num_items + rows
            place = np.minimum(np.searchsorted(self._blocked, key), max(len(self._blocked) - 1, 0))
            blocked = self._blocked[place] == key if len(self._blocked) else np.zeros(len(rows), dtype=bool)
            if not blocked.any():
                return rows
            rows = rows + blocked
