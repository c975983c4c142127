"""What the target makes of written lists: the hidden states that a draft's features come from, and its choices."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.model.memory import memory_of
from service.model.transfer import sent
from service.training.guesses import allowed_codes
from service.training.written_lists import IntArray, WrittenBatch, WrittenBatches

# Of the memory that is free, for readings that are kept; the rest is for training.
_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Reading:
    """Of a batch of lists.

    Attributes:
        states: the target's hidden states, each [batch, length, hidden]; what stands after a list's end means nothing.
        allowed: which codes were, bool [batch, K, L, C].
        probabilities: the target's, of the allowed codes, float32 [batch, K, L, C].
    """

    states: tuple[torch.Tensor, ...]
    allowed: torch.Tensor
    probabilities: torch.Tensor


class Reader:
    """Passes of the target.

    Args:
        target: in any type; it does not change.
        feature_layers: indices of the hidden states that a draft fuses; () for the last feature alone.
        codes: [num_items, L], in trie order.
        layout: how items become tokens.
    """

    def __init__(
        self, target: PreTrainedModel, feature_layers: tuple[int, ...], codes: Int32Array, layout: TokenLayout
    ) -> None:
        self.target = target
        self.num_states = max(1, len(feature_layers))
        self._feature_layers = feature_layers
        self._per_item = layout.tokens_per_item
        device = target.device
        table = torch.as_tensor(layout.table, device=device)
        self.codes = torch.as_tensor(codes, dtype=torch.int64, device=device)
        self.one_hot = torch.stack([F.one_hot(level, table.shape[1]) for level in self.codes.T]).float()
        # [L, C, hidden], 0 where a level has no such code.
        head = target.get_output_embeddings().weight.detach()
        self.head = head[table.clamp_min(0)] * (table >= 0).unsqueeze(-1)

    @torch.no_grad()
    def read(self, batch: WrittenBatch) -> Reading:
        """One pass over whole lists."""
        device = self.target.device
        output = self.target.base_model(
            input_ids=sent(batch.tokens, device),
            attention_mask=sent(batch.attention, device),
            use_cache=False,
            output_hidden_states=bool(self._feature_layers),
        )
        normed: torch.Tensor = output.last_hidden_state
        states = tuple(output.hidden_states[layer] for layer in self._feature_layers) or (normed,)
        starts, rows, free_until = (
            sent(array, device) for array in (batch.starts, batch.rows, batch.free_until)
        )
        allowed = allowed_codes(free_until, rows, self.codes, self.one_hot)
        num_places, num_levels = allowed.shape[1:3]
        token = torch.arange(num_places * self._per_item, device=device)
        token = token.view(num_places, self._per_item)[:, :num_levels].flatten()
        places = (starts.unsqueeze(1) + token - 1).unsqueeze(-1).expand(-1, -1, normed.shape[-1])
        deciding = normed.gather(1, places).view(len(starts), num_places, num_levels, -1)
        logits = torch.einsum("bklh,lch->bklc", deciding, self.head).float()
        probabilities = logits.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
        return Reading(states, allowed, probabilities)


class Readings:
    """Of all lists: each is read once, where there is memory to keep that, and else whenever it is asked for.

    Args:
        reader: owns the target.
        batches: of the lists.
        batch_size: lists in a pass.
        on_read: called about ten times with the number of lists read so far, where they are kept.
    """

    def __init__(
        self, reader: Reader, batches: WrittenBatches, batch_size: int, on_read: Callable[[int], None]
    ) -> None:
        self._reader = reader
        self._kept: Reading | None = None
        lengths = batches.lengths
        device, dtype = reader.target.device, reader.target.dtype
        # Tokens of all lists stand one after the other.
        self._begin = torch.as_tensor(np.cumsum(lengths) - lengths, device=device)
        hidden, num_tokens = reader.target.config.hidden_size, int(lengths.sum())
        of_answers = (len(lengths), batches.num_list_items, *reader.head.shape[:2])
        num_bytes = reader.num_states * num_tokens * hidden * dtype.itemsize
        num_bytes += int(np.prod(of_answers)) * (torch.float32.itemsize + torch.bool.itemsize)
        if num_bytes > _SHARE * memory_of(device):
            return
        kept = Reading(
            tuple(
                torch.empty(num_tokens, hidden, dtype=dtype, device=device) for _ in range(reader.num_states)
            ),
            torch.empty(of_answers, dtype=torch.bool, device=device),
            torch.empty(of_answers, dtype=torch.float32, device=device),
        )
        by_length = np.argsort(lengths, kind="stable")
        for done in range(0, len(by_length), batch_size):
            indices = by_length[done : done + batch_size]
            self._keep(kept, indices, batches.of(indices))
            if 10 * (done + len(indices)) // len(lengths) > 10 * done // len(lengths):
                on_read(done + len(indices))
        self._kept = kept

    def of(self, indices: IntArray, batch: WrittenBatch) -> Reading:
        """Of the lists with these numbers, which are this batch."""
        kept = self._kept
        if kept is None:
            return self._reader.read(batch)
        where, places = self._places(indices, batch)
        places = places.clamp_max(len(kept.states[0]) - 1)
        return Reading(
            tuple(states[places] for states in kept.states), kept.allowed[where], kept.probabilities[where]
        )

    def _keep(self, kept: Reading, indices: IntArray, batch: WrittenBatch) -> None:
        reading = self._reader.read(batch)
        where, places = self._places(indices, batch)
        is_token = sent(batch.attention, where.device)
        for of_all, states in zip(kept.states, reading.states, strict=True):
            of_all[places[is_token]] = states[is_token]
        kept.allowed[where] = reading.allowed
        kept.probabilities[where] = reading.probabilities

    def _places(self, indices: IntArray, batch: WrittenBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers of lists on the device, [batch], and where their tokens stand, [batch, length]; padding, past."""
        where = sent(indices, self._begin.device)
        column = torch.arange(batch.tokens.shape[1], device=where.device)
        return where, self._begin[where].unsqueeze(1) + column
