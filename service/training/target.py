"""Training a target to write lists."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.model.presets import TrainingRecipe
from service.model.transfer import sent
from service.training.ahead import Ahead
from service.training.lists import IntArray, ListBatch, ListSampler
from service.training.loop import Progress, train
from service.training.micro_batches import micro_batches, with_room

Validate = Callable[[PreTrainedModel], dict[str, float]]


def train_target(
    model: PreTrainedModel,
    sampler: ListSampler,
    recipe: TrainingRecipe,
    *,
    work: Path,
    fingerprint: str,
    validate: Validate,
    metric: str,
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """Train `model`, on the device it is on, and leave its best weights in it.

    Args:
        model: in float32; on a GPU the passes run in bfloat16.
        sampler: of training examples.
        recipe: steps, rates, weights.
        work: folder of the training state; a run that was stopped goes on from there.
        fingerprint: says what is being trained; a state of another fingerprint is discarded.
        validate: metrics of the model as it is.
        metric: the one of them whose largest value is the best.
        on_progress: called after every step.

    Returns:
        The training record: the recipe, the best step and its metrics.
    """
    if model.device.type == "cuda":
        # One kernel for what is many, and compiled once, as all layers are alike; lengths differ by the batch.
        for layer in model.model.layers:
            layer.compile(dynamic=True)
    code_tokens = torch.as_tensor(sampler.layout.table.clip(min=0), device=model.device)

    def batch(step: int) -> ListBatch:
        return sampler.batch(step, recipe.batch_size)

    # On a CPU the two threads would only wait for each other's cores.
    in_thread, begin = model.device.type == "cuda", partial(torch.cuda.set_device, model.device)
    with Ahead(batch, recipe.steps, in_thread=in_thread, begin=begin) as ahead:

        def validate_alone() -> dict[str, float]:
            ahead.settle()  # a teacher that is a beam captures graphs, and so does a validation
            return validate(model)

        return train(
            model,
            recipe,
            gather_gradient=lambda step: gather_gradient(model, ahead.of(step), code_tokens, recipe),
            work=work,
            fingerprint=fingerprint,
            validate=validate_alone,
            metric=metric,
            on_progress=on_progress,
        )


def gather_gradient(
    model: PreTrainedModel, batch: ListBatch, code_tokens: torch.Tensor, recipe: TrainingRecipe
) -> torch.Tensor:
    """Add the gradient of a batch, in micro-batches.

    Args:
        model: the target.
        batch: examples.
        code_tokens: int64 [L, codes], the token of each level's codes.
        recipe: of the target.

    Returns:
        The loss, a scalar in nats per token; at a list's codes what the teacher itself is unsure of does not count.
    """
    device = model.device
    num_codes = int(batch.is_listed.sum()) * len(code_tokens)
    total = max(1.0, num_codes + float(batch.weights.sum()))
    mean_loss = torch.zeros((), device=device)
    for part in micro_batches(batch.lengths, recipe.micro_batch_size):
        tokens = sent(with_room(batch.tokens[part, : batch.lengths[part].max()], device), device)
        # Padding is at the end, where nothing that counts looks, and in rows of which none does.
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=tokens, use_cache=False).logits
        loss = _known_loss(logits, batch, part) + _lists_loss(
            logits, batch, part, code_tokens, recipe.temperature
        )
        loss = loss / total
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss += loss.detach()
    return mean_loss


def _known_loss(logits: torch.Tensor, batch: ListBatch, part: IntArray) -> torch.Tensor:
    """Weighted cross-entropy of the tokens that are known for sure, summed over `part` of a batch, in nats."""
    device = logits.device
    row, place = np.nonzero(batch.weights[part])
    weights, tokens = batch.weights[part[row], place], batch.tokens[part[row], place]
    losses = F.cross_entropy(
        logits[sent(row, device), sent(place - 1, device)].float(), sent(tokens, device), reduction="none"
    )
    return losses @ sent(weights, device)


def _lists_loss(
    logits: torch.Tensor, batch: ListBatch, part: IntArray, code_tokens: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Divergence of the target's next codes from the teacher's, summed over the lists `part` of a batch, in nats.

    The teacher's probability of a code is the softmax of the best score below it: the likeliest code leads to the best
    item, and those that are nearly as good are told from those that are not.
    """
    levels, device = len(code_tokens), logits.device
    row, slot = np.nonzero(batch.is_listed[part])
    before = batch.prompt_lengths[part[row]] - 1 + slot * (levels + 1)  # the token before each item
    places = sent(before[:, None] + np.arange(levels), device)
    of_codes = logits[sent(row, device).unsqueeze(1), places].float()  # [items, L, vocabulary]
    worth = batch.worth[sent(part[row], device), sent(slot, device)]
    tokens = code_tokens[:, : worth.shape[-1]].expand(len(row), -1, -1)
    log_q = torch.log_softmax(of_codes, dim=-1).gather(-1, tokens)
    log_p = torch.log_softmax(worth / temperature, dim=-1)
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum()
