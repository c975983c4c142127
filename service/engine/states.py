"""Where the lists in flight stand, as tensors: row i is list i. A round changes them without a word from the host."""

from dataclasses import dataclass, fields

import numpy as np
import torch

from service.catalog.items import Catalogue
from service.catalog.trie import Int64Array
from service.engine.tree import Trees
from service.engine.verify import Accepted
from service.types import DecodedItem, SpeculationCounts


@dataclass(frozen=True, slots=True)
class Widths:
    """How much room a list has.

    Attributes:
        items: of the longest list.
        pending: tokens that a pass can leave pending: the rest of an item, and a separator.
        guessed: tokens of a path through a tree.
        steps: guesses on such a path.
    """

    items: int
    pending: int
    guessed: int
    steps: int

    @property
    def tokens(self) -> int:
        """Of the longest list; what a pass leaves pending is at most an item, its separator included."""
        return self.items * self.pending


@dataclass(frozen=True, slots=True)
class ListStates:
    """States of a batch of lists.

    Attributes:
        free: bool [batch, num_items + 1], rows that may still be written; the last column is nobody's.
        limit: int64 [batch], items of the whole list: as many as are asked for and free.
        items: int64 [batch, widths.items + 1], rows written, -1 after them.
        log_scores: float32 [batch, widths.items + 1], log-probabilities of the items, as far as they are written.
            Of both the last column is nobody's.
        num_items: int64 [batch].
        node: int64 [batch], of the trie, at the next choice.
        pending: int64 [batch, L + 1], tokens that are certain and not yet in the target's cache.
        num_pending: int64 [batch].
        length: int64 [batch], tokens in it.
        start: int64 [batch], those of them that are the prompt.
        tokens: int64 [batch, widths.tokens + 1], the others; the last column is nobody's.
        num_read: int64 [batch], of these the first that the draft has read.
        counts: int64 [batch, 6], see `Tally`.
        by_step: int64 [batch, widths.steps], accepted guesses, by the how manyth of its path each was, from 1.
        by_slot: int64 [batch, L].
    """

    free: torch.Tensor
    limit: torch.Tensor
    items: torch.Tensor
    log_scores: torch.Tensor
    num_items: torch.Tensor
    node: torch.Tensor
    pending: torch.Tensor
    num_pending: torch.Tensor
    length: torch.Tensor
    start: torch.Tensor
    tokens: torch.Tensor
    num_read: torch.Tensor
    counts: torch.Tensor
    by_step: torch.Tensor
    by_slot: torch.Tensor

    @classmethod
    def fresh(
        cls, free: torch.Tensor, limit: torch.Tensor, start: torch.Tensor, widths: Widths, num_levels: int
    ) -> "ListStates":
        """Of lists of which nothing is written, their prompts in the cache.

        Args:
            free: bool [batch, num_items + 1], see above.
            limit: int64 [batch].
            start: int64 [batch].
            widths: how much room they have.
            num_levels: of the catalogue, L.
        """

        def zeros(*shape: int) -> torch.Tensor:
            return start.new_zeros(len(start), *shape)

        return cls(
            free=free,
            limit=limit,
            items=zeros(widths.items + 1) - 1,
            log_scores=zeros(widths.items + 1).float(),
            num_items=zeros(),
            node=zeros(),
            pending=zeros(widths.pending),
            num_pending=zeros(),
            length=start,
            start=start,
            tokens=zeros(widths.tokens + 1),
            num_read=zeros(),
            counts=zeros(_NUM_COUNTS),
            by_step=zeros(widths.steps),
            by_slot=zeros(num_levels),
        )

    @classmethod
    def buffers(
        cls, num_rows: int, catalogue: Catalogue, widths: Widths, device: torch.device
    ) -> "ListStates":
        """Rows for so many lists, for now of lists that want nothing; they stay where they are on the device."""
        free = torch.zeros(num_rows, len(catalogue) + 1, dtype=torch.bool, device=device)
        limit, start = torch.zeros(2, num_rows, dtype=torch.int64, device=device)
        return cls(
            *(
                part.clone()
                for part in cls.fresh(free, limit, start, widths, catalogue.trie.num_levels).parts()
            )
        )

    def first(self, count: int) -> "ListStates":
        """The first lists, as views."""
        return ListStates(*(part[:count] for part in self.parts()))

    def put(self, rows: int | torch.Tensor, new: "ListStates") -> None:
        """Write lists into the rows from one on, or into these, int64 [n]."""
        for ours, theirs in zip(self.parts(), new.parts(), strict=True):
            if isinstance(rows, int):
                ours[rows : rows + len(theirs)].copy_(theirs)
            else:
                ours.index_copy_(0, rows, theirs)

    def parts(self) -> list[torch.Tensor]:
        """All tensors, in the order of their names above."""
        return [getattr(self, name) for name in self.__slots__]

    def after(
        self,
        trees: Trees,
        done: Accepted,
        *,
        is_round: bool,
        is_drafted: bool,
    ) -> "ListStates":
        """The states after a pass over what was pending and the trees.

        Args:
            trees: that were verified.
            done: what the pass made certain.
            is_round: the prefill is none, and is not counted as one.
            is_drafted: the draft has read the tokens that were certain before the pass.
        """
        own = self.items.shape[1] - 1
        item = self.num_items.unsqueeze(1) + torch.arange(done.rows.shape[1], device=self.items.device)
        is_item = (done.rows >= 0) & (item < own)
        items = self.items.scatter(1, torch.where(is_item, item, own), torch.where(is_item, done.rows, -1))
        log_scores = self.log_scores.scatter_add(1, item.clamp(max=own), done.log_scores)
        none = self.free.shape[1] - 1
        free = self.free.scatter(1, torch.where(is_item, done.rows, none), False)
        columns = self.verified_from(done)
        verified = torch.cat((self.pending, trees.token.gather(1, done.path)), dim=1).gather(1, columns)
        own_guess = trees.is_guess.gather(1, done.path) & (done.path > 0)
        return ListStates(
            free=free,
            limit=self.limit,
            items=items,
            log_scores=log_scores,
            num_items=self.num_items + done.num_rows,
            node=done.node,
            pending=done.pending,
            num_pending=done.num_pending,
            length=self.length + self.num_pending + done.num_path,
            start=self.start,
            tokens=self.tokens.scatter(1, self.verified_to(done), verified),
            num_read=self.length - self.start if is_drafted else self.num_read,
            counts=self.counts + _tally(trees, done, is_round),
            by_step=_counted(self.by_step, trees.step.gather(1, done.path) - 1, own_guess),
            by_slot=_counted(self.by_slot, trees.slot.gather(1, done.path), own_guess),
        )

    def verified_from(self, done: Accepted) -> torch.Tensor:
        """Of each token that a pass verified, its column among pending tokens, padded, and the path, [batch, v]."""
        num_pending = self.num_pending.unsqueeze(1)
        width = self.pending.shape[1]
        column = torch.arange(width + done.path.shape[1], device=done.path.device).expand(len(done.path), -1)
        of_path = (column - num_pending + width).clamp(max=column.shape[1] - 1)
        return torch.where(column < num_pending, column, of_path)

    def verified_to(self, done: Accepted) -> torch.Tensor:
        """Of each token that a pass verified, its place among the list's, [batch, v]; nobody's for padding."""
        order = torch.arange(self.pending.shape[1] + done.path.shape[1], device=done.path.device)
        place = (self.length - self.start).unsqueeze(1) + order
        count = (self.num_pending + done.num_path).unsqueeze(1)
        return torch.where(order < count, place, self.tokens.shape[1] - 1)

    def summary(self) -> torch.Tensor:
        """What the host wants to know after a round, the columns of `Summary`, int64 [6, batch]."""
        unread = self.length - self.start - self.num_read
        num_tokens = self.counts[:, NUM_ROUND_TOKENS]
        return torch.stack((self.num_items, self.limit, self.num_pending, unread, self.length, num_tokens))

    def packed(self, rows: torch.Tensor) -> torch.Tensor:
        """What is written of some lists, int64 [n]: the columns of `unpack`, int64 [n, w]; scores as their bits."""
        scores = self.log_scores.double().view(torch.int64)
        columns = (self.num_items.unsqueeze(1), self.items, scores, self.counts, self.by_step, self.by_slot)
        return torch.cat([column[rows] for column in columns], dim=1)

    def unpack(self, packed: torch.Tensor) -> list["Result"]:
        """What is written of some lists, of `packed`, on the host."""
        widths = [part.shape[1] for part in (self.items, self.log_scores, self.counts, self.by_step)]
        count, rows, scores, counts, by_step, by_slot = np.split(
            packed.numpy(), np.cumsum([1, *widths]), axis=1
        )
        probabilities = np.exp(np.ascontiguousarray(scores).view(np.float64))
        found = []
        for number, of_list, score, tally, steps, slots in zip(
            *(column.tolist() for column in (count, rows, probabilities, counts, by_step, by_slot)),
            strict=True,
        ):
            written = zip(of_list[: number[0]], score, strict=False)
            items = tuple(DecodedItem(row, probability) for row, probability in written)
            found.append(Result(items, Tally(*tally), tuple(steps), tuple(slots)))
        return found


