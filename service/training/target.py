"""Training a target to write lists."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.model.presets import TrainingRecipe
from service.training.lists import ListBatch, ListSampler
from service.training.loop import Progress, train

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

    def gather_gradient(step: int) -> float:
        return _gather_gradient(model, sampler.batch(step, recipe.batch_size), recipe.micro_batch_size)

    return train(
        model,
        recipe,
        gather_gradient=gather_gradient,
        work=work,
        fingerprint=fingerprint,
        validate=lambda: validate(model),
        metric=metric,
        on_progress=on_progress,
    )


def _gather_gradient(model: PreTrainedModel, batch: ListBatch, micro_batch_size: int) -> float:
    """Add the gradient of a batch, in micro-batches of lists of like length; the loss, in nats per token."""
    device = model.device
    total = float(batch.weights[:, 1:].sum())
    lengths = batch.attention.sum(axis=1)
    order = np.arange(len(lengths)) if micro_batch_size >= len(lengths) else np.argsort(lengths)
    mean_loss = 0.0
    for begin in range(0, len(order), micro_batch_size):
        part = order[begin : begin + micro_batch_size]
        longest = int(lengths[part].max())
        tokens = torch.as_tensor(batch.tokens[part, :longest], device=device)
        weights = torch.as_tensor(batch.weights[part, 1:longest], device=device)
        attention = torch.as_tensor(batch.attention[part, :longest], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=tokens, attention_mask=attention, use_cache=False).logits[:, :-1]
        predicted = weights > 0
        losses = F.cross_entropy(logits[predicted].float(), tokens[:, 1:][predicted], reduction="none")
        loss = (losses * weights[predicted]).sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss += float(loss.detach())
    return mean_loss
