"""What may be written next, asked for many places of many lists at once: the device's half of the constraint.

The children of the trie that still lead to an item which is neither excluded, nor written, nor written on the way to
the place that asks. One rule masks draft, tree and target.
"""

from dataclasses import dataclass

import numpy as np
import torch

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array, Trie

NOT_ALLOWED = -1e30  # finite, so that a row of nothing else makes no NaN
ROOT_NODE = Trie.ROOT
DEAD = -1  # the node of a token that no item has here


class TrieIndex:
    """The trie as tensors.

    Attributes:
        num_levels: codes per item, L.
        num_codes: the most codes of any level, C.
        codes: int64 [num_items, L].
        item_tokens: int64 [num_items, L + 1], codes' tokens and the separator.
        path: int64 [num_items, L + 1], the nodes from the root to each item's leaf.
        node_begin, node_end: int64 [num_nodes], the rows below each node.
        node_code: int64 [num_nodes], the code on the edge into each node.
        node_depth: int64 [num_nodes].
        child_begin: int64 [num_nodes + 1], the first child of each node; its others follow, up to the next node's.
        most_children: of any node.
        token_of: int64 [L, C], 0 where a level has no such code.
    """

    def __init__(self, catalogue: Catalogue, layout: TokenLayout, device: torch.device) -> None:
        trie = catalogue.trie

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array.astype(np.int64), device=device)

        self.num_levels = trie.num_levels
        self.num_codes = layout.table.shape[1]
        self.codes = tensor(catalogue.codes)
        self.item_tokens = tensor(layout.item_tokens(catalogue.codes))
        self.path = tensor(paths(catalogue))
        self.node_begin, self.node_end = tensor(trie.item_begin), tensor(trie.item_end)
        self.node_code = tensor(np.maximum(trie.code, 0))
        self.node_depth = torch.zeros_like(self.node_begin)
        for depth in range(1, self.num_levels + 1):
            self.node_depth[self.path[:, depth]] = depth
        self.token_of = tensor(np.maximum(layout.table, 0))
        self.child_begin = tensor(trie.child_begin)
        self.most_children = int(np.diff(trie.child_begin).max())
        self._child = torch.arange(self.most_children, device=device)

    def children(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Children of nodes [...], in the order of their codes: their numbers and whether they exist, [..., most]."""
        begin, end = self.child_begin[nodes], self.child_begin[nodes + 1]
        children = begin.unsqueeze(-1) + self._child
        exist = children < end.unsqueeze(-1)
        return torch.where(exist, children, 0), exist


def paths(catalogue: Catalogue) -> Int64Array:
    """The nodes from the root to each item's leaf, [num_items, L + 1]."""
    trie = catalogue.trie
    nodes = np.zeros((len(catalogue), trie.num_levels + 1), dtype=np.int64)
    first = 1  # nodes are numbered level by level, and within a level in the order of their rows
    for depth in range(1, trie.num_levels + 1):
        changed = np.any(np.diff(catalogue.codes[:, :depth], axis=0) != 0, axis=1)
        nodes[:, depth] = first + np.concatenate([[0], np.cumsum(changed)])
        first = int(nodes[-1, depth]) + 1
    return nodes


@dataclass(frozen=True, slots=True)
class FreeRows:
    """Which rows each list of a batch may still write.

    Attributes:
        free: bool [batch, num_items].
        before: int64 [batch, num_items + 1], free rows before each row.
    """

    free: torch.Tensor
    before: torch.Tensor

    @classmethod
    def of(cls, free: torch.Tensor) -> "FreeRows":
        """From `free` [batch, num_items] alone."""
        return cls(free, torch.nn.functional.pad(free.cumsum(dim=1), (1, 0)))

    def count(self, begin: torch.Tensor, end: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        """Free rows in ranges, less those written on the way there.

        Args:
            begin: int64 [batch, ...].
            end: likewise.
            written: int64 [batch, ..., k], distinct free rows, -1 on padding; broadcast against the ranges.
        """
        total = self.up_to(end) - self.up_to(begin)
        inside = (written >= begin.unsqueeze(-1)) & (written < end.unsqueeze(-1))
        return total - inside.sum(dim=-1)

    def ends(self, begin: torch.Tensor, end: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        """The first and the last free row of ranges that hold one, int64 [batch, n, 2].

        A free row is found by its rank, from 1, among the list's free rows. Of the k + 1 ranks from the range's edge
        inwards at most k are written, so the first that is not is among them.

        Args:
            begin: int64 [batch, n].
            end: likewise.
            written: int64 [batch, n, k], distinct free rows that do not count, -1 on padding.
        """
        edges = torch.stack((self.up_to(begin) + 1, self.up_to(end)), dim=-1)
        inwards = torch.arange(written.shape[-1] + 1, device=begin.device)
        ranks = edges.unsqueeze(-1) + torch.stack((inwards, -inwards))
        taken = torch.where(written >= 0, self.up_to(written.clamp(min=0)) + 1, 0)
        is_taken = (ranks.unsqueeze(-1) == taken[..., None, None, :]).any(dim=-1)
        rank = ranks.gather(-1, is_taken.cumprod(dim=-1).sum(dim=-1, keepdim=True)).flatten(1)
        row = torch.searchsorted(self.before, rank) - 1
        return row.clamp(0, self.free.shape[1] - 1).view_as(edges)

    def up_to(self, row: torch.Tensor) -> torch.Tensor:
        """Free rows before `row`, int64 [batch, ...]."""
        return self.before.gather(1, row.flatten(1)).view_as(row)


def allowed_children(
    index: TrieIndex, rows: FreeRows, nodes: torch.Tensor, written: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Children of each place's node, and which of them may come next.

    Args:
        index: the trie.
        rows: free rows of the lists.
        nodes: int64 [batch, places].
        written: int64 [batch, places, k], rows written on the way to the place, -1 on padding.

    Returns:
        Nodes int64 and bool, both [batch, places, most_children].
    """
    children, exist = index.children(nodes)
    num_left = rows.count(index.node_begin[children], index.node_end[children], written.unsqueeze(2))
    return children, exist & (num_left > 0)
