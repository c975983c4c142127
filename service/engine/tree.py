"""The tree of guessed tokens that one pass of the target verifies.

It grows as in EAGLE-2 (arXiv 2406.16858): each pass of the draft extends the branches of the highest joint probability,
and of all candidates of all passes the most probable tokens are kept, within a budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from service.catalog.trie import BoolArray, Int64Array, Trie
from service.model.draft import DraftConfig

ROOT = 0  # the last token that is certain; guesses hang off it
DEAD = -1  # the node of a token that no item has here


@dataclass(frozen=True, slots=True)
class TreeShape:
    """How much is guessed in a round.

    Attributes:
        num_passes: of the draft.
        width: branches that each pass extends; 1 guesses a chain.
        num_candidates: guesses kept of each pass, of which the first `width` are extended.
        num_guesses: the most guessed tokens that the target verifies; forced ones ride along.
        min_probability: guesses less likely than this are not worth a place.
        constrained: guesses are kept inside the trie, and forced tokens are free; off is the plain baseline.
    """

    num_passes: int
    width: int
    num_candidates: int
    num_guesses: int
    min_probability: float = 0.0
    constrained: bool = True

    def __post_init__(self) -> None:
        """Refuse what guesses nothing."""
        if min(self.num_passes, self.width, self.num_candidates, self.num_guesses) < 1:
            raise ValueError(f"{self} guesses nothing")

    @classmethod
    def chain(cls, draft: DraftConfig) -> "TreeShape":
        """One guess after another."""
        steps = draft.max_steps
        tokens = steps * draft.num_levels if draft.guesses_items else steps
        return cls(num_passes=steps, width=1, num_candidates=1, num_guesses=tokens)

    @classmethod
    def tree(cls, draft: DraftConfig) -> "TreeShape":
        """Best-first."""
        return cls(draft.max_steps, width=8, num_candidates=24, num_guesses=48, min_probability=0.002)

    @classmethod
    def default(cls, draft: DraftConfig, device: torch.device) -> "TreeShape":
        """A tree where a wide pass costs hardly more than a narrow one, a chain where it does."""
        return cls.tree(draft) if device.type == "cuda" else cls.chain(draft)


class Candidate(NamedTuple):
    """A guess of one draft pass: tokens that follow a branch.

    Attributes:
        parent: index of the branch among the candidates of the pass before; ROOT for the first pass.
        tokens: codes, and a separator where they end an item.
        nodes: of the trie, after each token; DEAD where no item goes that way.
        forced: of each token, whether it was the only one allowed.
        row: the item that the tokens complete, -1 where they complete none.
        log_probability: of the whole branch.
    """

    parent: int
    tokens: list[int]
    nodes: list[int]
    forced: list[bool]
    row: int
    log_probability: float


@dataclass(slots=True)
class GuessTree:
    """Tokens in an order in which parents come first; entry 0 is the root and no guess.

    Attributes:
        token: token IDs; the root's is never read.
        parent: the place of each token's parent.
        node: of the trie, after each token.
        forced: whether the token was the only one allowed.
        step: guesses on the way to a token, itself included.
        slot: that the token fills.
        written: rows of the items completed on the way.
        depth: tokens on the way to a token, itself included.
        children: by the place of the parent and the token.
    """

    token: list[int] = field(default_factory=lambda: [0])
    parent: list[int] = field(default_factory=lambda: [ROOT])
    node: list[int] = field(default_factory=lambda: [Trie.ROOT])
    forced: list[bool] = field(default_factory=lambda: [True])
    step: list[int] = field(default_factory=lambda: [0])
    slot: list[int] = field(default_factory=lambda: [0])
    written: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    depth: list[int] = field(default_factory=lambda: [0])
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Places, the root included."""
        return len(self.token)

    @property
    def num_guesses(self) -> int:
        """Tokens that were not forced."""
        return self.forced.count(False)

    def child(self, place: int, token: int) -> int | None:
        """The place of a child, or None."""
        return self.children.get((place, token))

    def ancestors(self) -> BoolArray:
        """Who may look at whom, the root aside: bool [n - 1, n - 1], True where a token follows another or is it."""
        sees = np.eye(len(self), dtype=bool)
        for place in range(1, len(self)):
            sees[place] |= sees[self.parent[place]]
        return sees[1:, 1:]


