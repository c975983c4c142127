"""Training a target: its teacher first, its own beam at the end."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from service.engine.engine import Engine
from service.evaluation.metrics import ranking_metrics
from service.evaluation.quality import lists_of, requests_for, rows_of
from service.model.copies import copy_for_inference
from service.model.presets import Preset, TrainingRecipe
from service.model.target import build_target, pick_dtype
from service.model.vocabulary import build_tokenizer, layout_of
from service.prepared import Prepared
from service.teachers import teacher_for
from service.training.lists import ListSampler
from service.training.loop import OnProgress, OnStage
from service.training.own_beam import OwnBeam
from service.training.sasrec import SasRecRecipe
from service.training.target import train_target
from service.training.teacher import ItemKnn, LogLinearPool, Teacher
from service.types import MAX_NUM_ITEMS

VALIDATION_METRIC = "ndcg@10"
# In the work folder, that of what comes after its teacher.
OWN = "own"
_NUM_NEAR = 10  # items that may stand in for one of a history
CHECKPOINT = "config.json"  # the file that every transformers checkpoint holds


def train_list_target(
    prepared: Prepared,
    sizes: tuple[int, ...],
    preset: Preset,
    out: Path,
    *,
    device: torch.device,
    seed: int,
    work: Path,
    on_stage: OnStage,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Train a target of `preset` and save it to `out` as a transformers checkpoint with its tokenizer.

    A teacher whose lists it learns to write is trained before it, where the recipe asks for one; what it learns from
    its own beam comes after. A run that was stopped goes on from what it left in `work`, which the caller removes when
    all is done.

    Returns:
        The training record.
    """
    catalogue, train = prepared.catalogue, prepared.split.train
    tokenizer = build_tokenizer(sizes, shared=preset.shares_codes)
    layout = layout_of(tokenizer, sizes)
    positions = layout.prompt_length(preset.max_history_items) + MAX_NUM_ITEMS * layout.tokens_per_item
    model = build_target(preset, len(tokenizer), positions, seed).to(device)
    recipe, dtype = preset.training, pick_dtype("auto", device)
    cases = prepared.validation_cases(recipe.validation_users, seed)
    knn = ItemKnn(train, len(catalogue), device=device)
    near = knn.nearest(_NUM_NEAR)
    teacher = teacher_for(
        recipe,
        knn,
        prepared.split,
        catalogue.codes,
        device=device,
        seed=seed,
        file=work / f"teacher-{prepared.fingerprint(asdict(SasRecRecipe()), seed)[:16]}.safetensors",
        on_epoch=lambda epoch, most, value: on_stage(
            f"training the teacher: epoch {epoch}, at most {most}, {VALIDATION_METRIC} {value:.4f}"
        ),
    )

    def sampler(teacher: Teacher, recipe: TrainingRecipe, seed: int) -> ListSampler:
        return ListSampler(
            train,
            catalogue.codes,
            layout,
            teacher,
            device=device,
            max_history_items=preset.max_history_items,
            list_items=preset.list_items,
            temperature=recipe.temperature,
            history_dropout=recipe.history_dropout,
            history_substitution=recipe.history_substitution,
            near=near,
            history_loss=recipe.history_loss,
            seed=seed,
        )

    def validate(model: PreTrainedModel) -> dict[str, float]:
        # As it would be served, so that on a GPU no kernels are compiled for training alone.
        engine = Engine(copy_for_inference(model, dtype), catalogue, layout, max_batch=128)
        lists = lists_of(engine, requests_for(cases, max_history_items=preset.max_history_items))
        figures = ranking_metrics(rows_of(lists), [case.target for case in cases])
        return {name: figures[name] for name in ("recall@10", VALIDATION_METRIC)}

    def learn(teacher: Teacher, recipe: TrainingRecipe, work: Path, seed: int) -> dict[str, Any]:
        return train_target(
            model,
            sampler(teacher, recipe, seed),
            recipe,
            work=work,
            fingerprint=prepared.fingerprint({**asdict(preset), "draft": None}, sizes, seed),
            validate=validate,
            metric=VALIDATION_METRIC,
            on_progress=on_progress,
        )

    record = learn(teacher, recipe, work, seed)
    itself = recipe.self_distillation
    if itself is not None:
        on_stage("training the target on: its own beam is the teacher")
        engine = Engine(copy_for_inference(model, dtype), catalogue, layout, max_batch=recipe.batch_size)
        own: Teacher = OwnBeam(engine, len(catalogue), device)
        if itself.teacher_weight > 0:
            # As sure of itself as it was when it taught alone.
            say = itself.teacher_weight / recipe.temperature
            own = LogLinearPool([(1 - itself.teacher_weight, own), (say, teacher)])
        record["self_distillation"] = learn(own, itself.after(recipe), work / OWN, seed + 1)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"preset": preset.name, "seed": seed, "parameters": model.num_parameters(), **record}
