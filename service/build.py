"""From a dataset to a bundle: semantic IDs, the target, its draft, the catalogue, sealed together."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from service.catalog.bundle import DRAFT, ITEMS, MANIFEST, POPULAR, TARGET, Bundle, DecodingDefaults, seal
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.data.dataset import Dataset, Interactions
from service.data.split import Case, LeaveOneOut, Split
from service.engine.engine import Engine
from service.errors import InputError
from service.evaluation.acceptance import accepted_length
from service.evaluation.metrics import ranking_metrics
from service.evaluation.quality import lists_of, requests_for, rows_of
from service.files import check_new_folder, new_folder, write_json
from service.model.copies import copy_for_inference
from service.model.draft import Draft, DraftConfig, Features, Variant, guesses_items, save_draft
from service.model.presets import Preset, TrainingRecipe
from service.model.target import build_target, load_target, pick_dtype, read_config, target_digest
from service.model.vocabulary import PromptText, build_tokenizer, check_layout, layout_of, read_layout
from service.teachers import teacher_for
from service.training.draft import train_draft
from service.training.item_ids import SemanticIds, describe, given_semantic_ids, train_semantic_ids
from service.training.lists import ListSampler
from service.training.loop import Progress
from service.training.own_beam import OwnBeam
from service.training.sasrec import SasRecRecipe
from service.training.target import train_target
from service.training.teacher import Teacher
from service.training.written_lists import WrittenLists, write_lists
from service.types import MAX_NUM_ITEMS, DecodeRequest, Decoding

POPULAR_ITEMS = 1_000
VALIDATION_METRIC = "ndcg@10"
DRAFT_METRIC = "accepted_length"
# In the work folder of a draft's training. What others may take, they find whole or not at all.
WRITTEN_LISTS, PARTIAL_LISTS = "lists.npz", "lists.partial.npz"
# In the work folder of a target's training, that of what comes after its teacher.
OWN = "own"
CHECKPOINT = "config.json"  # the file that every transformers checkpoint holds

OnProgress = Callable[[Progress], None]
OnStage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset in catalogue rows.

    Attributes:
        interactions: all of them.
        split: of those.
    """

    catalogue: Catalogue
    interactions: Interactions
    split: LeaveOneOut

    @classmethod
    def of(cls, dataset: Dataset, catalogue: Catalogue) -> "Prepared":
        """Turn the dataset's items into rows of `catalogue`.

        Raises:
            InputError: an item of the dataset is not in the catalogue.
        """
        item_ids = dataset.items()["item_id"].to_pylist()
        rows = np.array(
            [-1 if (row := catalogue.row_of(i)) is None else row for i in item_ids], dtype=np.int32
        )
        if (rows < 0).any():
            missing = item_ids[int(np.argmin(rows))]
            raise InputError(f"dataset {dataset.path}: item '{missing}' is not in the bundle's catalogue")
        raw = dataset.interactions()
        interactions = dataclasses.replace(raw, items=rows[raw.items])
        return cls(catalogue, interactions, LeaveOneOut(interactions))


def prepared_cases(dataset: Dataset, catalogue: Catalogue, split: Split) -> tuple[Prepared, list[Case]]:
    """A dataset in catalogue rows, and whose targets are asked for.

    Raises:
        InputError: as `Prepared.of`, or there is nobody to ask for.
    """
    prepared = Prepared.of(dataset, catalogue)
    cases = prepared.split.cases(split)
    if not cases:
        raise InputError(
            f"dataset {dataset.path}: no user has three interactions, so there is nothing to ask"
        )
    return prepared, cases


