"""How much to guess, decided at every round by what guessing costs and brings at the load there is.

A pass over many places costs a lone list hardly more than a pass over one, and a full batch many times more, while the
guesses are as good in either. So the cost of a round is measured for each tree and size of batch, in warm-up and from
then on in service, and so are the tokens that it brings; the tree with the most tokens per second wins, which may be
none. An estimate that is old is not trusted for ever: now and then one of the others is tried.
"""

import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import cycle
from statistics import median
from typing import Protocol

from service.engine.tree import TreeShape
from service.types import DecodedList, DecodeRequest

Tree = TreeShape | None

_MEMORY = 400  # rounds of one list that a running mean goes back to
_ENOUGH = 48  # such rounds, before a mean of tokens is believed: one round says little of the next
_LATEST = 33  # rounds whose median counts
_MARGIN = 1.02  # of guessing over not guessing
_LEAD = 1.05  # of another tree over the one that is chosen
_HOLD = 8  # rounds between two comparisons, which take as long as a few kernels
_TRIES = 5
_WORTH_A_TRY = 0.7  # of the best at half the size
_FAR = 0.5  # of the best: what is worth less is tried again later
_LATER = 6  # times the patience
_PATIENCE = 1_000  # rounds


class TreeChoice(Protocol):
    """Decides how much to guess in a round.

    Attributes:
        shapes: all that it may ask for, but for None.
    """

    shapes: tuple[TreeShape, ...]

    def choose(self, batch: int) -> Tree:
        """What the next round guesses, for so many lists; None: nothing."""
        ...

    def likely(self, batch: int) -> Collection[Tree]:
        """What `choose` may say for so many lists, as far as that is known."""
        ...

    def note(self, tree: Tree, batch: int, num_tokens: int, seconds: float | None) -> None:
        """A round with this tree made so many tokens certain, of all its lists, in so many seconds.

        None: what it took says nothing of the next, as something had to be made ready first.
        """
        ...


def label_of(tree: Tree) -> str:
    """For metrics and logs."""
    return "none" if tree is None else tree.label


class Always(TreeChoice):
    """The same for every round."""

    def __init__(self, tree: Tree) -> None:
        self.shapes = () if tree is None else (tree,)
        self._tree = tree

    def choose(self, batch: int) -> Tree:
        """See `TreeChoice`."""
        return self._tree

    def likely(self, batch: int) -> Collection[Tree]:
        """See `TreeChoice`."""
        return (self._tree,)

    def note(self, tree: Tree, batch: int, num_tokens: int, seconds: float | None) -> None:
        """See `TreeChoice`."""


