"""`padrec evaluate`."""

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.display import bar
from service.cli.options import BundlePath, DatasetPath, Decoding, Device, JsonFile, Seed
from service.cli.reporting import check_json, command_line, print_rows

if TYPE_CHECKING:
    import torch

    from service.build import Prepared
    from service.evaluation.quality import Ranker


class Split(StrEnum):
    """Whose targets are asked for."""

    VALID = "valid"
    TEST = "test"


class Baseline(StrEnum):
    """What a bundle's lists are compared with."""

    POPULARITY = "popularity"
    ITEM_KNN = "item-knn"
    SASREC = "sasrec"


def evaluate(
    bundle: BundlePath,
    dataset: DatasetPath,
    split: Annotated[Split, typer.Option(help="Whose targets are asked for.")] = Split.TEST,
    decoding: Annotated[
        list[Decoding] | None,
        typer.Option(
            help="list, the default: item by item; beam: the most probable next items. Give both to compare."
        ),
    ] = None,
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(
            help="To compare with; popularity and item-knn by default. sasrec, with cross-entropy, is trained first."
        ),
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="The first so many users; default all.")] = None,
    exclude_seen: Annotated[bool, typer.Option(help="Lists hold no item of the history.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Recall and NDCG at 5 and 10: leave-one-out, full catalogue, with simple baselines beside the bundle.

    Intervals are of 95%, by the bootstrap over users; p says how probable so large a difference to the first method is
    by chance.
    """
    from service.build import prepared_cases
    from service.catalog.bundle import Bundle
    from service.data.dataset import Dataset
    from service.engine.engine import Engine
    from service.evaluation.quality import lists_of, quality_rows, ranked_lists
    from service.evaluation.report import write_report
    from service.model.target import load_target, pick_device, pick_dtype

    check_json(json_file)
    chosen = pick_device(device)
    opened = Bundle.open(bundle)
    catalogue = opened.read_catalogue()
    prepared, cases = prepared_cases(Dataset.open(dataset), catalogue, split.value)
    cases = cases[:users]
    model = load_target(opened.target_path, device=chosen, dtype=pick_dtype("auto", chosen))
    engine = Engine(model, catalogue, opened.layout, max_batch=128)
    methods = {}
    for name in decoding or [Decoding.LIST]:
        with bar(name) as progress:
            methods[name.value] = lists_of(
                engine,
                cases,
                max_history_items=opened.manifest.decoding.max_history_items,
                decoding=name.value,
                exclude_seen=exclude_seen,
                on_progress=partial(progress.update, total=len(cases)),
            )
    train = prepared.split.train
    for other in baseline or [Baseline.POPULARITY, Baseline.ITEM_KNN]:
        ranker = _ranker(other, prepared, len(catalogue), chosen, seed)
        methods[other.value] = ranked_lists(ranker, cases, exclude_seen=exclude_seen)
    rows = quality_rows(methods, cases, train, catalogue.codes, seed)
    print_rows([_shown(row) for row in rows])
    if json_file is not None:
        write_report(json_file, command_line(), chosen, rows)


def _ranker(
    baseline: Baseline, prepared: "Prepared", num_items: int, device: "torch.device", seed: int
) -> "Ranker":
    """A baseline that has seen the training part."""
    from service.evaluation.quality import Popularity
    from service.teachers import sasrec_for
    from service.training.teacher import ItemKnn

    train = prepared.split.train
    if baseline is Baseline.POPULARITY:
        return Popularity(train, num_items)
    if baseline is Baseline.ITEM_KNN:
        return ItemKnn(train, num_items)
    with bar("training sasrec") as progress:

        def on_epoch(epoch: int, most: int, value: float) -> None:
            progress.update(epoch, most, f"validation ndcg@10 {value:.4f}")

        return sasrec_for(prepared.split, num_items, device=device, seed=seed, on_epoch=on_epoch)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an evaluation as it fits on a terminal: the interval below its metric."""
    shown = {name: value for name, value in row.items() if not name.endswith(("_low", "_high"))}
    for name in ("recall@10", "ndcg@10"):
        shown[name] = f"{row[name]:.4f}\n{row[f'{name}_low']:.4f}-{row[f'{name}_high']:.4f}"
    return shown