def build_catalogue(dataset: Dataset, ids: SemanticIds) -> Catalogue:
    """The dataset's items in trie order; of items that share an ID the more popular in training comes first."""
    items = dataset.items()
    train = LeaveOneOut(dataset.interactions()).train
    return Catalogue.build(
        items["item_id"].to_pylist(),
        ids.codes,
        items["title"].to_pylist(),
        items["attributes"].combine_chunks() if "attributes" in items.column_names else None,
        np.bincount(train.items, minlength=len(ids.codes)),
    )


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
    recipe = preset.training
    cases = _sample(prepared.split.cases("valid"), recipe.validation_users, seed)
    teacher = teacher_for(
        recipe,
        prepared.split,
        catalogue.codes,
        device=device,
        seed=seed,
        file=work / f"teacher-{_fingerprint(prepared, asdict(SasRecRecipe()), seed)[:16]}.safetensors",
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
            history_loss=recipe.history_loss,
            seed=seed,
        )

    def validate(model: PreTrainedModel) -> dict[str, float]:
        engine = Engine(model, catalogue, layout, max_batch=128)
        lists = lists_of(engine, requests_for(cases, max_history_items=preset.max_history_items))
        figures = ranking_metrics(rows_of(lists), [case.target for case in cases])
        return {name: figures[name] for name in ("recall@10", VALIDATION_METRIC)}

    def learn(teacher: Teacher, recipe: TrainingRecipe, work: Path, seed: int) -> dict[str, Any]:
        return train_target(
            model,
            sampler(teacher, recipe, seed),
            recipe,
            work=work,
            fingerprint=_fingerprint(prepared, {**asdict(preset), "draft": None}, sizes, seed),
            validate=validate,
            metric=VALIDATION_METRIC,
            on_progress=on_progress,
        )

    record = learn(teacher, recipe, work, seed)
    by_itself = recipe.by_itself()
    if by_itself is not None:
        on_stage("training the target on: its own beam is the teacher")
        copy = copy_for_inference(model, pick_dtype("auto", device))
        engine = Engine(copy, catalogue, layout, max_batch=recipe.batch_size)
        own = OwnBeam(engine, len(catalogue), device)
        record["self_distillation"] = learn(own, by_itself, work / OWN, seed + 1)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"preset": preset.name, "seed": seed, "parameters": model.num_parameters(), **record}


