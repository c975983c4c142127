"""Training a target to write lists: resumable, seeded, the best checkpoint kept."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.files import write_json
from service.model.checkpoints import load_meta, load_state, save_state
from service.model.presets import TrainingRecipe
from service.training.lists import ListBatch, ListSampler

STATE = "state.safetensors"
BEST = "best"
RECORD = "training.json"

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
        The training record: steps, the best step and its metrics.
    """
    optimizer = _optimizer(model, recipe)
    state_file, best_folder = work / STATE, work / BEST
    meta = load_meta(state_file)
    if meta is None or meta["fingerprint"] != fingerprint:
        meta = {"fingerprint": fingerprint, "step": 0, "loss": math.nan, "metrics": {}, "best": None}
    else:
        load_state(state_file, model, optimizer)

    with _parallel_passes(model):
        while meta["step"] < recipe.steps:
            step = meta["step"]
            loss = _train_step(model, optimizer, sampler.batch(step, recipe.batch_size), _rate(step, recipe))
            meta["loss"] = loss if math.isnan(meta["loss"]) else 0.98 * meta["loss"] + 0.02 * loss
            meta["step"] = step + 1
            if (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps:
                model.eval()
                meta["metrics"] = validate(model)
                model.train()
                if meta["best"] is None or meta["metrics"][metric] > meta["best"]["metrics"][metric]:
                    meta["best"] = {"step": step + 1, "metrics": meta["metrics"]}
                    model.save_pretrained(best_folder)
                save_state(state_file, model, optimizer, meta)
            on_progress(Progress(step + 1, recipe.steps, meta["loss"], meta["metrics"]))

    best = type(model).from_pretrained(best_folder, dtype=torch.float32)
    model.load_state_dict(best.state_dict())
    model.eval()
    record = {"recipe": asdict(recipe), "steps": recipe.steps, "best": meta["best"]}
    write_json(work / RECORD, record)
    return record


@contextmanager
def _parallel_passes(model: PreTrainedModel) -> Iterator[None]:
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
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: ListBatch, rate: float
) -> float:
    device = model.device
    tokens = torch.as_tensor(batch.tokens, device=device)
    weights = torch.as_tensor(batch.weights, device=device)[:, 1:]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(
            input_ids=tokens, attention_mask=torch.as_tensor(batch.attention, device=device), use_cache=False
        ).logits[:, :-1]
    predicted = weights > 0
    losses = F.cross_entropy(logits[predicted].float(), tokens[:, 1:][predicted], reduction="none")
    loss = (losses * weights[predicted]).sum() / weights.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


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
