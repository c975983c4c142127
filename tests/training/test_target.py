"""Training on a toy: it learns, it resumes to the bit, and it keeps the best weights, not the last."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.catalog.layout import TokenLayout
from service.model.presets import Preset, TrainingRecipe, preset_named
from service.model.target import build_target
from service.training import micro_batches
from service.training.lists import ListSampler
from service.training.loop import Progress
from service.training.micro_batches import rounded
from service.training.target import gather_gradient, train_target
from service.training.teacher import ItemKnn

RECIPE = TrainingRecipe(
    steps=12, batch_size=8, micro_batch_size=3, learning_rate=3e-3, validate_every=4, knn_weight=1.0
)
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
PRESET = Preset(
    "toy", SHAPE, max_history_items=4, list_items=2, training=RECIPE, draft=preset_named("tiny").draft
)
LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((4, 5, 6, 7), (8, 9, 10, 11)))


class StoppedError(Exception):
    """The power went out."""


@pytest.fixture
def train(make_interactions, tmp_path: Path):
    codes = np.stack(np.unravel_index(np.arange(16), (4, 4)), axis=1).astype(np.int32)
    histories = [[(start + step) % 16 for step in range(6)] for start in range(16)]
    interactions = make_interactions(histories)
    sampler = ListSampler(
        interactions,
        codes,
        LAYOUT,
        ItemKnn(interactions, 16),
        device=torch.device("cpu"),
        max_history_items=4,
        list_items=2,
        temperature=RECIPE.temperature,
        history_dropout=0.2,
    )

    def run(work: str, *, scores=None, stop_at: int | None = None, fingerprint: str = "f", recipe=RECIPE):
        model = build_target(PRESET, 12, 64, seed=0)
        losses: list[float] = []
        given = iter(scores or [])

        def on_progress(progress: Progress) -> None:
            losses.append(progress.loss)
            if progress.step == stop_at:
                raise StoppedError

        record = train_target(
            model,
            sampler,
            recipe,
            work=tmp_path / work,
            fingerprint=fingerprint,
            validate=lambda _: {"ndcg": next(given, float(len(losses)))},
            metric="ndcg",
            on_progress=on_progress,
        )
        return model, record, losses

    return run


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_loss_is_the_divergence_from_the_teacher_and_of_what_is_known(
    make_interactions, device: str, monkeypatch
) -> None:
    monkeypatch.setattr(micro_batches, "rounded", lambda count, _: rounded(count, torch.device(device)))
    interactions = make_interactions([[0, 1, 2], [3, 1], [2, 3, 0, 1]])
    codes = np.array([[0, 0], [0, 2], [1, 1], [3, 0]], dtype=np.int32)
    knn = ItemKnn(interactions, 4)
    sampler = ListSampler(
        interactions,
        codes,
        LAYOUT,
        knn,
        device=torch.device("cpu"),
        max_history_items=3,
        list_items=3,
        temperature=1.0,
        history_loss=0.2,
    )
    recipe = replace(RECIPE, batch_size=9, temperature=0.5)
    model = build_target(PRESET, 12, 64, seed=0).train()
    batch = sampler.batch(0, 9)
    found = gather_gradient(model, batch, torch.as_tensor(LAYOUT.table), recipe)

    loss = weight = 0.0
    for row, tokens in enumerate(batch.tokens):
        tokens = torch.as_tensor(tokens[: batch.lengths[row]])
        with torch.no_grad():
            log_q = torch.log_softmax(model(input_ids=tokens[None]).logits[0].double(), dim=-1)
        start = int(batch.prompt_lengths[row])
        for place in range(1, start - 1):
            loss, weight = loss - 0.2 * float(log_q[place - 1, tokens[place]]), weight + 0.2
        for place in range(start, len(tokens)):
            slot, level = divmod(place - start, 3)
            weight += 1
            if level == 2:
                loss -= float(log_q[place - 1, LAYOUT.separator])
                continue
            log_p = torch.log_softmax(batch.worth[row, slot, level].double() / 0.5, dim=0)
            for code, p in enumerate(log_p.exp().tolist()):
                if p:
                    loss += p * float(log_p[code] - log_q[place - 1, LAYOUT.code_tokens[level][code]])
    assert found == pytest.approx(loss / weight, rel=1e-5)


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_it_learns(train) -> None:
    # So few steps have to be large ones.
    _, record, losses = train("w", recipe=replace(RECIPE, steps=60, validate_every=30, learning_rate=6e-3))
    assert losses[-1] < 0.8 * losses[0]
    assert record["best"]["step"] == 60


def test_a_stopped_run_ends_where_an_unbroken_one_does(train) -> None:
    unbroken, _, _ = train("one")
    with pytest.raises(StoppedError):
        train("two", stop_at=6)
    resumed, _, losses = train("two")
    assert len(losses) == 8  # from the state of step 4
    for a, b in zip(weights(unbroken), weights(resumed), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_another_training_is_discarded(train) -> None:
    with pytest.raises(StoppedError):
        train("w", stop_at=6)
    _, _, losses = train("w", fingerprint="another")
    assert len(losses) == 12


def test_the_best_weights_are_kept(train) -> None:
    best, record, _ = train("w", scores=[0.1, 0.9, 0.3])
    assert record["best"] == {"step": 8, "metrics": {"ndcg": 0.9}}
    last, _, _ = train("v", scores=[0.1, 0.2, 0.3])
    assert any(not torch.equal(a, b) for a, b in zip(weights(best), weights(last), strict=True))