def train_list_draft(
    prepared: Prepared,
    target: Path,
    layout: TokenLayout,
    preset: Preset,
    variant: Variant,
    features: Features,
    out: Path,
    *,
    device: torch.device,
    seed: int,
    work: Path,
    lists: Path | None = None,
    on_stage: OnStage,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Let a target write lists, train a draft on them and save it to `out`.

    A run that was stopped goes on from what it left in `work`, which the caller removes when all is done. With `lists`,
    a file, drafts of one target learn from the same lists, which the first one writes for all, whatever their seeds;
    one that needs fewer takes the first ones.

    Returns:
        The training record.

    Raises:
        InputError: the layout or the preset's context does not fit the target, or there is nothing to learn from.
    """
    catalogue = prepared.catalogue
    model = load_target(target, device=device, dtype=pick_dtype("auto", device))
    check_layout(layout, model.config.vocab_size)
    decoding = _decoding(model.config.max_position_embeddings, layout, preset)
    # Lists that exclude a history must find as many items beside it.
    num_items = min(preset.list_items, decoding.max_num_items, max(1, len(catalogue) // 2))
    recipe = preset.draft
    digest = target_digest(target)
    config = DraftConfig.like(
        model.config,
        variant,
        num_levels=layout.num_levels,
        num_items=len(catalogue),
        max_steps=recipe.unroll_of(guesses_items(variant)),
        features=features,
        target_digest=digest,
    )
    requests = _training_requests(prepared.split.train, preset, num_items, seed)
    asked = _sample(prepared.split.cases("valid"), recipe.validation_users, seed)
    validation = [_request(str(n), case.history, preset, num_items, True) for n, case in enumerate(asked)]
    fingerprint = _fingerprint(prepared, digest, asdict(layout), preset.max_history_items, num_items)

    def on_written(done: int) -> None:
        on_stage(f"lists of the target: {done}/{len(requests)}")

    lists_file = work / WRITTEN_LISTS if lists is None else lists
    written = WrittenLists.load(lists_file, fingerprint)
    if written is None or written.num_asked < len(requests):
        engine = Engine(model, catalogue, layout, max_batch=512 if device.type == "cuda" else 128)
        partial = work / PARTIAL_LISTS
        written = write_lists(
            engine, requests, partial, _fingerprint(prepared, fingerprint, seed, len(requests)), on_written
        )
        written.save(lists_file, fingerprint)
        partial.unlink(missing_ok=True)
    written = written.first(len(requests))

    def validate(draft: Draft) -> dict[str, float]:
        copy = copy_for_inference(draft, model.dtype)
        answers = Engine(model, catalogue, layout, max_batch=64, draft=copy).write(validation)
        return {DRAFT_METRIC: accepted_length(answers) or 0.0}

    torch.manual_seed(seed)
    draft = Draft(config).to(device)
    record = train_draft(
        draft,
        model,
        written,
        catalogue.codes,
        layout,
        recipe,
        seed=seed,
        work=work,
        fingerprint=_fingerprint(prepared, fingerprint, seed, asdict(config), asdict(recipe)),
        validate=validate,
        metric=DRAFT_METRIC,
        on_progress=on_progress,
        on_read=lambda done: on_stage(f"lists that the target has read: {done}/{len(written)}"),
    )
    out.mkdir(exist_ok=True)
    save_draft(draft, out)
    return {
        "variant": variant,
        "features": features,
        "seed": seed,
        "lists": len(written),
        "parameters": draft.num_parameters(),
        "position_parameters": draft.num_position_parameters(),
        "position_share": draft.num_position_parameters() / draft.num_parameters(),
        **record,
    }


def _training_requests(train: Interactions, preset: Preset, num_items: int, seed: int) -> list[DecodeRequest]:
    """Random beginnings of histories, half of them with their own items excluded, as the service asks by default."""
    # No more lists than training will read; each beginning stands twice, once in either way.
    count = min(preset.draft.num_lists, preset.draft.steps * preset.draft.batch_size)
    drawn = np.random.default_rng(seed).permutation(2 * len(train.items))[:count]
    begin = np.repeat(train.offsets[:-1], np.diff(train.offsets))
    requests = []
    for number, (last, excludes) in enumerate(zip(drawn // 2, drawn % 2 == 1, strict=True)):
        history = train.items[begin[last] : last + 1]
        requests.append(_request(str(number), history, preset, num_items, excludes))
    return requests


def _request(
    request_id: str, history: Int32Array, preset: Preset, num_items: int, excludes: bool
) -> DecodeRequest:
    """A greedy list for a history, without that history's items where `excludes` says so."""
    return DecodeRequest(
        request_id=request_id,
        history=tuple(history[-preset.max_history_items :].tolist()),
        num_items=num_items,
        excluded=tuple(history.tolist()) if excludes else (),
    )


def build_bundle(
    dataset: Dataset,
    preset: Preset,
    out: Path,
    *,
    device: torch.device,
    seed: int = 0,
    semantic_ids: SemanticIds | None = None,
    target: Path | None = None,
    prompt: PromptText | None = None,
    decoding: Decoding = "list",
    draft: Variant | None = "slots",
    overwrite: bool = False,
    on_stage: OnStage,
    on_progress: OnProgress,
) -> Bundle:
    """Build a bundle, training whatever is not given.

    Args:
        dataset: items and interactions; its semantic IDs are used unless `semantic_ids` is given.
        preset: shape, context and recipe of the target, and the recipe of its draft; where `target` is given, its
            shape and recipe count for nothing.
        out: the bundle's folder; appears only when it is complete.
        device: to train on.
        seed: of everything that is random.
        semantic_ids: in place of those that came with the dataset or would be learned.
        target: an existing transformers checkpoint whose vocabulary holds the code tokens. It was trained on given
            semantic IDs, so these must be given here too.
        prompt: the text of the prompts that `target` was trained on; None: items alone.
        decoding: how lists are made where a request does not say; for `beam` a target is not trained by its own beam.
        draft: which variant of draft to train for the target; None for a bundle without one.
        overwrite: replace a bundle that is there.
        on_stage: told what begins, in a line.
        on_progress: told every training step.

    Raises:
        InputError: `out` exists, or an input does not fit.
    """
    check_new_folder(out, marker=MANIFEST, overwrite=overwrite)
    ids = semantic_ids or given_semantic_ids(dataset)
    if ids is None and target is not None:
        raise InputError(
            f"dataset {dataset.path} has no semantic IDs; pass the ones that the target was trained on"
        )
    if ids is None:
        on_stage("learning semantic IDs")
        ids = train_semantic_ids(
            dataset, seed=seed, on_level=lambda done, total: on_stage(f"semantic IDs: level {done}/{total}")
        )
    on_stage(describe(ids.report))
    catalogue = build_catalogue(dataset, ids)
    prepared = Prepared.of(dataset, catalogue)
    work = out.with_name(f"{out.name}.work")
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        if target is None:
            trained = preset.for_beams() if decoding == "beam" else preset
            on_stage(f"training target '{preset.name}' on {device}; after a stop, the same command goes on")
            training = train_list_target(
                prepared,
                ids.sizes,
                trained,
                folder / TARGET,
                device=device,
                seed=seed,
                work=work,
                on_stage=on_stage,
                on_progress=on_progress,
            )
        else:
            on_stage(f"taking target {target}")
            training = _take_target(target, folder / TARGET)
        layout, positions = _checked(target or folder / TARGET, ids.sizes, prompt)
        defaults = _decoding(positions, layout, preset, decoding)
        if draft is not None:
            on_stage(f"training draft '{draft}'; after a stop, the same command goes on")
            training["draft"] = train_list_draft(
                prepared,
                folder / TARGET,
                layout,
                preset,
                draft,
                "last",
                folder / DRAFT,
                device=device,
                seed=seed,
                work=work / DRAFT,
                on_stage=on_stage,
                on_progress=on_progress,
            )
        catalogue.write(folder / ITEMS)
        write_json(folder / POPULAR, _popular(prepared))
        seal(
            folder,
            num_items=len(catalogue),
            layout=layout,
            decoding=defaults,
            training={"dataset": dataset.name, "semantic_ids": asdict(ids.report), **training},
        )
    shutil.rmtree(work, ignore_errors=True)
    return Bundle.open(out)


def _take_target(target: Path, folder: Path) -> dict[str, Any]:
    """Copy a checkpoint, without anything pickled."""
    model = load_target(target, device=torch.device("cpu"), dtype=torch.float32)
    shutil.copytree(target, folder, ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.pkl", ".*"))
    return {"taken_from": target.name, "parameters": model.num_parameters()}


def _checked(target: Path, sizes: tuple[int, ...], prompt: PromptText | None) -> tuple[TokenLayout, int]:
    """A target's token layout and number of positions.

    Raises:
        InputError: the vocabulary lacks a code token, or the model lacks the embedding of one.
    """
    config = read_config(target)
    layout = read_layout(target, sizes, prompt)
    check_layout(layout, config.vocab_size)
    return layout, int(config.max_position_embeddings)


def _decoding(
    positions: int, layout: TokenLayout, preset: Preset, decoding: Decoding = "list"
) -> DecodingDefaults:
    left = positions - layout.prompt_length(preset.max_history_items)
    if left < layout.tokens_per_item:
        raise InputError(
            f"target: {positions} positions cannot hold {preset.max_history_items} items of history"
        )
    return DecodingDefaults(
        max_history_items=preset.max_history_items,
        max_num_items=min(MAX_NUM_ITEMS, left // layout.tokens_per_item),
        decoding=decoding,
    )


def _popular(prepared: Prepared) -> list[str]:
    counts = np.bincount(prepared.interactions.items, minlength=len(prepared.catalogue))
    return [prepared.catalogue.item_ids[row] for row in np.argsort(-counts, kind="stable")[:POPULAR_ITEMS]]


def _sample(cases: list[Case], at_most: int, seed: int) -> list[Case]:
    if not cases:
        raise InputError("no user has three interactions, so there is nothing to validate on")
    picked = np.random.default_rng(seed).permutation(len(cases))[:at_most]
    return [cases[index] for index in picked]


def _fingerprint(prepared: Prepared, *what: Any) -> str:
    """Changes when the data or `what`, plain data, does."""
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    digest.update(prepared.catalogue.codes.tobytes())
    digest.update(prepared.interactions.items.tobytes())
    digest.update(prepared.interactions.offsets.tobytes())
    return digest.hexdigest()
