"""Training a draft on lists that its target wrote: what it learns, and from where it guesses, is what service asks.

A list is read once by the target, which gives the features, and its own probabilities to learn from. From anchors in
the list the draft guesses ahead as in service: it reads the anchor's segment with the target's last feature, and every
segment after that with its own output, through which the gradient runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.model.draft import Draft, KeysAndValues
from service.model.presets import DraftRecipe
from service.model.transfer import sent
from service.training.guesses import Segments, decisions, pick_anchors, segments
from service.training.lists import Epochs
from service.training.loop import Progress, train
from service.training.readings import Reader, Reading, Readings
from service.training.written_lists import WrittenBatch, WrittenBatches, WrittenLists

# What a probability counts as at least, so that its logarithm is finite.
FLOOR = 1e-9
_READ_AT_ONCE = 4  # times as many lists as in a pass that keeps what a gradient needs


def train_draft(
    draft: Draft,
    target: PreTrainedModel,
    lists: WrittenLists,
    codes: Int32Array,
    layout: TokenLayout,
    recipe: DraftRecipe,
    *,
    seed: int,
    work: Path,
    fingerprint: str,
    validate: Callable[[Draft], dict[str, float]],
    metric: str,
    on_progress: Callable[[Progress], None],
    on_read: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Train `draft`, on the device it is on, and leave its best weights in it.

    Args:
        draft: in float32; on a GPU the passes run in bfloat16.
        target: on the same device, in any type; it does not change.
        lists: that the target wrote greedily, at least one.
        codes: [num_items, L], in trie order.
        layout: how items become tokens.
        recipe: steps, rates, guesses ahead.
        seed: of the order of the lists, and of the anchors.
        work: folder of the training state; a run that was stopped goes on from there.
        fingerprint: says what is being trained; a state of another fingerprint is discarded.
        validate: metrics of the draft as it is.
        metric: the one of them whose largest value is the best.
        on_progress: called after every step.
        on_read: called before the first step with the number of lists that the target has read so far, where there is
            memory to keep what it made of them.

    Returns:
        The training record: the recipe, the best step and its metrics.
    """
    reader = Reader(target, draft.config.feature_layers(target.config.num_hidden_layers), codes, layout)
    lesson = Lesson(draft, reader, recipe)
    batches = WrittenBatches(lists, codes, layout)
    readings = Readings(reader, batches, _READ_AT_ONCE * recipe.micro_batch_size, on_read)
    epochs, lengths = Epochs(len(lists), seed), batches.lengths
    num_tokens = lists.rows.shape[1] * layout.tokens_per_item

    def gather_gradient(step: int) -> torch.Tensor:
        indices = epochs.batch(step, recipe.batch_size)
        # Lists of like length go together: a pass is as long as its longest.
        indices = indices[np.argsort(lengths[indices], kind="stable")]
        draws = np.random.default_rng([seed, 1, step]).random((len(indices), num_tokens), dtype=np.float32)
        total, count = torch.zeros((), device=target.device), 0
        for begin in range(0, len(indices), recipe.micro_batch_size):
            part = slice(begin, begin + recipe.micro_batch_size)
            batch = batches.of(indices[part])
            losses = lesson.losses(batch, readings.of(indices[part], batch), draws[part])
            losses.sum().backward()  # type: ignore[no-untyped-call]
            total += losses.detach().sum()
            count += len(losses)
        gradients = [parameter.grad for parameter in draft.parameters() if parameter.grad is not None]
        torch._foreach_div_(gradients, max(count, 1))
        return total / max(count, 1)

    return train(
        draft,
        recipe,
        gather_gradient=gather_gradient,
        work=work,
        fingerprint=fingerprint,
        validate=lambda: validate(draft),
        metric=metric,
        on_progress=on_progress,
    )


@dataclass(frozen=True, slots=True)
class _Context:
    """The lists as the draft reads them.

    Attributes:
        features: of the target, [batch, length, hidden].
        embeddings: of the tokens, [batch, length, hidden].
        slots: int64 [batch, length].
        shared: keys and values of the draft, each [batch, kv_heads, length, head_dim].
    """

    features: torch.Tensor
    embeddings: torch.Tensor
    slots: torch.Tensor
    shared: KeysAndValues