def grow(
    passes: Sequence[Sequence[Candidate | None]],
    *,
    node: int,
    slot: int,
    num_levels: int,
    num_items: int,
    num_guesses: int,
) -> GuessTree:
    """The best tree of at most `num_guesses` guesses from the candidates of all passes.

    Candidates that begin alike share tokens. A token's probability is that of all candidates through it, so it never
    exceeds its parent's, and the most probable tokens form a tree; a forced token is as probable as its parent and
    costs nothing.

    Args:
        passes: candidates, pass by pass; None for one that is not worth a place, nor is what grew from it.
        node: of the trie, at the root.
        slot: that is filled after the root.
        num_levels: codes per item, L.
        num_items: items that the list still needs; nothing after the last is guessed.
        num_guesses: the budget.
    """
    full, probability = _merge(passes, node, slot, num_levels, num_items)
    tree, place_of = GuessTree(node=[node]), {ROOT: ROOT}
    left = num_guesses
    for place in sorted(range(1, len(full)), key=lambda place: -probability[place]):
        cost = 0 if full.forced[place] else 1
        parent = place_of.get(full.parent[place])
        if parent is None or cost > left:
            continue
        left -= cost
        place_of[place] = len(tree)
        _append(tree, parent, full.token[place], full.node[place], full.forced[place], full.slot[place])
        tree.written[-1] = full.written[place]
    return tree


def _merge(
    passes: Sequence[Sequence[Candidate | None]], node: int, slot: int, num_levels: int, num_items: int
) -> tuple[GuessTree, list[float]]:
    """All candidates in one tree, and the probability of each of its tokens."""
    tree, probability = GuessTree(node=[node]), [1.0]
    ends = [ROOT]  # where each branch of the pass before ended
    for candidates in passes:
        next_ends = []
        for candidate in candidates:
            place = DEAD if candidate is None else ends[candidate.parent]
            written = tree.written[place]
            if candidate is None or place == DEAD or len(written) >= num_items:
                next_ends.append(DEAD)
                continue
            likely = math.exp(candidate.log_probability)
            for token, token_node, forced in zip(
                candidate.tokens, candidate.nodes, candidate.forced, strict=True
            ):
                child = tree.child(place, token)
                if child is None:
                    filled = (tree.slot[place] + 1) % (num_levels + 1) if place else slot
                    child = _append(tree, place, token, token_node, forced, filled)
                    probability.append(0.0)
                    tree.written[child] = written
                probability[child] += likely
                place = child
            if candidate.row >= 0:
                tree.written[place] = (*written, candidate.row)
            next_ends.append(place)
        ends = next_ends
    for place in range(1, len(tree)):  # sums of the same numbers in another order differ in their last digits
        probability[place] = min(probability[place], probability[tree.parent[place]])
    return tree, probability


def _append(tree: GuessTree, parent: int, token: int, node: int, forced: bool, slot: int) -> int:
    tree.token.append(token)
    tree.parent.append(parent)
    tree.node.append(node)
    tree.forced.append(forced)
    tree.step.append(tree.step[parent] + (not forced))
    tree.slot.append(slot)
    tree.written.append(())
    tree.depth.append(tree.depth[parent] + 1)
    place = tree.children[parent, token] = len(tree) - 1
    return place


@dataclass(frozen=True, slots=True)
class PackedTrees:
    """Trees of a batch as arrays, padded to the largest, which has n places; padding looks at itself alone.

    Attributes:
        token: int64 [batch, n].
        depth: int64 [batch, n].
        node: int64 [batch, n], the trie's root on padding and where no item goes.
        written: int64 [batch, n, k], -1 on padding.
        sees: bool [batch, n - 1, n - 1].
    """

    token: Int64Array
    depth: Int64Array
    node: Int64Array
    written: Int64Array
    sees: BoolArray

    @classmethod
    def of(cls, trees: list[GuessTree]) -> "PackedTrees":
        """Pack them."""
        size = max(map(len, trees))
        most_written = max(1, max(len(rows) for tree in trees for rows in tree.written))
        shape = (len(trees), size)
        token, depth, node = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        written = np.full((*shape, most_written), -1, dtype=np.int64)
        sees = np.tile(np.eye(size - 1, dtype=bool), (len(trees), 1, 1))
        for i, tree in enumerate(trees):
            n = len(tree)
            token[i, :n], depth[i, :n] = tree.token, tree.depth
            node[i, :n] = np.maximum(tree.node, 0)
            for place, rows in enumerate(tree.written):
                written[i, place, : len(rows)] = rows
            sees[i, : n - 1, : n - 1] = tree.ancestors()
        return cls(token, depth, node, written, sees)
