"""The prefix tree of all semantic IDs, as flat arrays.

Items are sorted by their codes, so that the items below a node are a contiguous range of rows. Nodes are
numbered level by level from the root, 0, so that a node's children are a contiguous range of nodes. Both
facts make every question about a batch of nodes a few array operations.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trie:
    """Every node of the tree; a leaf stands at depth `num_levels` and may hold several items.

    Attributes:
        num_levels: codes per semantic ID, L.
        code: int32 [num_nodes], the code on the edge into each node; -1 for the root.
        child_begin: int32 [num_nodes + 1], children of node v are `child_begin[v] ... child_begin[v + 1] - 1`.
        item_begin: int32 [num_nodes], first row below each node.
        item_end: int32 [num_nodes], one past the last row below each node.
    """

    num_levels: int
    code: Int32Array
    child_begin: Int32Array
    item_begin: Int32Array
    item_end: Int32Array

    ROOT = 0

    @property
    def num_nodes(self) -> int:
        """Number of nodes, the root included."""
        return len(self.code)

    @property
    def num_items(self) -> int:
        """Number of items in the tree."""
        return int(self.item_end[self.ROOT])

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, in bytes."""
        return self.code.nbytes + self.child_begin.nbytes + self.item_begin.nbytes + self.item_end.nbytes

    @classmethod
    def build(cls, codes: Int32Array) -> "Trie":
        """Build from `codes`, int32 [num_items, L], sorted by row (see `trie_order`); O(num_items * L).

        Raises:
            ValueError: there are no items, or they are not sorted.
        """
        num_items, num_levels = codes.shape
        if num_items == 0:
            raise ValueError("a trie needs at least one item")
        # starts[l]: the rows at which a new prefix of length l begins, one per node of that depth.
        starts = [np.zeros(1, dtype=np.int32)]
        differs = np.zeros(num_items, dtype=bool)
        differs[0] = True
        for level in range(num_levels):
            step = np.diff(codes[:, level])
            if np.any((step < 0) & ~differs[1:]):
                raise ValueError("items are not in trie order")
            differs[1:] |= step != 0
            starts.append(np.flatnonzero(differs).astype(np.int32))

        offsets = np.cumsum([0] + [len(level_starts) for level_starts in starts])
        child_begin = np.full(offsets[-1] + 1, offsets[-1], dtype=np.int32)
        for depth in range(num_levels):
            first_child = np.searchsorted(starts[depth + 1], starts[depth])
            child_begin[offsets[depth] : offsets[depth + 1]] = offsets[depth + 1] + first_child
        ends = [np.append(level_starts[1:], num_items).astype(np.int32) for level_starts in starts]
        edge = [np.full(1, -1, dtype=np.int32)]
        edge += [codes[level_starts, depth] for depth, level_starts in enumerate(starts[1:])]
        return cls(
            num_levels=num_levels,
            code=np.concatenate(edge).astype(np.int32),
            child_begin=child_begin,
            item_begin=np.concatenate(starts),
            item_end=np.concatenate(ends),
        )


def trie_order(codes: npt.NDArray[np.integer], popularity: npt.NDArray[np.integer]) -> Int64Array:
    """The permutation that puts items in trie order: by codes, then most popular first, then as given.

    Args:
        codes: [num_items, L].
        popularity: [num_items]; among items that share a semantic ID the list writes the larger first.
    """
    keys = [-popularity] + [codes[:, level] for level in reversed(range(codes.shape[1]))]
    return np.lexsort(keys).astype(np.int64)
