"""The tree of guessed tokens that one pass of the target verifies.

It grows as in EAGLE-2 (arXiv 2406.16858): each pass of the draft extends the branches of the highest joint probability,
and of all candidates of all passes the most probable tokens are kept, within a budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from service.engine.branches import Branches
from service.engine.constraint import NOT_ALLOWED
from service.model.draft_config import DraftConfig

ROOT = 0  # the place of the last token that is certain; guesses hang off it


@dataclass(frozen=True, slots=True)
class TreeShape:
    """How much is guessed in a round.

    Attributes:
        num_passes: of the draft.
        width: branches that each pass extends; 1 guesses a chain.
        num_candidates: guesses kept of each pass, of which the first `width` are extended.
        num_places: the most tokens that the target verifies, forced ones included.
        min_probability: guesses less likely than this are not worth a place.
        share: tokens of all trees of a round, for each list; the most probable ones have a place, whosever they are.
            None: as many as there are places.
        constrained: guesses are kept inside the trie, and forced tokens are free; off is the plain baseline.
    """

    num_passes: int
    width: int
    num_candidates: int
    num_places: int
    min_probability: float = 0.0
    constrained: bool = True
    share: int | None = None

    def __post_init__(self) -> None:
        """Refuse what guesses nothing."""
        if min(self.num_passes, self.width, self.num_candidates, self.num_places) < 1:
            raise ValueError(f"{self} guesses nothing")

    @classmethod
    def chain(cls, draft: DraftConfig) -> "TreeShape":
        """One guess after another, each with what is forced after it."""
        steps = draft.max_steps
        places = steps * (draft.num_levels + 1)
        return cls(num_passes=steps, width=1, num_candidates=1, num_places=places)

    @classmethod
    def tree(cls, draft: DraftConfig) -> "TreeShape":
        """Best-first."""
        return cls(draft.max_steps, width=8, num_candidates=24, num_places=123, min_probability=0.002)

    @classmethod
    def default(cls, draft: DraftConfig, device: torch.device) -> "TreeShape":
        """A tree where a wide pass costs hardly more than a narrow one, a chain where it does."""
        return cls.tree(draft) if device.type == "cuda" else cls.chain(draft)

    @classmethod
    def menu(cls, draft: DraftConfig, device: torch.device) -> tuple["TreeShape", ...]:
        """What is worth trying, the largest first; the more lists there are, the less of it each may have."""
        largest = cls.default(draft, device)
        fewer, some = max(1, largest.num_passes // 2), max(1, largest.num_passes * 3 // 4)
        if device.type != "cuda":
            return tuple(dict.fromkeys((largest, replace(largest, num_passes=fewer))))
        shapes = [
            largest,
            replace(largest, num_passes=some),
            replace(largest, num_passes=some, share=48),
            replace(largest, num_passes=some, num_places=75, share=24),
            replace(largest, num_passes=some, num_places=43, share=12, width=4),
            replace(largest, num_passes=fewer, num_places=27, share=8, width=4),
            replace(largest, num_passes=fewer, num_places=19, share=5, width=2),
            replace(largest, num_passes=1, num_places=9, share=3, width=1),
            replace(largest, num_passes=1, num_places=9, share=2, width=1),
        ]
        return tuple(dict.fromkeys(shapes))  # one pass has no half

    @property
    def least_log_probability(self) -> float:
        """Of a candidate that is worth a place; without a least probability, of any that may be written."""
        return math.log(self.min_probability) if self.min_probability else NOT_ALLOWED / 2

    @property
    def label(self) -> str:
        """Passes, width, places, and its share of all, for metrics and logs."""
        of_all = "" if self.share is None else f"/{self.share}"
        return f"{self.num_passes}x{self.width}x{self.num_places}{of_all}"


@dataclass(frozen=True, slots=True)
class Trees:
    """A tree for each list: n tokens at places 1 to n, parents first, and the root, which is no guess, at place 0.

    Attributes:
        token: int64 [batch, n + 1]; the root's is never read.
        parent: int64 [batch, n + 1], the place of each token's parent; the root's is itself.
        node: int64 [batch, n + 1], of the trie after each token; `DEAD` where no item goes that way.
        slot: int64 [batch, n + 1], that the token fills; the root's is never read.
        depth: int64 [batch, n + 1], tokens on the way to a token, itself included.
        step: int64 [batch, n + 1], guesses on the way to a token, itself included.
        row: int64 [batch, n + 1], the item that the token's code completes, -1 where it completes none.
        written: int64 [batch, n + 1, k], rows of the items completed on the way, -1 on padding.
        is_guess: bool [batch, n + 1], whether the token was not the only one allowed.
        is_real: bool [batch, n + 1], False on padding.
        probability: float32 [batch, n + 1], that a token is accepted, as the draft sees it; never rises from one place
            to the next, 1 at the root.
        sees: bool [batch, n + 1, n + 1], whether a token, its row, follows another, its column, or is it.
    """

    token: torch.Tensor
    parent: torch.Tensor
    node: torch.Tensor
    slot: torch.Tensor
    depth: torch.Tensor
    step: torch.Tensor
    row: torch.Tensor
    written: torch.Tensor
    is_guess: torch.Tensor
    is_real: torch.Tensor
    probability: torch.Tensor
    sees: torch.Tensor

    @classmethod
    def bare(cls, node: torch.Tensor) -> "Trees":
        """Roots alone, at these nodes [batch]."""
        zero = torch.zeros_like(node).unsqueeze(1)
        no = torch.zeros_like(zero, dtype=torch.bool)
        return cls(
            token=zero,
            parent=zero,
            node=node.unsqueeze(1),
            slot=zero,
            depth=zero,
            step=zero,
            row=zero - 1,
            written=(zero - 1).unsqueeze(2),
            is_guess=no,
            is_real=~no,
            probability=torch.ones_like(zero, dtype=torch.float32),
            sees=~no.unsqueeze(2),
        )

    @property
    def num_places(self) -> int:
        """The root included."""
        return self.token.shape[1]

    def first(self, count: int) -> "Trees":
        """The first `count` places, where the others are padding."""
        of_places = {name: getattr(self, name)[:, :count] for name in self.__slots__ if name != "sees"}
        return Trees(**of_places, sees=self.sees[:, :count, :count])

    def num_guesses(self) -> torch.Tensor:
        """Tokens that are checked and were not forced, int64 [batch]."""
        return (self.is_guess & self.is_real).sum(dim=1)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of one pass's candidates, [batch, n * s], candidates that begin alike each with their own copy.

    Attributes:
        probability: of each token, 0 for a copy and where there is none.
        parent: which token of all passes, from 1, each follows; 0 for the root.
        written: which candidate of all passes, from 1, has the items written on the way to it; 0 for none.
    """

    probability: torch.Tensor
    parent: torch.Tensor
    written: torch.Tensor
    token: torch.Tensor
    node: torch.Tensor
    slot: torch.Tensor
    depth: torch.Tensor
    step: torch.Tensor
    row: torch.Tensor
    is_guess: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the candidates of a pass end, [batch, n]: each one's last token, from 1, and what is known of it."""

    token: torch.Tensor
    probability: torch.Tensor
    depth: torch.Tensor
    step: torch.Tensor
    candidate: torch.Tensor


