"""From a dataset to a bundle: semantic IDs, the target, the catalogue, sealed together."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from service.catalog.bundle import ITEMS, POPULAR, TARGET, Bundle, DecodingDefaults, seal
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.data.dataset import Dataset, Interactions
from service.data.split import Case, LeaveOneOut
from service.engine.engine import Engine
from service.errors import InputError
from service.evaluation.quality import evaluate_lists
from service.files import new_folder, write_json
from service.model.presets import Preset
from service.model.target import build_target, load_target
from service.model.vocabulary import build_tokenizer, layout_of, read_layout
from service.training.item_vectors import item_vectors
from service.training.lists import ListSampler
from service.training.semantic_ids import SemanticIdReport, default_codebook_size, learn_semantic_ids
from service.training.target import Progress, train_target
from service.training.teacher import ItemKnn

MAX_NUM_ITEMS = 50
POPULAR_ITEMS = 1_000
VECTOR_DIMENSIONS = 64
VALIDATION_METRIC = "ndcg@10"

OnProgress = Callable[[Progress], None]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SemanticIds:
    """Codes of a dataset's items, in the order of its items table.

    Attributes:
        codes: [num_items, L].
        sizes: codes at each level.
    """

    codes: IntArray
    sizes: tuple[int, ...]
    report: SemanticIdReport


def given_semantic_ids(dataset: Dataset) -> SemanticIds | None:
    """The semantic IDs that came with a dataset, if any."""
    sizes = dataset.info.code_levels
    if sizes is None:
        return None
    codes = np.array(dataset.items()["codes"].to_pylist(), dtype=np.int64)
    return SemanticIds(codes, sizes, SemanticIdReport.of(codes, sizes))


def train_semantic_ids(
    dataset: Dataset, *, num_levels: int = 3, codebook_size: int | None = None, seed: int = 0
) -> SemanticIds:
    """Learn semantic IDs from the dataset's text and training interactions.

    Raises:
        InputError: the items have neither text nor company to learn from.
    """
    size = codebook_size or default_codebook_size(dataset.num_items)
    train = LeaveOneOut(dataset.interactions()).train
    vectors = item_vectors(dataset.items(), train, dimensions=VECTOR_DIMENSIONS, seed=seed)
    if not vectors.shape[1]:
        raise InputError(f"dataset {dataset.path}: items have neither text nor co-occurrence to learn from")
    codes, report = learn_semantic_ids(vectors, num_levels=num_levels, codebook_size=size, seed=seed)
    return SemanticIds(codes, (size,) * num_levels, report)


def write_semantic_ids(ids: SemanticIds, dataset: Dataset, out: Path) -> None:
    """Write columns `item_id` and `codes`, with the code sizes in the file's metadata."""
    table = pa.table(
        {"item_id": dataset.items()["item_id"], "codes": pa.array(list(ids.codes.astype(np.int32)))}
    )
    scratch = out.with_name(f".{out.name}.partial")
    pq.write_table(table.replace_schema_metadata({"code_sizes": json.dumps(ids.sizes)}), scratch)
    scratch.rename(out)