class Lesson:
    """The losses of a draft's guesses along written lists.

    Args:
        draft: learns.
        reader: owns the target, which is foreseen.
        recipe: anchors per list, guesses ahead.
    """

    def __init__(self, draft: Draft, reader: Reader, recipe: DraftRecipe) -> None:
        self._draft, self._target = draft, reader.target
        self._device = reader.target.device
        self._codes, self._one_hot = reader.codes, reader.one_hot
        self._per_item = len(reader.one_hot) + 1
        self._num_anchors = recipe.anchors
        self._greedy_weight = recipe.greedy_loss
        self._unroll = recipe.unroll_of(draft.config.guesses_items)
        self._code_embeddings = reader.head.float()

    def losses(
        self, batch: WrittenBatch, reading: Reading, draws: np.ndarray[Any, np.dtype[np.float32]]
    ) -> torch.Tensor:
        """Cross-entropies of all guesses, float32 [num_guesses], in nats; their number depends on the lists.

        Args:
            batch: of lists.
            reading: of the same.
            draws: uniform in (0, 1), which pick the anchors, [batch, K * (L + 1)].
        """
        starts, rows, draws_ = (sent(array, self._device) for array in (batch.starts, batch.rows, draws))
        is_decision = decisions(reading.allowed)
        path = segments(
            is_decision,
            pick_anchors(is_decision, draws_, self._num_anchors),
            self._unroll,
            self._per_item,
            guesses_items=self._draft.config.guesses_items,
        )
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._device.type == "cuda"):
            guesses = self._guess(self._context(batch, reading.states), starts, path)
            if self._draft.config.guesses_items:
                free_until = sent(batch.free_until, self._device)
                return self._item_losses(guesses, reading, is_decision, rows, free_until, path)
            return self._code_losses(guesses, reading, rows, path)

    def _context(self, batch: WrittenBatch, states: tuple[torch.Tensor, ...]) -> _Context:
        tokens = sent(batch.tokens, self._device)
        slots = sent(batch.slots, self._device)
        features = self._draft.features_of([state.float() for state in states])
        embeddings = self._target.get_input_embeddings()(tokens).float()
        before = F.pad(features[:, :-1], (0, 0, 1, 0))
        positions = torch.arange(tokens.shape[1], device=self._device).expand_as(tokens)
        inputs = self._draft.inputs(before, embeddings, slots, step=0)
        return _Context(features, embeddings, slots, self._draft.keys_and_values(inputs, positions))

    def _guess(self, context: _Context, starts: torch.Tensor, path: Segments) -> torch.Tensor:
        """norm(g) at the end of every segment, of each guess: [unroll, batch, anchors, hidden]."""
        batch, num_anchors, unroll = path.begin.shape
        length = context.embeddings.shape[1]
        offsets = torch.arange(self._per_item, device=self._device)
        starts = starts.unsqueeze(1)
        first = (starts + path.begin[..., 0]).flatten().view(-1, 1, 1)
        own: list[KeysAndValues] = []
        seen = (torch.arange(length, device=self._device) < first).expand(-1, self._per_item, -1)
        causal = offsets <= offsets.unsqueeze(1)
        feature = _take(context.features, starts + path.begin[..., 0] - 1).flatten(0, 1)
        guesses = []
        for guess in range(unroll):
            begin, end = path.begin[..., guess], path.end[..., guess]
            # Segments that are no valid ones may run past the end; what is read there is not used.
            positions = (starts + begin).unsqueeze(-1) + offsets
            places = positions.clamp_max(length - 1).flatten(1)
            inputs = self._draft.inputs(
                feature.unsqueeze(1).expand(-1, self._per_item, -1),
                _take(context.embeddings, places).view(batch * num_anchors, self._per_item, -1),
                context.slots.gather(1, places).view(batch * num_anchors, self._per_item),
                step=guess + 1,
            )
            positions = positions.flatten(0, 1)
            own.append(self._draft.keys_and_values(inputs, positions))
            keys, values = (torch.cat(parts, dim=2) for parts in zip(*own, strict=True))
            mask = torch.cat((seen, causal.expand(len(seen), -1, -1)), dim=2)
            normed = self._draft.forward_shared(inputs, positions, context.shared, (keys, values), mask)
            num_tokens = (end - begin).flatten().clamp(1, self._per_item)
            feature = _take(normed, num_tokens.unsqueeze(1) - 1).squeeze(1)
            guesses.append(feature)
            is_token = (offsets < num_tokens.unsqueeze(1)).unsqueeze(1)
            seen = torch.cat((seen, is_token.expand(-1, self._per_item, -1)), dim=2)
        return torch.stack(guesses).view(unroll, batch, num_anchors, -1)

    def _greedy_loss(
        self,
        guess: torch.Tensor,
        slot: torch.Tensor,
        scores: torch.Tensor,
        allowed: torch.Tensor,
        written: torch.Tensor,
    ) -> torch.Tensor:
        """Weighted cross-entropy, [n], of what the target wrote, for sharpened scores [n, m] of what was allowed.

        Guesses are numbers from 0, int64 [n].
        """
        sharpness = self._draft.sharpness(guess + 1, slot).unsqueeze(-1)
        log_probabilities = (scores * sharpness).masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)
        return -self._greedy_weight * log_probabilities.gather(1, written.unsqueeze(1)).squeeze(1)

    def _code_losses(
        self, guesses: torch.Tensor, reading: Reading, rows: torch.Tensor, path: Segments
    ) -> torch.Tensor:
        """The next decision's code, from each guess that has one."""
        guess, owner, anchor = _in_order(path.is_valid)
        end = path.end[owner, anchor, guess]
        place, level = end // self._per_item, end % self._per_item
        logits = F.linear(guesses[guess, owner, anchor], self._code_embeddings.flatten(0, 1)).float()
        logits = _take(logits.view(-1, *self._code_embeddings.shape[:2]), level.unsqueeze(1)).squeeze(1)
        allowed = reading.allowed[owner, place, level]
        soft = _cross_entropy(logits, allowed, reading.probabilities[owner, place, level])
        written = self._codes[rows[owner, place], level]
        return soft + self._greedy_loss(guess, level, logits, allowed, written)

    def _item_losses(
        self,
        guesses: torch.Tensor,
        reading: Reading,
        is_decision: torch.Tensor,
        rows: torch.Tensor,
        free_until: torch.Tensor,
        path: Segments,
    ) -> torch.Tensor:
        """The rest of the item, from each guess: the mean over its levels that were a decision."""
        vectors = self._draft.item_vectors(self._code_embeddings, self._codes)
        num_levels = len(self._one_hot)
        levels = torch.arange(num_levels, device=self._device)
        slots = path.end % self._per_item
        of_item = (path.end - slots).unsqueeze(-1) + levels
        are_asked = _gather_padded(is_decision, of_item) & (levels >= slots.unsqueeze(-1))
        # Items that hold no decision at all teach nothing.
        guess, owner, anchor = _in_order(path.is_valid & are_asked.any(dim=-1))
        is_asked, slot = are_asked[owner, anchor, guess], slots[owner, anchor, guess]
        place = path.end[owner, anchor, guess] // self._per_item
        scores = self._draft.item_scores(guesses[guess, owner, anchor], vectors)
        matches = free_until[owner] >= place.unsqueeze(1)
        written = rows[owner, place]
        true_codes = self._codes[written]
        by_level = []
        fits_slot = matches
        for level in range(num_levels):
            by_level.append(
                self._implied_loss(scores, matches, level, reading.probabilities[owner, place, level])
            )
            fits = self._codes[:, level] == true_codes[:, level].unsqueeze(1)
            matches = matches & fits
            fits_slot = fits_slot & (fits | (level >= slot).unsqueeze(1))
        weights = is_asked / is_asked.sum(dim=-1, keepdim=True)
        soft = (torch.stack(by_level, dim=-1) * weights).sum(dim=-1)
        return soft + self._greedy_loss(guess, slot, scores, fits_slot, written)

    def _implied_loss(
        self, scores: torch.Tensor, matches: torch.Tensor, level: int, probabilities: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy, [n], of a level's code given those before it, which scores of items imply.

        Args:
            scores: of all items, [n, num_items].
            matches: bool [n, num_items], free items with the codes before it.
            level: the code's.
            probabilities: the target's, [n, C].
        """
        with torch.autocast(self._device.type, enabled=False):
            shares = scores.masked_fill(~matches, -torch.inf).softmax(dim=-1)
            implied = shares @ self._one_hot[level]
            return -(probabilities * implied.clamp_min(FLOOR).log()).sum(dim=-1)


def _in_order(is_valid: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Guess, list and anchor of what is valid of [batch, anchors, unroll], int64 [n] each; waits for the device."""
    return is_valid.permute(2, 0, 1).nonzero(as_tuple=True)


def _take(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows [batch, n, width] of values [batch, m, width] at places [batch, n]."""
    return values.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _gather_padded(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Entries [batch, ...] of values [batch, m] at places [batch, ...]; those past the end are the last one."""
    last = values.shape[1] - 1
    return values.gather(1, places.clamp_max(last).flatten(1)).view_as(places)


def _cross_entropy(logits: torch.Tensor, allowed: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Of a distribution over allowed codes, [n], for float32 [n, C]."""
    log_probabilities = logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)
    return -(probabilities * log_probabilities.masked_fill(~allowed, 0.0)).sum(dim=-1)