def grow(
    passes: Sequence[Branches],
    root: tuple[torch.Tensor, torch.Tensor],
    num_places: int,
    least_log_probability: float,
    num_slots: int,
) -> Trees:
    """The best tree of at most `num_places` tokens from the candidates of all passes.

    Candidates that begin alike share tokens. A token's probability is that of all candidates through it, and never
    exceeds its parent's, so the most probable tokens form a tree; a forced token is as probable as its parent, and
    follows it.

    Args:
        passes: candidates, pass by pass.
        root: node and slot at the root, each int64 [batch].
        num_places: the budget, forced tokens included.
        least_log_probability: of a candidate that is worth a place.
        num_slots: of an item, L + 1.
    """
    node, slot = root
    zero = torch.zeros_like(node).unsqueeze(1)
    ends = _Ends(zero, torch.ones_like(zero, dtype=torch.float32), zero, zero, zero)
    found: list[_Tokens] = []
    slots = slot.unsqueeze(1)
    num_tokens = num_candidates = 0
    for branches in passes:
        tokens, ends = _merge(
            branches, ends, slots, num_tokens, num_candidates, least_log_probability, num_slots
        )
        found.append(tokens)
        slots = branches.slot
        num_tokens += tokens.token.shape[1]
        num_candidates += branches.parent.shape[1]
    every = _Tokens(*(torch.cat([getattr(t, name) for t in found], dim=1) for name in _Tokens.__slots__))
    # Stable, so that a parent goes before the child that is as probable.
    probability, which = every.probability.sort(dim=1, descending=True, stable=True)
    return _chosen(every, which[:, :num_places], probability[:, :num_places], passes, node)