def read_semantic_ids(file: Path, dataset: Dataset) -> SemanticIds:
    """Read what `write_semantic_ids` wrote.

    Raises:
        InputError: the file is torn or is not about this dataset's items.
    """
    try:
        table = pq.read_table(file)
        sizes = tuple(json.loads(table.schema.metadata[b"code_sizes"]))
        codes = np.array(table["codes"].to_pylist(), dtype=np.int64)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} does not hold semantic IDs: {str(error).splitlines()[0]}") from error
    if table["item_id"].to_pylist() != dataset.items()["item_id"].to_pylist():
        raise InputError(f"{file} holds the semantic IDs of another dataset's items")
    return SemanticIds(codes, sizes, SemanticIdReport.of(codes, sizes))


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
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Train a target of `preset` and save it to `out` as a transformers checkpoint with its tokenizer.

    A run that was stopped goes on from what it left in `work`; when it ends well, `work` is removed.

    Returns:
        The training record.
    """
    catalogue, train = prepared.catalogue, prepared.split.train
    tokenizer = build_tokenizer(sizes)
    layout = layout_of(tokenizer, sizes)
    positions = layout.prompt_length(preset.max_history_items) + MAX_NUM_ITEMS * layout.tokens_per_item
    model = build_target(preset, len(tokenizer), positions, seed).to(device)
    recipe = preset.training
    sampler = ListSampler(
        train,
        catalogue.codes,
        layout,
        ItemKnn(train, len(catalogue)),
        max_history_items=preset.max_history_items,
        list_items=preset.list_items,
        history_dropout=recipe.history_dropout,
        history_loss=recipe.history_loss,
        seed=seed,
    )
    if not len(sampler):
        raise InputError("no user has two training interactions, so there is no list to learn")
    cases = _sample(prepared.split.cases("valid"), recipe.validation_users, seed)

    def validate(model: PreTrainedModel) -> dict[str, float]:
        engine = Engine(model, catalogue, layout, max_batch=128)
        row = evaluate_lists(engine, cases, max_history_items=preset.max_history_items)
        return {name: row[name] for name in ("recall@10", VALIDATION_METRIC)}

    record = train_target(
        model,
        sampler,
        recipe,
        work=work,
        fingerprint=_fingerprint(prepared, preset, seed),
        validate=validate,
        metric=VALIDATION_METRIC,
        on_progress=on_progress,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    shutil.rmtree(work)
    return {"preset": preset.name, "seed": seed, "parameters": model.num_parameters(), **record}


def build_bundle(
    dataset: Dataset,
    preset: Preset,
    out: Path,
    *,
    device: torch.device,
    seed: int = 0,
    semantic_ids: SemanticIds | None = None,
    target: Path | None = None,
    overwrite: bool = False,
    on_stage: Callable[[str], None],
    on_progress: OnProgress,
) -> Bundle:
    """Build a bundle, training whatever is not given.

    Args:
        dataset: items and interactions; its semantic IDs are used unless `semantic_ids` is given.
        preset: shape, context and recipe of the target; its context alone where `target` is given.
        out: the bundle's folder; appears only when it is complete.
        device: to train on.
        seed: of everything that is random.
        semantic_ids: in place of those that came with the dataset or would be learned.
        target: an existing transformers checkpoint whose vocabulary holds the code tokens.
        overwrite: replace a bundle that is there.
        on_stage: told what begins, in a line.
        on_progress: told every training step.

    Raises:
        InputError: `out` exists, or an input does not fit.
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another --out or pass --overwrite")
    ids = semantic_ids or given_semantic_ids(dataset)
    if ids is None:
        on_stage("learning semantic IDs")
        ids = train_semantic_ids(dataset, seed=seed)
    on_stage(describe(ids.report))
    catalogue = build_catalogue(dataset, ids)
    prepared = Prepared.of(dataset, catalogue)
    work = out.with_name(f"{out.name}.work")
    with new_folder(out, overwrite=overwrite) as folder:
        if target is None:
            on_stage(f"training target '{preset.name}' on {device}; after a stop, the same command goes on")
            training = train_list_target(
                prepared,
                ids.sizes,
                preset,
                folder / TARGET,
                device=device,
                seed=seed,
                work=work,
                on_progress=on_progress,
            )
        else:
            on_stage(f"taking target {target}")
            training = _take_target(target, folder / TARGET, device)
        layout = read_layout(folder / TARGET, ids.sizes)
        catalogue.write(folder / ITEMS)
        write_json(folder / POPULAR, _popular(prepared))
        seal(
            folder,
            num_items=len(catalogue),
            layout=layout,
            decoding=_decoding(folder / TARGET, layout, preset),
            training={"dataset": dataset.name, "semantic_ids": asdict(ids.report), **training},
        )
    return Bundle.open(out)


def describe(report: SemanticIdReport) -> str:
    """A report in a line."""
    usage = ", ".join(f"{share:.0%}" for share in report.code_usage)
    return (
        f"semantic IDs: {report.num_items} items, {report.num_distinct} distinct IDs, "
        f"{report.num_sharing} items share theirs; codes used by level: {usage}"
    )


def _take_target(target: Path, folder: Path, device: torch.device) -> dict[str, Any]:
    model = load_target(target, device=device, dtype=torch.float32)
    shutil.copytree(target, folder, ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.pkl", ".*"))
    return {"taken_from": target.name, "parameters": model.num_parameters()}


def _decoding(target: Path, layout: TokenLayout, preset: Preset) -> DecodingDefaults:
    positions = json.loads((target / "config.json").read_bytes())["max_position_embeddings"]
    left = positions - layout.prompt_length(preset.max_history_items)
    if left < layout.tokens_per_item:
        raise InputError(
            f"target: {positions} positions cannot hold {preset.max_history_items} items of history"
        )
    return DecodingDefaults(
        max_history_items=preset.max_history_items,
        max_num_items=min(MAX_NUM_ITEMS, left // layout.tokens_per_item),
    )


def _popular(prepared: Prepared) -> list[str]:
    counts = np.bincount(prepared.interactions.items, minlength=len(prepared.catalogue))
    return [prepared.catalogue.item_ids[row] for row in np.argsort(-counts, kind="stable")[:POPULAR_ITEMS]]


def _sample(cases: list[Case], at_most: int, seed: int) -> list[Case]:
    if not cases:
        raise InputError("no user has three interactions, so there is nothing to validate on")
    picked = np.random.default_rng(seed).permutation(len(cases))[:at_most]
    return [cases[index] for index in picked]


def _fingerprint(prepared: Prepared, preset: Preset, seed: int) -> str:
    digest = hashlib.sha256(json.dumps([asdict(preset), seed], sort_keys=True).encode())
    digest.update(prepared.catalogue.codes.tobytes())
    digest.update(prepared.interactions.items.tobytes())
    digest.update(prepared.interactions.offsets.tobytes())
    return digest.hexdigest()
