"""Training a target to write lists: resumable, seeded, the best checkpoint kept."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.model.checkpoints import load_meta, load_state, save_state
from service.model.presets import TrainingRecipe
from service.training.lists import ListBatch, ListSampler

STATE = "state.safetensors"
SAVE_SECONDS = 60.0

Validate = Callable[[PreTrainedModel], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, after a step.

    Attributes:
        loss: running mean, in nats per token.
        metrics: of the last validation; empty before the first.
    """

    step: int
    steps: int
    loss: float
    metrics: dict[str, float]


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
    optimizer = _optimizer(model, recipe)
    state_file = work / STATE
    meta = load_meta(state_file)
    if meta is None or meta["fingerprint"] != fingerprint:
        meta = {"fingerprint": fingerprint, "step": 0, "loss": math.nan, "metrics": {}, "best": None}
    else:
        load_state(state_file, model, optimizer)

    saved_at = time.monotonic()
    with _training_mode(model):
        while meta["step"] < recipe.steps:
            step = meta["step"]
            batch = sampler.batch(step, recipe.batch_size)
            loss = _train_step(model, optimizer, batch, _rate(step, recipe), recipe.micro_batch_size)
            meta["loss"] = loss if math.isnan(meta["loss"]) else 0.98 * meta["loss"] + 0.02 * loss
            meta["step"] = step + 1
            validates = (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps
            if validates:
                model.eval()
                meta["metrics"] = validate(model)
                model.train()
                if meta["best"] is None or meta["metrics"][metric] > meta["best"]["metrics"][metric]:
                    meta["best"] = {"step": step + 1, "metrics": meta["metrics"]}
                    model.save_pretrained(_best_folder(work, meta))
            if validates or time.monotonic() - saved_at >= SAVE_SECONDS:
                save_state(state_file, model, optimizer, meta)
                _forget_lesser(work, meta)
                saved_at = time.monotonic()
            on_progress(Progress(step + 1, recipe.steps, meta["loss"], meta["metrics"]))

    best = type(model).from_pretrained(_best_folder(work, meta), dtype=torch.float32)
    model.load_state_dict(best.state_dict())
    model.eval()
    return {"recipe": asdict(recipe), "best": meta["best"]}


def _best_folder(work: Path, meta: dict[str, Any]) -> Path:
    return work / f"best-{meta['best']['step']}"


def _forget_lesser(work: Path, meta: dict[str, Any]) -> None:
    """Remove earlier bests, once a saved state names the one that took their place."""
    for folder in work.glob("best-*"):
        if meta["best"] is None or folder != _best_folder(work, meta):
            shutil.rmtree(folder)


@contextmanager
def _training_mode(model: PreTrainedModel) -> Iterator[None]:
    """Training mode, with the matrix units' faster float32 where there are any."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    model.train()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        model.eval()


def _train_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: ListBatch,
    rate: float,
    micro_batch_size: int,
) -> float:
    """One optimiser step, its gradient gathered in micro-batches; the loss, in nats per token."""
    device = model.device
    all_weights = torch.as_tensor(batch.weights, device=device)[:, 1:]
    total = all_weights.sum()
    mean_loss = 0.0
    for begin in range(0, len(batch.tokens), micro_batch_size):
        part = slice(begin, begin + micro_batch_size)
        tokens = torch.as_tensor(batch.tokens[part], device=device)
        weights = all_weights[part]
        attention = torch.as_tensor(batch.attention[part], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=tokens, attention_mask=attention, use_cache=False).logits[:, :-1]
        predicted = weights > 0
        losses = F.cross_entropy(logits[predicted].float(), tokens[:, 1:][predicted], reduction="none")
        loss = (losses * weights[predicted]).sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return mean_loss


def _optimizer(model: PreTrainedModel, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def _rate(step: int, recipe: TrainingRecipe) -> float:
    """Linear warm-up over the first twentieth of the steps, then a cosine down to a tenth of the peak."""
    warmup = max(1, recipe.steps // 20)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
