"""Branches of a draft tree, what they are extended with, and where there is a choice again.

Everything is a tensor over the batch, so that a pass of the draft needs no word from the host.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from service.engine.constraint import FreeRows, TrieIndex
from service.engine.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Branches:
    """Branches of each list, and the tokens that their last pass added.

    Attributes:
        parent: int64 [batch, n], the branch of the pass before that each one extends.
        log_probability: float32 [batch, n], of the whole branch; `NOT_ALLOWED` or less for one that is none.
        node: int64 [batch, n], of the trie at its end; `DEAD` where no item goes that way.
        written: int64 [batch, n, k], rows of the items completed on the way, -1 on padding.
        slot: int64 [batch, n], that is filled next.
        row: int64 [batch, n], the item that the last pass completed, -1 for none.
        tokens: int64 [batch, n, s], added by the last pass, padded on the right.
        nodes: int64 [batch, n, s], of the trie after each of them.
        length: int64 [batch, n], how many they are.
        forced: bool [batch, n, s], which of them were the only ones allowed.
        end: int64 [batch, n], tokens of the list up to here.
    """

    parent: torch.Tensor
    log_probability: torch.Tensor
    node: torch.Tensor
    written: torch.Tensor
    slot: torch.Tensor
    row: torch.Tensor
    tokens: torch.Tensor
    nodes: torch.Tensor
    length: torch.Tensor
    forced: torch.Tensor
    end: torch.Tensor

    @classmethod
    def start(
        cls, node: torch.Tensor, slot: torch.Tensor, end: torch.Tensor, *, most_written: int, most_tokens: int
    ) -> "Branches":
        """One branch a list, of no guesses; `node`, `slot` and `end` are [batch, 1]."""
        shape = node.shape
        return cls(
            parent=torch.zeros_like(node),
            log_probability=torch.zeros(shape, device=node.device),
            node=node,
            written=node.new_full((*shape, most_written), -1),
            slot=slot,
            row=torch.full_like(node, -1),
            tokens=node.new_zeros(*shape, most_tokens),
            nodes=node.new_zeros(*shape, most_tokens),
            length=torch.zeros_like(node),
            forced=torch.zeros(*shape, most_tokens, dtype=torch.bool, device=node.device),
            end=end,
        )

    def first(self, count: int) -> "Branches":
        """The first `count` branches of each list."""
        return Branches(**{name: getattr(self, name)[:, :count] for name in self.__slots__})

    def num_written(self) -> torch.Tensor:
        """Items completed on the way, int64 [batch, n]."""
        return (self.written >= 0).sum(dim=-1)


@dataclass(frozen=True, slots=True)
class Lists:
    """What the extension of branches needs to know of their lists.

    Attributes:
        rows: free rows.
        sampling: temperatures and noise.
        num_items: int64 [batch], items written so far.
        num_wanted: int64 [batch], items still to be written; nothing is guessed after them.
    """

    rows: FreeRows
    sampling: Sampling
    num_items: torch.Tensor
    num_wanted: torch.Tensor


def next_choice(
    index: TrieIndex, rows: FreeRows, node: torch.Tensor, depth: torch.Tensor, written: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """From a node on to where there is a choice again, as far as the first and the last free row below it agree.

    Args:
        index: the trie.
        rows: free rows of the lists.
        node: int64 [batch, n], each with a free row below it.
        depth: int64 [batch, n], codes that lead to it.
        written: int64 [batch, n, k], rows that do not count, -1 on padding.

    Returns:
        The first free row, and how many of its codes are certain, both [batch, n].
    """
    first, last = rows.ends(index.node_begin[node], index.node_end[node], written).unbind(-1)
    agree = (index.codes[first] == index.codes[last]).cumprod(dim=-1).sum(dim=-1)
    return first, torch.maximum(agree, depth)


def level_logits(states: torch.Tensor, code_heads: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Logits of the codes of one level each, float32 [..., C].

    Args:
        states: what the head reads, [..., hidden].
        code_heads: rows of the head for each level's codes, [L, C, hidden].
        depth: int64 [...], the level.
    """
    num_levels, num_codes, _ = code_heads.shape
    logits = F.linear(states, code_heads.flatten(0, 1)).view(*depth.shape, num_levels, num_codes)
    index = depth[..., None, None].expand(*depth.shape, 1, num_codes)
    of_level: torch.Tensor = logits.gather(-2, index).squeeze(-2).float()
    return of_level
