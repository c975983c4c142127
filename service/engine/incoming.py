"""Prompts on their way in: what a prefill reads, in memory that stays where it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array
from service.engine.shapes import PrefillShape
from service.model.kernels import Spans
from service.types import DecodeRequest

_NUM_NUMBERS = 5  # of a prompt: start, end, kept, row, limit
_NUM_COLUMNS = 4  # of a token: itself, its slot, its prompt, its place


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Prompts, of which the target has read some beginnings already; t tokens side by side, padding after them.

    Attributes:
        tokens: int64 [t], what is to be read.
        slots: int64 [t], filled after each token.
        places: int64 [t], of each in its prompt; of padding, past all that a pass looks at.
        spans: whose tokens are whose.
        start: int64 [batch], tokens that were read already.
        kept: int64 [batch], which token has the feature that is wanted afterwards.
        row: int64 [batch], where the list goes.
        limit: int64 [batch], items of the whole list: as many as are asked for and free.
        free: bool [batch, num_items + 1], rows that may be written; the last column is nobody's.
        before: of the token before the first, the feature, [batch, hidden]; 0 where there is none.
        features: those that are wanted, [batch, hidden]; filled by the prefill.
    """

    tokens: torch.Tensor
    slots: torch.Tensor
    places: torch.Tensor
    spans: Spans
    start: torch.Tensor
    kept: torch.Tensor
    row: torch.Tensor
    limit: torch.Tensor
    free: torch.Tensor
    before: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be read of a request.

    Attributes:
        request: that it is of.
        tokens: all of it.
        start: tokens that were read already.
        kept: place of the token whose feature is wanted; any, where none is.
        row: where the list goes.
    """

    request: DecodeRequest
    tokens: Int64Array
    start: int
    kept: int
    row: int


class Incoming:
    """Memory for prompts; there is room for tokens once `reserve` was called.

    Args:
        batch: prompts, at most.
        num_items: of the catalogue.
        hidden_size: of a feature.
        device: of all.
        dtype: of features.

    Attributes:
        before, features: see `Arrivals`; of all prompts there may be.
    """

    def __init__(
        self, batch: int, num_items: int, hidden_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        # All numbers in one piece, so that they go to the device in one copy.
        self._ints = torch.zeros(0, dtype=torch.int64, device=device)
        self._free = torch.zeros(batch, num_items + 1, dtype=torch.bool, device=device)
        self.before, self.features = torch.zeros(2, batch, hidden_size, device=device, dtype=dtype)

    def reserve(self, num_tokens: int) -> bool:
        """Have room for so many tokens; whether anything had to move for that."""
        count = _num_ints(len(self._free), num_tokens)
        if count <= len(self._ints):
            return False
        self._ints = self._ints.new_zeros(count)
        return True

    def arrivals(self, shape: PrefillShape) -> Arrivals:
        """The prompts of a prefill, as views."""
        batch, count = shape.batch, shape.num_tokens
        numbers, begin, columns = torch.split(
            self._ints[: _num_ints(batch, count)], [_NUM_NUMBERS * batch, batch + 1, _NUM_COLUMNS * count]
        )
        start, end, kept, row, limit = numbers.view(_NUM_NUMBERS, batch)
        tokens, slots, prompt, places = columns.view(_NUM_COLUMNS, count)
        return Arrivals(
            tokens=tokens,
            slots=slots,
            places=places,
            spans=Spans(prompt, begin, end, shape.most, has_padding=shape.is_padded),
            start=start,
            kept=kept,
            row=row,
            limit=limit,
            free=self._free[:batch],
            before=self.before[:batch],
            features=self.features[:batch],
        )

    def put(
        self, layout: TokenLayout, shape: PrefillShape, prompts: Sequence[Prompt], spare_row: int
    ) -> None:
        """Write prompts.

        Args:
            layout: of their tokens.
            shape: of the prefill that reads them.
            prompts: what is to be read.
            spare_row: from this one on, rows for prompts that are computed in vain after these.
        """
        batch, count = shape.batch, shape.num_tokens
        ints = np.zeros(_num_ints(batch, count), dtype=np.int64)
        numbers, begin, columns = np.split(ints, np.cumsum([_NUM_NUMBERS * batch, batch + 1]))
        numbers, columns = numbers.reshape(_NUM_NUMBERS, batch), columns.reshape(_NUM_COLUMNS, count)
        numbers[3, len(prompts) :] = np.arange(spare_row, spare_row + batch - len(prompts))
        columns[2:] = [[-1], [shape.num_places]]
        free = np.ones((batch, self._free.shape[1]), dtype=bool)
        end = 0
        for i, prompt in enumerate(prompts):
            length, first = len(prompt.tokens), end
            end += length - prompt.start
            free[i, list(prompt.request.excluded)] = False
            limit = min(prompt.request.num_items, int(np.count_nonzero(free[i, :-1])))
            kept = first + max(0, prompt.kept - prompt.start)
            numbers[:, i] = prompt.start, length, kept, prompt.row, limit
            columns[0, first:end] = prompt.tokens[prompt.start :]
            columns[1, first:end] = layout.next_slots(length)[prompt.start :]
            columns[2, first:end] = i
            columns[3, first:end] = np.arange(prompt.start, length)
            begin[i + 1] = end
        begin[len(prompts) + 1 :] = end
        self._ints[: len(ints)] = torch.from_numpy(ints)
        self._free[:batch] = torch.from_numpy(free)


def _num_ints(batch: int, num_tokens: int) -> int:
    return _NUM_NUMBERS * batch + batch + 1 + _NUM_COLUMNS * num_tokens
