"""What each next code is worth: as much as the best item below it.

Greedy decoding goes down the trie by the most probable code, so it meets the best item that is left only if every node
on the way is ranked by the best item below it, not by the sum of all. This is the max-heap that tree-based
recommenders ask of their nodes (TDM, arXiv 1801.02294; for the optimality of beams, OTM, arXiv 2006.15408).
"""

import numpy as np
import torch

from service.catalog.trie import Int32Array, Trie


class BestBelow:
    """Finds the best item below every child of every node that a list goes through.

    Args:
        codes: of all items, [num_items, L], in trie order.
        device: of scores.
    """

    def __init__(self, codes: Int32Array, device: torch.device) -> None:
        self._codes = torch.as_tensor(codes.astype(np.int64), device=device)
        self._num_codes = int(codes.max()) + 1
        # For each level: of each item the rows that share its codes up to there, and how many they are at most.
        self._ranges = [
            (
                torch.as_tensor(begin, device=device),
                torch.as_tensor(end, device=device),
                int(max(end - begin)),
            )
            for begin, end in _ranges(Trie.build(codes))
        ]

    def __call__(self, scores: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
        """The score of the best item below each code that may follow, where no item comes twice.

        Args:
            scores: of all items, float32 [batch, num_items]; -inf for those that may not be listed.
            lists: rows of items, best first, int64 [batch, K]; what stands in for an item that is not there is not
                looked at by others, as it comes last.

        Returns:
            float32 [batch, K, L, codes], before each code of each item; -inf where no item is left below.
        """
        batch, num_listed = lists.shape
        levels = self._codes.shape[1]
        best = scores.new_empty(batch, num_listed, levels, self._num_codes)
        # All items of the lists at once: what is left before each of them is what no earlier one is.
        slot = torch.arange(num_listed, dtype=torch.int16, device=scores.device)
        listed_at = torch.full_like(scores, num_listed, dtype=torch.int16)
        listed_at.scatter_(1, lists, slot.expand(batch, -1))
        below = [self._below(scores, lists, listed_at, level) for level in range(1, max(2, levels))]

        # Of the first codes only the listed item's loses one each time.
        _, reached, when = below[0]
        after = reached.masked_fill(when <= slot.unsqueeze(1), -torch.inf).amax(dim=2)
        codes = self._codes[lists, 0]
        first = self._by_code(scores, self._codes[:, 0].expand(batch, -1))
        for now in range(num_listed):
            best[:, now, 0] = first
            first.scatter_(1, codes[:, now : now + 1], after[:, now : now + 1])

        for level, (places, reached, when) in enumerate(below[: levels - 1], start=1):
            left = reached.masked_fill(when < slot.unsqueeze(1), -torch.inf)
            best[:, :, level] = self._by_code(left, self._codes[places, level])
        return best

    def _below(
        self, scores: torch.Tensor, items: torch.Tensor, listed_at: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What shares the first `level` codes with `items` [batch, K]: rows, scores and where listed, -1 for what only
        fills up: [batch, K, most], all.
        """
        begin, end, most = self._ranges[level - 1]
        places = begin[items].unsqueeze(2) + torch.arange(most, device=scores.device)
        outside = places >= end[items].unsqueeze(2)
        places = places.clamp_(max=scores.shape[1] - 1)
        of_list = places.flatten(1)
        when = listed_at.gather(1, of_list).view_as(places).masked_fill_(outside, -1)
        return places, scores.gather(1, of_list).view_as(places), when

    def _by_code(self, scores: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """The largest of `scores` [..., n] for each code, of `codes` [..., n]: [..., codes]."""
        best = scores.new_full((*scores.shape[:-1], self._num_codes), -torch.inf)
        return best.scatter_reduce_(-1, codes, scores, "amax")


def _ranges(trie: Trie) -> list[tuple[Int32Array, Int32Array]]:
    """For each depth from 1, the last aside: of each row, where the rows below its node there begin and end."""
    nodes = slice(Trie.ROOT, Trie.ROOT + 1)
    ranges = []
    for _ in range(max(1, trie.num_levels - 1)):
        nodes = slice(int(trie.child_begin[nodes.start]), int(trie.child_begin[nodes.stop]))
        sizes = trie.item_end[nodes] - trie.item_begin[nodes]
        ranges.append((np.repeat(trie.item_begin[nodes], sizes), np.repeat(trie.item_end[nodes], sizes)))
    return ranges
