"""Prompts on their way in: what a prefill reads, in memory that stays where it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array
from service.types import DecodeRequest

_NUM_NUMBERS = 5  # begin, count, kept, row, limit


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Prompts, of which the target has read some beginnings already.

    Attributes:
        tokens: int64 [batch, n], what is to be read of each, padded.
        slots: int64 [batch, n], filled after each token.
        begin: int64 [batch], tokens that were read already.
        count: int64 [batch], tokens that are to be read, at least one.
        kept: int64 [batch], which of them has the feature that is wanted afterwards.
        row: int64 [batch], where the list goes.
        limit: int64 [batch], items of the whole list: as many as are asked for and free.
        free: bool [batch, num_items + 1], rows that may be written; the last column is nobody's.
        before: of the token before the first, the feature, [batch, hidden]; 0 where there is none.
        features: those that are wanted, [batch, hidden]; filled by the prefill.
    """

    tokens: torch.Tensor
    slots: torch.Tensor
    begin: torch.Tensor
    count: torch.Tensor
    kept: torch.Tensor
    row: torch.Tensor
    limit: torch.Tensor
    free: torch.Tensor
    before: torch.Tensor
    features: torch.Tensor


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
        # Numbers, tokens and slots of a prompt side by side, so that all go to the device in one copy.
        self._ints = torch.zeros(batch, _NUM_NUMBERS, dtype=torch.int64, device=device)
        self._free = torch.zeros(batch, num_items + 1, dtype=torch.bool, device=device)
        self.before, self.features = torch.zeros(2, batch, hidden_size, device=device, dtype=dtype)

    def reserve(self, num_tokens: int) -> bool:
        """Have room for so many tokens; whether anything had to move for that."""
        if num_tokens <= self._num_tokens:
            return False
        self._ints = self._ints.new_zeros(len(self._ints), _NUM_NUMBERS + 2 * num_tokens)
        return True

    def first(self, batch: int, num_tokens: int) -> Arrivals:
        """The first prompts and tokens, as views."""
        ints, half = self._ints[:batch], _NUM_NUMBERS + self._num_tokens
        begin, count, kept, row, limit = ints[:, :_NUM_NUMBERS].unbind(dim=1)
        return Arrivals(
            tokens=ints[:, _NUM_NUMBERS : _NUM_NUMBERS + num_tokens],
            slots=ints[:, half : half + num_tokens],
            begin=begin,
            count=count,
            kept=kept,
            row=row,
            limit=limit,
            free=self._free[:batch],
            before=self.before[:batch],
            features=self.features[:batch],
        )

    def put(
        self,
        layout: TokenLayout,
        requests: Sequence[DecodeRequest],
        prompts: Sequence[Int64Array],
        begin: Sequence[int],
        kept: Sequence[int],
        rows: Sequence[int],
        nobody: Sequence[int],
    ) -> None:
        """Write prompts.

        Args:
            layout: of their tokens.
            requests: that they are of.
            prompts: whole.
            begin: of each, tokens that were read already.
            kept: of each, the place in the prompt of the token whose feature is wanted; 0 for any.
            rows: where the lists go.
            nobody: rows for prompts that are computed in vain after these.
        """
        batch, half = len(prompts) + len(nobody), _NUM_NUMBERS + self._num_tokens
        ints = np.zeros((batch, self._ints.shape[1]), dtype=np.int64)
        free = np.ones((batch, self._free.shape[1]), dtype=bool)
        ints[:, 1] = 1
        ints[:, 3] = [*rows, *nobody]
        for i, (request, prompt, start, place) in enumerate(zip(requests, prompts, begin, kept, strict=True)):
            count = len(prompt) - start
            free[i, list(request.excluded)] = False
            limit = min(request.num_items, int(np.count_nonzero(free[i, :-1])))
            ints[i, :_NUM_NUMBERS] = start, count, max(0, place - start), rows[i], limit
            ints[i, _NUM_NUMBERS : _NUM_NUMBERS + count] = prompt[start:]
            ints[i, half : half + count] = layout.next_slots(len(prompt))[start:]
        self._ints[:batch] = torch.from_numpy(ints)
        self._free[:batch] = torch.from_numpy(free)

    @property
    def _num_tokens(self) -> int:
        return (self._ints.shape[1] - _NUM_NUMBERS) // 2
