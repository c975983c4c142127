"""The loop that trains a target or a draft: resumable, the best weights kept."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from service.model.checkpoints import load_meta, load_state, load_weights, save_state, save_weights
from service.model.presets import Recipe
from service.training.optimizers import optimizers_for

STATE = "state.safetensors"
SAVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, after a step.

    Attributes:
        running_loss: running mean, in nats per token or guess, where it was computed.
        metrics: of the last validation; empty before the first.
    """

    step: int
    steps: int
    running_loss: torch.Tensor
    metrics: dict[str, float]

    @property
    def loss(self) -> float:
        """The running mean; waits for the step to be computed, which training itself does not."""
        return float(self.running_loss)


# Told every step, and what begins, in a line.
OnProgress = Callable[[Progress], None]
OnStage = Callable[[str], None]


def train(
    model: nn.Module,
    recipe: Recipe,
    *,
    gather_gradient: Callable[[int], torch.Tensor],
    work: Path,
    fingerprint: str,
    validate: Callable[[], dict[str, float]],
    metric: str,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Train `model`, on the device it is on, and leave its best weights in it.

    Args:
        model: in float32.
        recipe: steps and rates.
        gather_gradient: adds the gradient of a step's batch to the parameters'; the batch's loss, in nats, a
            scalar that nothing waits for, so that the next step is made ready while a GPU computes this one. The
            batch must depend on the number of the step alone, so that a stopped training can go on.
        work: folder of the training state; a run that was stopped goes on from there.
        fingerprint: says what is being trained; a state of another fingerprint is discarded.
        validate: metrics of the model as it is, in evaluation mode.
        metric: the one of them whose largest value is the best.
        on_progress: called after every step.

    Returns:
        The training record: the recipe, the best step and its metrics.
    """
    optimizers = optimizers_for(model, recipe)
    state_file = work / STATE
    meta = load_meta(state_file)
    running_loss: torch.Tensor | None = None
    if meta is None or meta["fingerprint"] != fingerprint:
        meta = {"fingerprint": fingerprint, "step": 0, "metrics": {}, "best": None}
    else:
        load_state(state_file, model, optimizers)
        running_loss = torch.tensor(meta["loss"], device=next(model.parameters()).device)

    saved_at = time.monotonic()
    with _training_mode(model):
        while meta["step"] < recipe.steps:
            step = meta["step"]
            loss = gather_gradient(step)
            _update(model, optimizers, _rate(step, recipe))
            running_loss = loss if running_loss is None else loss.lerp(running_loss, 0.98)
            meta["step"] = step + 1
            validates = (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps
            if validates:
                model.eval()
                meta["metrics"] = validate()
                model.train()
                if meta["best"] is None or meta["metrics"][metric] > meta["best"]["metrics"][metric]:
                    meta["best"] = {"step": step + 1, "metrics": meta["metrics"]}
                    save_weights(_best_file(work, meta), model)
            if validates or time.monotonic() - saved_at >= SAVE_SECONDS:
                save_state(state_file, model, optimizers, {**meta, "loss": float(running_loss)})
                _forget_lesser(work, meta)
                saved_at = time.monotonic()
            on_progress(Progress(step + 1, recipe.steps, running_loss, meta["metrics"]))

    load_weights(_best_file(work, meta), model)
    return {"recipe": asdict(recipe), "best": meta["best"]}


def _best_file(work: Path, meta: dict[str, Any]) -> Path:
    return work / f"best-{meta['best']['step']}.safetensors"


def _forget_lesser(work: Path, meta: dict[str, Any]) -> None:
    """Remove earlier bests, once a saved state names the one that took their place."""
    for file in work.glob("best-*.safetensors"):
        if meta["best"] is None or file != _best_file(work, meta):
            file.unlink()


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """Training mode, with the matrix units' faster float32 where there are any."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    model.train()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        model.eval()


def _update(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """One step with the gradient that was gathered."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up over the first twentieth of the steps, then a cosine down to a tenth of the peak."""
    warmup = max(1, recipe.steps // 20)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
