"""From a dataset to a bundle: semantic IDs, the target, its draft, the catalogue, sealed together."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.catalog.bundle import DRAFT, ITEMS, MANIFEST, POPULAR, TARGET, Bundle, seal
from service.catalog.layout import TokenLayout
from service.data.dataset import Dataset
from service.drafts import train_list_draft
from service.errors import InputError
from service.files import check_new_folder, new_folder, write_json
from service.model.draft_config import Variant
from service.model.presets import Preset
from service.model.target import load_target, read_config
from service.model.vocabulary import PromptText, check_layout, read_layout
from service.prepared import Prepared, build_catalogue
from service.targets import train_list_target
from service.training.item_ids import SemanticIds, describe, given_semantic_ids, train_semantic_ids
from service.training.loop import OnProgress, OnStage
from service.types import Decoding

POPULAR_ITEMS = 1_000


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
        defaults = preset.decoding(positions, layout, decoding)
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


def _popular(prepared: Prepared) -> list[str]:
    counts = np.bincount(prepared.interactions.items, minlength=len(prepared.catalogue))
    return [prepared.catalogue.item_ids[row] for row in np.argsort(-counts, kind="stable")[:POPULAR_ITEMS]]
