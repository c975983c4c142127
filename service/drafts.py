"""Training a draft: its target writes lists, from which it learns to foresee them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.data.dataset import Interactions
from service.engine.engine import Engine
from service.evaluation.acceptance import accepted_length
from service.model.copies import copy_for_inference
from service.model.draft import Draft, save_draft
from service.model.draft_config import DraftConfig, Features, Variant, guesses_items
from service.model.presets import Preset
from service.model.target import load_target, pick_dtype, target_digest
from service.model.vocabulary import check_layout
from service.prepared import Prepared
from service.training.draft import train_draft
from service.training.loop import OnProgress, OnStage
from service.training.written_lists import WrittenLists, write_lists
from service.types import DecodeRequest

DRAFT_METRIC = "accepted_length"
# In the work folder. What others may take, they find whole or not at all.
WRITTEN_LISTS, PARTIAL_LISTS = "lists.npz", "lists.partial.npz"


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
    decoding = preset.decoding(model.config.max_position_embeddings, layout)
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
    asked = prepared.validation_cases(recipe.validation_users, seed)
    validation = [_request(str(n), case.history, preset, num_items, True) for n, case in enumerate(asked)]
    fingerprint = prepared.fingerprint(digest, asdict(layout), preset.max_history_items, num_items)

    def on_written(done: int) -> None:
        on_stage(f"lists of the target: {done}/{len(requests)}")

    lists_file = work / WRITTEN_LISTS if lists is None else lists
    written = WrittenLists.load(lists_file, fingerprint)
    if written is None or written.num_asked < len(requests):
        engine = Engine(model, catalogue, layout, max_batch=512 if device.type == "cuda" else 128)
        partial = work / PARTIAL_LISTS
        written = write_lists(
            engine, requests, partial, prepared.fingerprint(fingerprint, seed, len(requests)), on_written
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
        fingerprint=prepared.fingerprint(fingerprint, seed, asdict(config), asdict(recipe)),
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
