"""Beam decoding: the most probable next items of a prompt, by the joint probability of their codes, inside the trie.

A pass of the target for each level reads the latest code of every beam, all beams of all prompts side by side, each
looking at the prompt and at the beam's own codes: the mask is that of a tree. The codes that may follow are those of
the constraint, and a beam's score is the target's probability of its codes among those that were allowed.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from service.engine.branches import level_logits
from service.engine.constraint import NOT_ALLOWED, ROOT_NODE, FreeRows, TrieIndex, allowed_children
from service.engine.target_pass import Reading, TargetPass
from service.model.kernels import Spans
from service.types import MAX_NUM_ITEMS, DecodeRequest

NUM_BEAMS, MOST_BEAMS = 20, MAX_NUM_ITEMS


def num_beams_of(request: DecodeRequest) -> int:
    """Of a request, of its own number of items alone, and of two kinds, as each is a shape of its own.

    0 where a list is written item by item.
    """
    if request.decoding == "list":
        return 0
    return NUM_BEAMS if request.num_items <= NUM_BEAMS else MOST_BEAMS


@dataclass(frozen=True, slots=True)
class Beams:
    """The best beginnings of an item, best first.

    Attributes:
        node: int64 [batch, width], of the trie.
        log_probability: float32 [batch, width]; `NOT_ALLOWED` or less where there is none.
        parent: int64 [batch, width], the beam of the level before that each one extends.
    """

    node: torch.Tensor
    log_probability: torch.Tensor
    parent: torch.Tensor


class BeamSearch:
    """Searches with a target, in rows of its cache that hold prompts.

    Args:
        index: the trie on the device.
        code_heads: rows of the target's head for each level's codes, [L, C, hidden].
        target: reads the beams.
    """

    def __init__(self, index: TrieIndex, code_heads: torch.Tensor, target: TargetPass) -> None:
        self._index, self._code_heads, self._target = index, code_heads, target

    def num_scratch(self, width: int) -> int:
        """Places of the cache after a prompt that beams take."""
        return (self._index.num_levels - 1) * width

    def __call__(
        self,
        hidden: torch.Tensor,
        length: torch.Tensor,
        free: FreeRows,
        width: int,
        rows: slice,
        num_places: int,
    ) -> Beams:
        """The best leaves.

        Args:
            hidden: what the head reads at the last token of each prompt, [batch, hidden].
            length: int64 [batch], of the prompts, in tokens.
            free: rows that may be written.
            width: beams of each prompt.
            rows: of the cache, the prompts'.
            num_places: of the cache, those of the longest prompt and of its beams among them.
        """
        batch, levels, device = len(length), self._index.num_levels, length.device
        root = torch.full_like(length, ROOT_NODE).unsqueeze(1)
        beams = Beams(root, torch.zeros_like(root, dtype=torch.float32), torch.zeros_like(root))
        beams = self._extended(beams, hidden.unsqueeze(1), 0, free, width)
        scratch = torch.arange(self.num_scratch(width), device=device)
        own = torch.arange(width, device=device).unsqueeze(1)  # where each beam's first code is
        seen = torch.zeros(batch, width, len(scratch), dtype=torch.bool, device=device)
        for level in range(1, levels):
            seen = seen.gather(1, beams.parent.unsqueeze(2).expand_as(seen))
            seen |= scratch == (level - 1) * width + own
            read = self._read(beams, level, length, seen, num_places)
            states, _ = self._target(read, rows)
            beams = self._extended(beams, states.view(batch, width, -1), level, free, width)
        return beams

    def _extended(self, beams: Beams, hidden: torch.Tensor, level: int, free: FreeRows, width: int) -> Beams:
        """The best beams of one code more."""
        index = self._index
        nothing = beams.node.new_empty(*beams.node.shape, 0)
        children, allowed = allowed_children(index, free, beams.node, nothing)
        codes = index.node_code[children]
        logits = level_logits(hidden, self._code_heads, torch.full_like(beams.node, level)).gather(-1, codes)
        log_p = torch.log_softmax(torch.where(allowed, logits, NOT_ALLOWED), dim=-1)
        before = beams.log_probability.unsqueeze(-1)
        joint = torch.where(allowed & (before > NOT_ALLOWED / 2), before + log_p, 2 * NOT_ALLOWED).flatten(1)
        children = children.flatten(1)
        lacking = (0, max(0, width - joint.shape[1]))
        joint, children = F.pad(joint, lacking, value=2 * NOT_ALLOWED), F.pad(children, lacking)
        # Stable, so that of equals the one of the better beam goes first, then the smaller code.
        best, which = joint.sort(dim=1, descending=True, stable=True)
        which = which[:, :width]
        parent = (which // index.most_children).clamp(max=beams.node.shape[1] - 1)
        return Beams(children.gather(1, which), best[:, :width].contiguous(), parent)

    def _read(
        self, beams: Beams, level: int, length: torch.Tensor, seen: torch.Tensor, num_places: int
    ) -> Reading:
        """The latest codes of all beams, of so many codes each; `seen` says which of the scratch is a beam's own."""
        batch, width = beams.node.shape
        row = torch.arange(batch, device=length.device).repeat_interleave(width)
        begin = length[row]
        places = begin + (level - 1) * width + torch.arange(width, device=length.device).repeat(batch)
        scratch = torch.arange(num_places, device=length.device) - begin.unsqueeze(1)
        is_own = seen.flatten(0, 1).gather(1, scratch.clamp(0, seen.shape[2] - 1))
        mask = (scratch < 0) | (is_own & (scratch < seen.shape[2]))
        return Reading(
            tokens=self._index.token_of[level - 1, self._index.node_code[beams.node]].flatten(),
            positions=begin + level - 1,
            places=places,
            mask=mask,
            spans=Spans(
                row=row,
                begin=torch.arange(batch + 1, device=length.device) * width,
                ends=length + level * width,
                most=width,
                has_padding=False,
            ),
        )
