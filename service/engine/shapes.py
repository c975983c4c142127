"""In which shapes a round is computed: exactly what its lists need, or one of few that hold it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from service.engine.states import Summary, Widths
from service.engine.tree import TreeShape


@dataclass(frozen=True, slots=True)
class RoundShape:
    """Sizes of a round.

    Attributes:
        batch: rows.
        pending: columns for pending tokens, at most.
        news: tokens that the draft reads, at most.
        longest: tokens in the target's cache, at most.
        draft_places: places of the draft's cache before those of its guesses.
        tree: what the draft guesses; None: it does not.
        wanted: items that a list still needs, at most.
        is_sampled: whether any list is.
    """

    batch: int
    pending: int
    news: int
    longest: int
    draft_places: int
    tree: TreeShape | None
    wanted: int
    is_sampled: bool


@dataclass(frozen=True, slots=True)
class PrefillShape:
    """Sizes of a prefill.

    Attributes:
        batch: prompts.
        num_tokens: columns for the tokens that are to be read of each.
        num_places: of a cache that they may look at.
        is_sampled: whether any list is.
    """

    batch: int
    num_tokens: int
    num_places: int
    is_sampled: bool


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the sizes of passes are rounded up to.

    A GPU wants the same few shapes again and again: each new one costs the loading and choosing of kernels, or a graph
    of its own, and its attention reads masks in aligned rows. A CPU would only compute padding.

    Attributes:
        tokens: of a pass, a multiple of this.
        places: of a cache, likewise.
        pads: whether shapes are few; else each round's own.
        pass_tokens: what a pass costs beside its tokens, in tokens.
    """

    tokens: int
    places: int
    pads: bool
    pass_tokens: int = 64

    @classmethod
    def of(cls, device: torch.device) -> "Shapes":
        """What suits a device."""
        return cls(16, 128, pads=True, pass_tokens=512) if device.type == "cuda" else cls(1, 1, pads=False)

    def tokens_for(self, count: int) -> int:
        """Columns of a pass."""
        return -(-count // self.tokens) * self.tokens

    def places_for(self, count: int) -> int:
        """Places of a cache that a pass looks at."""
        return -(-count // self.places) * self.places

    def prompt_columns(self, count: int) -> int:
        """Columns of a prefill: few sizes, as prompts have any."""
        if not self.pads:
            return count
        grain = self.tokens if count <= 4 * self.tokens else 4 * self.tokens
        return -(-count // grain) * grain

    def parts(self, lengths: Sequence[int], most: int) -> list[int]:
        """How many prompts, of these lengths in ascending order, to read together, `most` at most: what costs least.

        All of a pass are padded to the longest; but each pass costs something of its own.
        """
        costs, sizes = [0], [0]
        for end in range(1, len(lengths) + 1):
            columns = self.prompt_columns(lengths[end - 1])
            cost, size = min(
                (costs[end - size] + self.pass_tokens + self._batch_for(size, most) * columns, size)
                for size in range(1, min(most, end) + 1)
            )
            costs.append(cost)
            sizes.append(size)
        parts: list[int] = []
        end = len(lengths)
        while end:
            parts.insert(0, sizes[end])
            end -= sizes[end]
        return parts

    def _batch_for(self, count: int, most: int) -> int:
        """Rows of a pass."""
        return min(most, 1 << (count - 1).bit_length()) if self.pads else count

    def prefill(
        self, batch: int, *, most_batch: int, num_tokens: int, most_known: int, is_sampled: bool
    ) -> PrefillShape:
        """The shape for prompts of which so many tokens are to be read, and so many are known, at most."""
        columns = self.prompt_columns(num_tokens)
        return PrefillShape(
            batch=self._batch_for(batch, most_batch),
            num_tokens=columns,
            num_places=self.places_for(most_known + columns),
            is_sampled=is_sampled,
        )

    def round(
        self, summary: Summary, widths: Widths, max_batch: int, tree: TreeShape | None, *, is_sampled: bool
    ) -> RoundShape:
        """The shape for lists that stand so."""
        batch, longest = len(summary.length), int(summary.length.max())
        news = int((summary.num_unread + summary.num_pending).max())
        if self.pads:
            batch = self._batch_for(batch, max_batch)
            return self._padded(batch, news, self.places_for(longest), widths, tree, is_sampled=is_sampled)
        return RoundShape(
            batch=batch,
            pending=int(summary.num_pending.max()),
            news=news,
            longest=longest,
            draft_places=int((summary.length - summary.num_unread).max()) + news,
            tree=tree,
            wanted=int((summary.limit - summary.num_items).max()),
            is_sampled=is_sampled,
        )

    def largest(self, longest: int, widths: Widths, max_batch: int) -> RoundShape:
        """The largest shape there will be, for lists of so many tokens, prompts included."""
        news = widths.tokens + widths.pending
        return self._padded(max_batch, news, self.places_for(longest), widths, None, is_sampled=True)

    def _padded(
        self,
        batch: int,
        news: int,
        longest: int,
        widths: Widths,
        tree: TreeShape | None,
        *,
        is_sampled: bool,
    ) -> RoundShape:
        # A round after a round with a draft has news of one pass; only after rounds without one there are more.
        width = self.tokens_for(widths.guessed + 2 * widths.pending)
        while width < news:
            width *= 2
        return RoundShape(
            batch=batch,
            pending=widths.pending,
            news=width,
            longest=longest,
            draft_places=self.places_for(longest + width),
            tree=tree,
            wanted=widths.items,
            is_sampled=is_sampled,
        )
