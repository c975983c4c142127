"""In which shapes a round is computed: exactly what its lists need, or one of few that hold it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from service.engine.states import Summary, Widths
from service.engine.tree import TreeShape

_FEW_TOKENS = 128
_NOT_MUCH_MORE = 1.25  # tokens
_FEW_ROWS = 4  # times as many rows
_NOT_MUCH_MORE_FOR_DRAFT = 4.0  # what is new to it is a small part of a round


@dataclass(frozen=True, slots=True)
class RoundShape:
    """Sizes of a round.

    Attributes:
        batch: rows.
        num_tokens: that the target reads, at most.
        news: tokens that the draft reads first, at most.
        longest: tokens in the target's cache, at most.
        draft_places: places of the draft's cache before those of its guesses.
        tree: what the draft guesses; None: it does not.
        wanted: items that a list still needs, at most.
        is_sampled: whether any list is.
        is_traced: whether any list is to be explained.
    """

    batch: int
    num_tokens: int
    news: int
    longest: int
    draft_places: int
    tree: TreeShape | None
    wanted: int
    is_sampled: bool
    is_traced: bool = False

    def covers(self, other: "RoundShape") -> bool:
        """See `Sized`."""
        return (
            (self.tree, self.is_sampled, self.is_traced) == (other.tree, other.is_sampled, other.is_traced)
            and is_near(self.num_tokens, other.num_tokens)
            and other.batch <= self.batch <= _FEW_ROWS * other.batch
            and is_near_for_draft(self.news, other.news)
            and self.longest >= other.longest
            and self.draft_places >= other.draft_places
            and self.wanted >= other.wanted
        )

    @property
    def cost(self) -> tuple[int, ...]:
        """See `Sized`."""
        return self.num_tokens, self.news, self.wanted, self.longest, self.draft_places


@dataclass(frozen=True, slots=True)
class PrefillShape:
    """Sizes of a prefill.

    Attributes:
        batch: prompts.
        num_tokens: that are to be read, of all of them.
        most: of any of them.
        num_places: of a cache that they may look at.
        is_padded: whether there may be fewer tokens.
        is_sampled: whether any list is.
        num_beams: of a search for each prompt's next item; 0: lists begin.
    """

    batch: int
    num_tokens: int
    most: int
    num_places: int
    is_padded: bool
    is_sampled: bool
    num_beams: int = 0

    def covers(self, other: "PrefillShape") -> bool:
        """See `Sized`."""
        return (
            (self.is_padded, self.is_sampled, self.num_beams)
            == (other.is_padded, other.is_sampled, other.num_beams)
            and is_near(self.num_tokens, other.num_tokens)
            and other.batch <= self.batch <= _FEW_ROWS * other.batch
            and self.most >= other.most
            and self.num_places >= other.num_places
        )

    @property
    def cost(self) -> tuple[int, ...]:
        """See `Sized`."""
        return self.num_tokens, self.batch, self.num_places, self.most


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the sizes of passes are rounded up to.

    A GPU wants the same few shapes again and again: each new one costs the loading and choosing of kernels, or a graph
    of its own, and its attention reads masks in aligned rows. A CPU would only compute padding.

    Attributes:
        tokens: of a pass, at least.
        places: of a cache, a multiple of this.
        pads: whether shapes are few; else each round's own.
        most_tokens: of prompts that are read together, unless it is one alone.
    """

    tokens: int
    places: int
    pads: bool
    most_tokens: int = 1024

    @classmethod
    def of(cls, device: torch.device) -> "Shapes":
        """What suits a device."""
        return cls(16, 128, pads=True) if device.type == "cuda" else cls(1, 1, pads=False)

    def tokens_for(self, count: int, sizes: int = 4) -> int:
        """Tokens of a pass: powers of two while reading the weights takes longer, then so many sizes to each."""
        if not self.pads:
            return count
        power = max(self.tokens, 1 << (count - 1).bit_length())
        grain = power if power <= _FEW_TOKENS else power // (2 * sizes)
        return -(-count // grain) * grain

    def news_for(self, count: int) -> int:
        """Tokens that the draft reads: a small part of a round, so few sizes."""
        return self.tokens_for(count, sizes=2)

    def places_for(self, count: int) -> int:
        """Places of a cache that a pass looks at."""
        return -(-count // self.places) * self.places

    def together(self, lengths: Sequence[int]) -> int:
        """How many of the first prompts, of these lengths, at least one, to read together."""
        total = 0
        for count, length in enumerate(lengths):
            total += length
            if count and total > self.most_tokens:
                return count
        return len(lengths)

    def most_prompt_tokens(self, longest: int, most: int) -> int:
        """Of prompts that are read together, `most` of so many tokens at most."""
        return self.tokens_for(min(most * longest, max(longest, self.most_tokens)))

    def _batch_for(self, count: int, most: int) -> int:
        """Rows of a pass."""
        return min(most, 1 << (count - 1).bit_length()) if self.pads else count

    def prefill(
        self,
        batch: int,
        *,
        most_batch: int,
        num_tokens: int,
        most: int,
        longest: int,
        is_sampled: bool,
        num_beams: int = 0,
    ) -> PrefillShape:
        """The shape for prompts of which so many tokens are to be read, in all and at most, the longest of so many."""
        return PrefillShape(
            batch=self._batch_for(batch, most_batch),
            num_tokens=self.tokens_for(num_tokens),
            most=self.tokens_for(most),
            num_places=self.places_for(longest),
            is_padded=self.pads,
            is_sampled=is_sampled,
            num_beams=num_beams,
        )

    def round(
        self,
        summary: Summary,
        widths: Widths,
        max_batch: int,
        tree: TreeShape | None,
        *,
        is_sampled: bool,
        is_traced: bool = False,
    ) -> RoundShape:
        """The shape for lists that stand so."""
        batch, longest = len(summary.length), int(summary.length.max())
        # The draft of a round that guesses nothing reads nothing, however much is new to it by then.
        news = 0 if tree is None else int((summary.num_unread + summary.num_pending).sum())
        wanted = int((summary.limit - summary.num_items).max())
        num_tokens = int(summary.num_pending.sum())
        if tree is not None:
            num_tokens += batch * (tree.share or tree.num_places)
        if self.pads:
            draft_places, longest = self.places_for(longest + widths.pending), self.places_for(longest)
            # A pass guesses an item at most, so where fewer are wanted than there are passes the others are spared.
            if tree is None or wanted >= tree.num_passes:
                wanted = widths.items
            return RoundShape(
                batch=self._batch_for(batch, max_batch),
                num_tokens=self.tokens_for(num_tokens),
                news=self.news_for(news),
                longest=longest,
                draft_places=draft_places,
                tree=tree,
                wanted=wanted,
                is_sampled=is_sampled,
                is_traced=is_traced,
            )
        return RoundShape(
            batch=batch,
            num_tokens=num_tokens,
            news=news,
            longest=longest,
            draft_places=int((summary.length + summary.num_pending).max()),
            tree=tree,
            wanted=wanted,
            is_sampled=is_sampled,
            is_traced=is_traced,
        )

    def largest(self, longest: int, widths: Widths) -> tuple[int, int]:
        """The largest `longest` and `draft_places` of a round, for lists of so many tokens, prompts included."""
        return self.places_for(longest), self.places_for(longest + widths.pending)


def is_near(num_tokens: int, of_other: int) -> bool:
    """Whether a pass over so many tokens has room for the other's, and takes not much longer."""
    return of_other <= num_tokens <= max(_FEW_TOKENS, _NOT_MUCH_MORE * of_other)


def is_near_for_draft(num_tokens: int, of_other: int) -> bool:
    """Likewise a round in which the draft reads so many."""
    return of_other <= num_tokens <= max(_FEW_TOKENS, _NOT_MUCH_MORE_FOR_DRAFT * of_other)