@dataclass(frozen=True, slots=True)
class Tally:
    """Totals of a list: all of it, then its rounds alone."""

    num_forced: int
    num_rounds: int
    num_round_tokens: int
    num_round_forced: int
    num_drafts: int
    num_draft_tokens: int


_COUNTS = [field.name for field in fields(Tally)]
_NUM_COUNTS, NUM_ROUND_TOKENS = len(_COUNTS), _COUNTS.index("num_round_tokens")


@dataclass(frozen=True, slots=True)
class Summary:
    """Columns of `ListStates` on the host, int64 [batch]; `num_unread` are certain tokens new to the draft."""

    num_items: Int64Array
    limit: Int64Array
    num_pending: Int64Array
    num_unread: Int64Array
    length: Int64Array
    num_round_tokens: Int64Array

    def select(self, which: list[int]) -> "Summary":
        """Some of the lists."""
        return Summary(*(getattr(self, name)[which] for name in self.__slots__))


NUM_SUMMARIES = len(fields(Summary))


@dataclass(frozen=True, slots=True)
class Result:
    """A list as it was written."""

    items: tuple[DecodedItem, ...]
    tally: Tally
    by_step: tuple[int, ...]
    by_slot: tuple[int, ...]

    @property
    def speculation(self) -> SpeculationCounts:
        """What became of its guesses."""
        return SpeculationCounts(
            num_drafts=self.tally.num_drafts,
            num_draft_tokens=self.tally.num_draft_tokens,
            accepted_per_position=self.by_step,
            accepted_per_slot=self.by_slot,
        )


def _tally(trees: Trees, done: Accepted, is_round: bool) -> torch.Tensor:
    """What a pass adds to `Tally`, [batch, 6]."""
    guesses = trees.num_guesses()
    columns = [done.num_forced]
    if is_round:
        columns += [torch.ones_like(guesses), done.num_tokens, done.num_forced]
        columns += [trees.is_real[:, 1:].any(dim=1).long(), guesses]
    else:
        columns += [torch.zeros_like(guesses)] * 5
    return torch.stack(columns, dim=1)


def _counted(counts: torch.Tensor, column: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Counts [batch, n] with one more in each column [batch, m] that is among them and wanted."""
    n = counts.shape[1]
    inside = which & (column < n)
    return counts.scatter_add(1, torch.where(inside, column, 0), inside.long()) if n else counts
