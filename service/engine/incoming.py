"""Prompts on their way in: what a prefill reads, in memory that stays where it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array


@dataclass(slots=True)
class Incoming:
    """Prompts, of which the target has read some beginnings already.

    Attributes:
        tokens: int64 [batch, n], what is to be read of each, padded.
        slots: int64 [batch, n], filled after each token.
        begin: int64 [batch], tokens that were read already.
        count: int64 [batch], tokens that are to be read, at least one.
        kept: int64 [batch], which of them has the feature that is wanted afterwards.
        row: int64 [batch], where the list goes.
        before: of the token before the first, the feature, [batch, hidden]; 0 where there is none.
        features: those that are wanted, [batch, hidden]; filled by the prefill.
    """

    tokens: torch.Tensor
    slots: torch.Tensor
    begin: torch.Tensor
    count: torch.Tensor
    kept: torch.Tensor
    row: torch.Tensor
    before: torch.Tensor
    features: torch.Tensor

    @classmethod
    def buffers(cls, batch: int, hidden_size: int, device: torch.device, dtype: torch.dtype) -> "Incoming":
        """Rows for so many prompts; there is room for tokens once `reserve` was called."""

        def ints(*shape: int) -> torch.Tensor:
            return torch.zeros(batch, *shape, dtype=torch.int64, device=device)

        features = torch.zeros(2, batch, hidden_size, device=device, dtype=dtype)
        return cls(ints(0), ints(0), ints(), ints(), ints(), ints(), features[0], features[1])

    def reserve(self, num_tokens: int) -> bool:
        """Have room for so many tokens; whether anything had to move for that."""
        if num_tokens <= self.tokens.shape[1]:
            return False
        self.tokens = self.tokens.new_zeros(len(self.tokens), num_tokens)
        self.slots = self.slots.new_zeros(len(self.slots), num_tokens)
        return True

    def first(self, batch: int, num_tokens: int) -> "Incoming":
        """The first prompts and tokens, as views."""
        per_row = (self.begin, self.count, self.kept, self.row, self.before, self.features)
        return Incoming(
            self.tokens[:batch, :num_tokens],
            self.slots[:batch, :num_tokens],
            *(part[:batch] for part in per_row),
        )

    def put(
        self,
        layout: TokenLayout,
        prompts: Sequence[Int64Array],
        begin: Sequence[int],
        kept: Sequence[int],
        rows: Sequence[int],
        nobody: Sequence[int],
    ) -> None:
        """Write prompts.

        Args:
            layout: of their tokens.
            prompts: whole.
            begin: of each, tokens that were read already.
            kept: of each, the place in the prompt of the token whose feature is wanted; 0 for any.
            rows: where the lists go.
            nobody: rows for prompts that are computed in vain after these.
        """
        num_tokens = max(len(prompt) - start for prompt, start in zip(prompts, begin, strict=True))
        batch = len(prompts) + len(nobody)
        packed = np.zeros((2, batch, num_tokens), dtype=np.int64)
        for i, (prompt, start) in enumerate(zip(prompts, begin, strict=True)):
            packed[0, i, : len(prompt) - start] = prompt[start:]
            packed[1, i, : len(prompt) - start] = layout.next_slots(len(prompt))[start:]
        numbers = np.zeros((4, batch), dtype=np.int64)
        numbers[1] = 1
        numbers[3] = [*rows, *nobody]
        for i, (prompt, start, place) in enumerate(zip(prompts, begin, kept, strict=True)):
            numbers[:3, i] = start, len(prompt) - start, max(0, place - start)
        tokens, slots = torch.as_tensor(packed, device=self.tokens.device)
        self.tokens[:batch, :num_tokens], self.slots[:batch, :num_tokens] = tokens, slots
        for part, values in zip((self.begin, self.count, self.kept, self.row), numbers, strict=True):
            part[:batch] = torch.as_tensor(values, device=part.device)
