"""Prompts on their way in: what a prefill reads, in memory that stays where it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from service.catalog.allowed import forbid
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array
from service.engine.shapes import PrefillShape
from service.model.kernels import Spans
from service.types import DecodeRequest

_NUM_NUMBERS = 5  # of a prompt: start, end, kept, row, limit
_NUM_COLUMNS = 4  # of a token: itself, its slot, its prompt, its place
_NUM_FLOATS = 2  # of a prompt: temperature, top_p
_LONG = 8  # bytes of a number; a float has half as many


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
        temperature: float32 [batch].
        top_p: float32 [batch].
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
    temperature: torch.Tensor
    top_p: torch.Tensor
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
        self._batch, self._num_items = batch, num_items
        # Everything in one piece, so that it goes to the device in one copy.
        self._bytes = torch.zeros(0, dtype=torch.uint8, device=device)
        self._host = torch.zeros(0, dtype=torch.uint8)
        self._copied: torch.Event | None = torch.Event(device) if device.type == "cuda" else None
        self.before, self.features = torch.zeros(2, batch, hidden_size, device=device, dtype=dtype)

    def reserve(self, num_tokens: int) -> bool:
        """Have room for so many tokens; whether anything had to move for that."""
        count = sum(self._sizes(self._batch, num_tokens))
        if count <= len(self._bytes):
            return False
        self._bytes = self._bytes.new_zeros(count)
        self._host = torch.zeros(count, dtype=torch.uint8, pin_memory=self._copied is not None)
        return True

    def arrivals(self, shape: PrefillShape) -> Arrivals:
        """The prompts of a prefill, as views."""
        batch = shape.batch
        dtypes = torch.int64, torch.float32, torch.bool
        numbers, begin, columns, floats, free = self._parts(self._bytes, shape, *dtypes)
        start, end, kept, row, limit = numbers
        tokens, slots, prompt, places = columns
        return Arrivals(
            tokens=tokens,
            slots=slots,
            places=places,
            spans=Spans(prompt, begin, end, shape.most, has_padding=shape.is_padded),
            start=start,
            kept=kept,
            row=row,
            limit=limit,
            free=free,
            temperature=floats[0],
            top_p=floats[1],
            before=self.before[:batch],
            features=self.features[:batch],
        )

    def put(
        self, layout: TokenLayout, shape: PrefillShape, prompts: Sequence[Prompt], spare_row: int
    ) -> None:
        """Write prompts; the host waits for those before to be on the device, not for these.

        Args:
            layout: of their tokens.
            shape: of the prefill that reads them.
            prompts: what is to be read.
            spare_row: from this one on, rows for prompts that are computed in vain after these.
        """
        batch = shape.batch
        if self._copied is not None:
            self._copied.synchronize()
        dtypes = np.int64, np.float32, np.bool_
        numbers, begin, columns, floats, free = self._parts(self._host.numpy(), shape, *dtypes)
        numbers[:] = 0
        numbers[3, len(prompts) :] = np.arange(spare_row, spare_row + batch - len(prompts))
        columns[:] = [[0], [0], [-1], [shape.num_places]]
        floats[:] = [[0.0], [1.0]]
        free[:] = True
        begin[0] = end = 0
        for i, prompt in enumerate(prompts):
            length, first, request = len(prompt.tokens), end, prompt.request
            end += length - prompt.start
            forbid(request, free[i, :-1])
            limit = min(request.num_items, int(np.count_nonzero(free[i, :-1])))
            kept = first + max(0, prompt.kept - prompt.start)
            numbers[:, i] = prompt.start, length, kept, prompt.row, limit
            floats[:, i] = request.temperature, request.top_p
            columns[0, first:end] = prompt.tokens[prompt.start :]
            columns[1, first:end] = layout.next_slots(length)[prompt.start :]
            columns[2, first:end] = i
            columns[3, first:end] = np.arange(prompt.start, length)
            begin[i + 1] = end
        begin[len(prompts) + 1 :] = end
        count = sum(self._sizes(batch, shape.num_tokens))
        self._bytes[:count].copy_(self._host[:count], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _parts(self, memory: Any, shape: PrefillShape, number: Any, real: Any, truth: Any) -> list[Any]:
        """Views of bytes: numbers of prompts, where their tokens begin, columns of tokens, floats, free rows.

        Args:
            memory: a tensor, or an array.
            shape: of the prefill.
            number: int64, as the memory's library calls it.
            real: likewise float32.
            truth: likewise bool.
        """
        batch, begin, parts = shape.batch, 0, []
        for size, dtype, dims in zip(
            self._sizes(batch, shape.num_tokens),
            (number, number, number, real, truth),
            ((_NUM_NUMBERS, batch), (batch + 1,), (_NUM_COLUMNS, -1), (_NUM_FLOATS, batch), (batch, -1)),
            strict=True,
        ):
            parts.append(memory[begin : begin + size].view(dtype).reshape(dims))
            begin += size
        return parts

    def _sizes(self, batch: int, num_tokens: int) -> list[int]:
        """Bytes of each part; all but the last a multiple of what its numbers, and the next part's, take."""
        return [
            _LONG * _NUM_NUMBERS * batch,
            _LONG * (batch + 1),
            _LONG * _NUM_COLUMNS * num_tokens,
            _LONG // 2 * _NUM_FLOATS * batch,
            batch * (self._num_items + 1),
        ]
