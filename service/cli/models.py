"""`padrec bundle` and `train`: what makes and checks a model."""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.display import Bar, bar, say
from service.cli.options import BundlePath, DatasetPath, Decoding, Device, Seed
from service.errors import InputError

if TYPE_CHECKING:
    from service.catalog.items import Catalogue
    from service.catalog.layout import TokenLayout
    from service.data.dataset import Dataset
    from service.model.presets import Preset
    from service.training.item_ids import SemanticIds
    from service.training.loop import Progress

bundle_app = typer.Typer(help="Build and check bundles.", no_args_is_help=True)
train_app = typer.Typer(help="The stages of 'bundle build' one by one.", no_args_is_help=True)

PresetName = Annotated[str, typer.Option("--preset", help="tiny, small or base.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Training steps, in place of the preset's.")
]
SemanticIdsFile = Annotated[
    Path | None,
    typer.Option(
        "--semantic-ids", help="From 'train semantic-ids', in place of the dataset's or learned ones."
    ),
]
SharedCodes = Annotated[
    bool, typer.Option("--shared-codes", help="One set of code tokens for all levels of the semantic IDs.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]


def preset_with(name: str, steps: int | None, *, shares_codes: bool = False) -> "Preset":
    """A preset, with `steps` in place of its own where they are given; a draft is trained for no more than them."""
    from service.model.presets import preset_named

    preset = dataclasses.replace(preset_named(name), shares_codes=shares_codes)
    if steps is None:
        return preset
    recipe = dataclasses.replace(preset.training, steps=steps)
    draft = dataclasses.replace(preset.draft, steps=min(preset.draft.steps, steps))
    return dataclasses.replace(preset, training=recipe, draft=draft)


def shower(shown: Bar) -> "Callable[[Progress], None]":
    """Shows training progress on a bar."""
    return lambda at: shown.update(at.step, at.steps, lambda: f"loss {at.loss:.3f} {_metrics(at.metrics)}")


@bundle_app.command("build")
def bundle_build(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle; must not exist.")],
    preset: PresetName = "tiny",
    device: Device = "auto",
    seed: Seed = 0,
    steps: Steps = None,
    shared_codes: SharedCodes = False,
    semantic_ids: SemanticIdsFile = None,
    target: Annotated[
        Path | None,
        typer.Option("--target", help="An existing transformers checkpoint that holds the code tokens."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="The text of prompts that --target was trained on, with {history} where the items are."
        ),
    ] = None,
    between: Annotated[str, typer.Option(help="The text between two items in such a prompt.")] = ", ",
    decoding: Annotated[
        Decoding,
        typer.Option(
            help="How lists are made where a request does not say; beam is for targets that were trained for the next "
            "item alone, and needs no draft."
        ),
    ] = Decoding.LIST,
    draft: Annotated[bool, typer.Option(help="Train a draft for the target.")] = True,
    draft_variant: Annotated[str, typer.Option(help="none, item, step, both or slots.")] = "slots",
    overwrite: Overwrite = False,
) -> None:
    """Semantic IDs, target, draft and catalogue in one folder; trains what is not given."""
    from service.build import build_bundle
    from service.data.dataset import Dataset
    from service.model.draft_config import variant_named
    from service.model.target import pick_device
    from service.model.vocabulary import PromptText
    from service.training.item_ids import read_semantic_ids

    if prompt is not None and target is None:
        raise InputError("--prompt is for a --target that was trained on such prompts")
    data = Dataset.open(dataset)
    with bar("training") as training:
        bundle = build_bundle(
            data,
            preset_with(preset, steps, shares_codes=shared_codes),
            out,
            device=pick_device(device),
            seed=seed,
            semantic_ids=None if semantic_ids is None else read_semantic_ids(semantic_ids, data),
            target=target,
            prompt=None if prompt is None else PromptText.of(prompt, between),
            decoding=decoding.value,
            draft=variant_named(draft_variant) if draft and decoding is Decoding.LIST else None,
            overwrite=overwrite,
            on_stage=say,
            on_progress=shower(training),
        )
    print(f"bundle {out}: model {bundle.manifest.model_version}, {bundle.manifest.num_items} items")


@bundle_app.command("check")
def bundle_check(path: BundlePath) -> None:
    """Check every file of a bundle against its manifest, and that target and draft load and fit each other."""
    import torch

    from service.catalog.bundle import Bundle
    from service.model.draft import check_draft, load_draft
    from service.model.target import load_target
    from service.model.vocabulary import check_layout

    bundle = Bundle.open(path)
    catalogue = bundle.read_catalogue()
    bundle.read_popular()
    model = load_target(bundle.target_path, device=torch.device("cpu"), dtype=torch.float32)
    check_layout(bundle.layout, model.config.vocab_size)
    drafted = "no draft"
    if bundle.draft_path is not None:
        draft = load_draft(bundle.draft_path, device=model.device, dtype=model.dtype)
        check_draft(
            draft.config, model.config, bundle.layout.num_levels, len(catalogue), bundle.target_digest
        )
        drafted = f"draft '{draft.config.variant}' of {draft.num_parameters() / 1e6:.1f}M"
    print(
        f"bundle {path} is sound: model {bundle.manifest.model_version} "
        f"({model.num_parameters() / 1e6:.1f}M parameters, {drafted}), catalogue {bundle.manifest.catalog_version} "
        f"({len(catalogue)} items, {catalogue.num_distinct_ids} distinct semantic IDs)"
    )


@train_app.command("semantic-ids")
def train_semantic_ids(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    levels: Annotated[int, typer.Option(min=1, max=8, help="Codes per item.")] = 3,
    codebook_size: Annotated[
        int | None, typer.Option(min=2, max=65_536, help="Codes at each level; default by catalogue size.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Learn semantic IDs by residual k-means over text and co-occurrence vectors."""
    from service.data.dataset import Dataset
    from service.files import check_new_file
    from service.training.item_ids import describe, train_semantic_ids, write_semantic_ids

    check_new_file(out, overwrite=overwrite)
    data = Dataset.open(dataset)
    with bar("semantic IDs") as learning:
        ids = train_semantic_ids(
            data, num_levels=levels, codebook_size=codebook_size, seed=seed, on_level=learning.update
        )
    write_semantic_ids(ids, data, out)
    left = ", ".join(f"{share:.0%}" for share in ids.report.unexplained)
    print(f"{describe(ids.report)}; variance left by level: {left}")


@train_app.command("target")
def train_target(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option("--out", help="Folder of the checkpoint; must not exist.")],
    preset: PresetName = "tiny",
    device: Device = "auto",
    seed: Seed = 0,
    steps: Steps = None,
    shared_codes: SharedCodes = False,
    semantic_ids: SemanticIdsFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a target to write lists; the same command goes on after a stop."""
    from service.data.dataset import Dataset
    from service.files import new_folder, write_json
    from service.model.target import pick_device
    from service.prepared import Prepared, build_catalogue
    from service.targets import CHECKPOINT, train_list_target

    data = Dataset.open(dataset)
    ids = _semantic_ids(data, semantic_ids)
    work = out.with_name(f"{out.name}.work")
    with new_folder(out, marker=CHECKPOINT, overwrite=overwrite) as folder, bar("training") as training:
        record = train_list_target(
            Prepared.of(data, build_catalogue(data, ids)),
            ids.sizes,
            preset_with(preset, steps, shares_codes=shared_codes),
            folder,
            device=pick_device(device),
            seed=seed,
            work=work,
            on_stage=say,
            on_progress=shower(training),
        )
        write_json(folder / "training.json", record)
    shutil.rmtree(work)
    best = record["best"]
    print(f"target {out}: best at step {best['step']}, {_metrics(best['metrics'])}")


@train_app.command("draft")
def train_draft(
    dataset: DatasetPath,
    target: Annotated[
        Path,
        typer.Option("--target", help="A transformers checkpoint that holds the code tokens, or a bundle."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the draft; must not exist.")],
    variant: Annotated[str, typer.Option(help="none, item, step, both or slots.")] = "slots",
    features: Annotated[str, typer.Option(help="Of the target: last or fused.")] = "last",
    preset: PresetName = "tiny",
    unroll: Annotated[
        int | None, typer.Option(min=1, max=32, help="Tokens ahead, in place of the preset's.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    steps: Steps = None,
    semantic_ids: SemanticIdsFile = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            help="File of the target's lists: written if they are not in it, for other drafts to use."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a draft on lists that its target writes; the same command goes on after a stop."""
    from service.data.dataset import Dataset
    from service.drafts import train_list_draft
    from service.files import new_folder, write_json
    from service.model.draft import WEIGHTS
    from service.model.draft_config import features_named, variant_named
    from service.model.presets import preset_named
    from service.model.target import pick_device
    from service.prepared import Prepared

    data = Dataset.open(dataset)
    chosen = preset_named(preset)
    own = {name: value for name, value in (("steps", steps), ("unroll", unroll)) if value is not None}
    chosen = dataclasses.replace(chosen, draft=dataclasses.replace(chosen.draft, **own))
    source = _source_of(target, data, semantic_ids, chosen)
    work = out.with_name(f"{out.name}.work")
    with new_folder(out, marker=WEIGHTS, overwrite=overwrite) as folder, bar("training") as training:
        record = train_list_draft(
            Prepared.of(data, source.catalogue),
            source.target,
            source.layout,
            source.preset,
            variant_named(variant),
            features_named(features),
            folder,
            device=pick_device(device),
            seed=seed,
            work=work,
            lists=lists,
            on_stage=say,
            on_progress=shower(training),
        )
        write_json(folder / "training.json", record)
    shutil.rmtree(work)
    best = record["best"]
    print(f"draft {out}: best at step {best['step']}, {_metrics(best['metrics'])}")


@dataclass(frozen=True, slots=True)
class _Source:
    """What a draft is trained for; the preset has the context of a bundle's target."""

    catalogue: "Catalogue"
    target: Path
    layout: "TokenLayout"
    preset: "Preset"


def _source_of(target: Path, data: "Dataset", semantic_ids: Path | None, preset: "Preset") -> _Source:
    from service.catalog.bundle import MANIFEST, Bundle
    from service.model.target import read_config
    from service.model.vocabulary import read_layout
    from service.prepared import build_catalogue

    if (target / MANIFEST).is_file():
        if semantic_ids is not None:
            raise InputError(f"bundle {target} has semantic IDs of its own; leave --semantic-ids out")
        bundle = Bundle.open(target)
        context = dataclasses.replace(preset, max_history_items=bundle.manifest.decoding.max_history_items)
        return _Source(bundle.read_catalogue(), bundle.target_path, bundle.layout, context)
    read_config(target)  # the clearer word on what is no target at all
    ids = _semantic_ids(data, semantic_ids)
    return _Source(build_catalogue(data, ids), target, read_layout(target, ids.sizes), preset)


def _semantic_ids(data: "Dataset", file: Path | None) -> "SemanticIds":
    """Those of a file, else those that came with the dataset."""
    from service.training.item_ids import given_semantic_ids, read_semantic_ids

    ids = given_semantic_ids(data) if file is None else read_semantic_ids(file, data)
    if ids is None:
        raise InputError(
            f"dataset {data.path} has no semantic IDs; pass --semantic-ids (from 'train semantic-ids')"
        )
    return ids


def _metrics(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())