def _merge(
    branches: Branches,
    ends: _Ends,
    slots: torch.Tensor,
    num_tokens: int,
    num_candidates: int,
    least_log_probability: float,
    num_slots: int,
) -> tuple[_Tokens, _Ends]:
    """A pass's candidates as tokens, given where those of the pass before end, and the slots that they fill next."""
    batch, n, s = branches.tokens.shape
    place = torch.arange(s, device=branches.tokens.device)
    parent = branches.parent

    def of_parent(values: torch.Tensor) -> torch.Tensor:
        return values.gather(1, parent).unsqueeze(2)

    is_real = (place < branches.length.unsqueeze(2)) & (
        branches.log_probability > least_log_probability
    ).unsqueeze(2)
    # [batch, n, n, s]: whether another candidate has the same tokens up to here.
    alike = (branches.tokens.unsqueeze(2) == branches.tokens.unsqueeze(1)).long().cumprod(dim=3).bool()
    alike &= (parent.unsqueeze(2) == parent.unsqueeze(1)).unsqueeze(3) & is_real.unsqueeze(1)
    likely = branches.log_probability.exp()[:, None, :, None]
    probability = torch.where(alike, likely, 0.0).sum(dim=2)
    # Sums of the same numbers in another order differ in their last digits.
    probability = torch.minimum(probability, of_parent(ends.probability)).cummin(dim=2).values
    leader = alike.long().argmax(dim=2)
    own = num_tokens + 1 + leader * s + place
    is_guess = ~branches.forced
    step = of_parent(ends.step) + is_guess.long().cumsum(dim=2)
    depth = of_parent(ends.depth) + place + 1
    candidate = num_candidates + 1 + torch.arange(n, device=place.device).view(1, n, 1).expand(batch, n, s)
    is_last = place == branches.length.unsqueeze(2) - 1
    is_leader = leader == torch.arange(n, device=place.device).unsqueeze(1)
    slot = (of_parent(slots) + place) % num_slots
    tokens = _Tokens(
        probability=torch.where(is_real & is_leader, probability, 0.0),
        parent=torch.cat((of_parent(ends.token), own[:, :, :-1]), dim=2),
        written=torch.where(is_last, candidate, of_parent(ends.candidate)),
        token=branches.tokens,
        node=branches.nodes,
        slot=slot,
        depth=depth,
        step=step,
        row=torch.where(slot == num_slots - 2, branches.row.unsqueeze(2), -1),
        is_guess=is_guess,
    )
    last = (branches.length - 1).clamp(min=0).unsqueeze(2)

    def at_end(values: torch.Tensor) -> torch.Tensor:
        return values.gather(2, last).squeeze(2)

    next_ends = _Ends(at_end(own), at_end(probability), at_end(depth), at_end(step), candidate[:, :, 0])
    return _Tokens(*(getattr(tokens, name).flatten(1) for name in _Tokens.__slots__)), next_ends


def _chosen(
    every: _Tokens,
    which: torch.Tensor,
    probability: torch.Tensor,
    passes: Sequence[Branches],
    node: torch.Tensor,
) -> Trees:
    """The trees of the tokens `which` [batch, n], of these probabilities."""
    bare = Trees.bare(node)
    count, is_real = which.shape[1], probability > 0
    place = torch.arange(1, count + 1, device=which.device).expand_as(which)
    place_of = torch.zeros_like(every.token[:, :1]).repeat(1, every.token.shape[1] + 1)
    place_of = place_of.scatter(1, which + 1, place)
    parent = place_of.gather(1, every.parent.gather(1, which))
    parent = torch.where(is_real, parent, ROOT)
    most_written = passes[0].written.shape[2]
    written = torch.cat([branches.written for branches in passes], dim=1)
    written = F.pad(written, (0, 0, 1, 0), value=-1)
    of_token = every.written.gather(1, which).unsqueeze(2).expand(-1, -1, most_written)

    def joined(name: str) -> torch.Tensor:
        return torch.cat((getattr(bare, name), getattr(every, name).gather(1, which)), dim=1)

    parent = torch.cat((bare.parent, parent), dim=1)
    return Trees(
        token=joined("token"),
        parent=parent,
        node=joined("node"),
        slot=joined("slot"),
        depth=joined("depth"),
        step=joined("step"),
        row=joined("row"),
        written=F.pad(written.gather(1, of_token), (0, 0, 1, 0), value=-1),
        is_guess=joined("is_guess"),
        is_real=torch.cat((bare.is_real, is_real), dim=1),
        probability=torch.cat((bare.probability, probability), dim=1),
        sees=_ancestors(parent, sum(branches.tokens.shape[2] for branches in passes)),
    )


def _ancestors(parent: torch.Tensor, most_depth: int) -> torch.Tensor:
    """Which places each one follows or is, bool [batch, n, n]: who is reached in one step, then two, four, …"""
    n = parent.shape[1]
    place = torch.arange(n, device=parent.device)
    reached = ((place == parent.unsqueeze(2)) | (place == place.unsqueeze(1))).float()
    for _ in range(max(1, (min(n, most_depth) - 1).bit_length())):
        reached = (reached @ reached > 0).float()
    return reached > 0