class ByLoad(TreeChoice):
    """The tree with the most tokens per second at the size of the batch.

    Sizes are told apart by powers of two. Where a tree is not known yet it is tried; warm-up is nothing else. The more
    lists there are the less a tree is worth that is larger than others, so one that was worth far less at half the size
    is not tried at all. One that was not chosen for long is forgotten, and so tried some rounds in a row: a time in
    which everything took longer would else be held for ever against the tree that was chosen then.

    Args:
        shapes: to choose from, beside guessing nothing.
        patience: rounds of a size after which a tree that was not chosen in them is tried again.
    """

    def __init__(self, shapes: Sequence[TreeShape], patience: int = _PATIENCE) -> None:
        self.shapes = tuple(shapes)
        self._trees: tuple[Tree, ...] = (None, *shapes)
        self._patience = patience
        self._num_rounds: Counter[int] = Counter()  # by size
        self._latest: dict[tuple[Tree, int], int] = {}  # the number of each one's latest round
        self._tokens: dict[Tree, float] = {}  # a round and list, a running mean
        self._seen: Counter[Tree] = Counter()  # rounds of one list that it is made of
        self._seconds: dict[tuple[Tree, int], deque[float]] = {}  # of the latest rounds, by size
        self._tries: Counter[tuple[Tree, int]] = Counter()
        self._eligible: dict[int, tuple[Tree, ...]] = {}  # by size, once half of it is known
        self._chosen: dict[int, Tree] = {}  # by size
        self._holds: Counter[int] = Counter()  # by size, rounds until what is chosen is compared again

    def choose(self, batch: int) -> Tree:
        """See `TreeChoice`."""
        size = _size(batch)
        self._num_rounds[size] += 1
        if self._holds[size]:
            self._holds[size] -= 1
            return self._chosen[size]
        if self._knows(size):
            best = self._best(size)
            old = self._old(best, size)
            if not old:
                self._holds[size] = _HOLD - 1
                return best
            self._forget(old[0], size)
        return min(self._trees_for(size), key=lambda tree: self._tries[tree, size])

    def likely(self, batch: int) -> Collection[Tree]:
        """See `TreeChoice`."""
        return self._trees_for(_size(batch))

    def knows(self, batch: int) -> bool:
        """Whether all trees worth a try were tried with so many lists, and often enough with any."""
        return self._knows(_size(batch))

    def best(self, batch: int) -> Tree:
        """What is worth most with so many lists, where the trees are known."""
        return self._best(_size(batch))

    def note(self, tree: Tree, batch: int, num_tokens: int, seconds: float | None) -> None:
        """See `TreeChoice`."""
        self._seen[tree] = min(_MEMORY, self._seen[tree] + batch)
        known = self._tokens.get(tree, 0.0)
        self._tokens[tree] = known + min(1.0, batch / self._seen[tree]) * (num_tokens / batch - known)
        if seconds is None:
            return
        key = tree, _size(batch)
        self._latest[key] = self._num_rounds[_size(batch)]
        self._tries[key] += 1
        if self._tries[key] > 1:  # what is done for the first time takes longer than it ever will again
            self._seconds.setdefault(key, deque(maxlen=_LATEST)).append(seconds)

    def _knows(self, size: int) -> bool:
        return all(
            self._tries[tree, size] >= _TRIES and self._seen[tree] >= _ENOUGH
            for tree in self._trees_for(size)
        )

    def _best(self, size: int) -> Tree:
        """The one chosen last, unless another leads: between equals it would come and go, each in shapes of its own."""
        trees = self._trees_for(size)
        best = max(trees, key=lambda tree: self._worth(tree, size))
        chosen = self._chosen.get(size, best)
        if chosen not in trees or self._worth(best, size) > self._worth(chosen, size) * _LEAD:
            chosen = best
        self._chosen[size] = chosen
        return chosen

    def _old(self, best: Tree, size: int) -> list[Tree]:
        """Those of which nothing was heard for too long."""
        now, enough = self._num_rounds[size], self._worth(best, size) * _FAR
        return [
            tree
            for tree in self._trees_for(size)
            if now - self._latest[tree, size]
            > self._patience * (1 if self._worth(tree, size) >= enough else _LATER)
        ]

    def _forget(self, tree: Tree, size: int) -> None:
        """Have it tried anew, by what is known of half the size now."""
        self._seconds[tree, size].clear()
        self._tries[tree, size] = 1
        if size and self._knows(size - 1):
            self._eligible.pop(size, None)

    def _trees_for(self, size: int) -> tuple[Tree, ...]:
        """Those worth a try."""
        if size not in self._eligible:
            half = size - 1
            if half < 0 or not self._knows(half):
                return self._trees
            best = self._best(half)
            enough = self._worth(best, half) * _WORTH_A_TRY
            self._eligible[size] = tuple(
                tree
                for tree in self._trees_for(half)
                if _num_guesses(tree) <= _num_guesses(best) or self._worth(tree, half) >= enough
            )
        return self._eligible[size]

    def _worth(self, tree: Tree, size: int) -> float:
        """Tokens per second and list; guessing has to be worth some more than what it is measured to be.

        The median, as a round that had to wait for something, a graph to be captured say, says nothing of the next.
        """
        worth = self._tokens[tree] / median(self._seconds[tree, size])
        return worth if tree is None else worth / _MARGIN


def warm_up(
    engine: "Warmable", choice: ByLoad, requests: Sequence[DecodeRequest], seconds: float
) -> dict[int, str]:
    """Write lists in batches of one, two, four, … until all trees are known for all of them, or time is up.

    What is left to be known then is found out in service.

    Returns:
        The label of the best tree for each size that is known.
    """
    until = time.perf_counter() + seconds
    sizes = sorted({min(1 << power, engine.max_batch) for power in range(engine.max_batch.bit_length() + 1)})
    source = cycle(requests)  # of one user alone nobody learns how well guesses fit others
    for size in sizes:
        while not choice.knows(size) and time.perf_counter() < until:
            batch = [
                replace(request, request_id=f"warm-up {number}")
                for number, request in zip(range(size), source, strict=False)
            ]
            engine.add(batch)
            while engine.num_running == size and not choice.knows(size) and time.perf_counter() < until:
                engine.round()
            engine.drop([request.request_id for request in batch])
    return {size: label_of(choice.best(size)) for size in sizes if choice.knows(size)}


class Warmable(Protocol):
    """An engine with nothing in flight; see `service.engine.engine`."""

    max_batch: int

    @property
    def num_running(self) -> int:
        """Lists in flight."""
        ...

    def add(self, requests: Sequence[DecodeRequest]) -> None:
        """Prefill."""
        ...

    def round(self) -> list[DecodedList]:
        """A round for all."""
        ...

    def drop(self, request_ids: Collection[str]) -> None:
        """Forget."""
        ...


def _size(batch: int) -> int:
    return (batch - 1).bit_length()


def _num_guesses(tree: Tree) -> int:
    """Of a list, on average."""
    return 0 if tree is None else tree.share or tree.num_places
