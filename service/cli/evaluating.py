"""`padrec evaluate`."""

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.display import bar
from service.cli.options import BundlePath, DatasetPath, Decoding, Device, Dtype, DtypeName, JsonFile, Seed
from service.cli.reporting import check_json, command_line, print_rows
from service.errors import InputError

if TYPE_CHECKING:
    import torch

    from service.catalog.bundle import Bundle
    from service.evaluation.quality import Ranker
    from service.model.draft import Draft
    from service.prepared import Prepared

SPECULATIVE = "speculative"
_SHORT = {"ndcg@10_p": "p", "ms_per_list_p50": "ms p50", "equal_to_list": "equal"}
_NOT_SHOWN = ("_low", "_high", "@5")
# Of the lists with a draft beside those without: figures of `agreement_figures`, as they are called here.
_BESIDE_LIST = {"equal_to_reference": "equal_to_list", "largest_gap": "largest_gap", "gap_unit": "gap_unit"}
# Lists in flight, by whether a draft guesses for them: its trees are of the size that suits few lists.
_MAX_BATCH = {True: 32, False: 128}


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
            help="list: item by item; beam: the most probable next items; default: as the bundle says. Give both to "
            "compare."
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
    speculative: Annotated[
        bool,
        typer.Option(
            "--speculative", help="Write lists with the bundle's draft, too, and say how many are equal."
        ),
    ] = False,
    latency: Annotated[
        int,
        typer.Option(min=0, help="Also time lists that are made one at a time, for so many of the users."),
    ] = 0,
    device: Device = "auto",
    dtype: DtypeName = Dtype.AUTO,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Recall and NDCG at 5 and 10: leave-one-out, full catalogue, with simple baselines beside the bundle.

    Intervals are of 95%, by the bootstrap over users; p says how probable so large a difference to the first method is
    by chance.
    """
    from service.catalog.bundle import Bundle
    from service.data.dataset import Dataset
    from service.engine.engine import Engine
    from service.evaluation.near_ties import agreement_figures
    from service.evaluation.quality import (
        lists_of,
        median_ms,
        quality_rows,
        ranked_lists,
        requests_for,
        rows_of,
    )
    from service.evaluation.report import write_report
    from service.model.target import load_target, pick_device, pick_dtype
    from service.prepared import prepared_cases

    check_json(json_file)
    chosen = pick_device(device)
    opened = Bundle.open(bundle)
    kinds = decoding or [Decoding(opened.manifest.decoding.decoding)]
    ways = {kind.value: kind for kind in kinds}
    if speculative:
        if Decoding.LIST not in kinds:
            raise InputError("--speculative is compared with --decoding list; ask for it, too")
        ways[SPECULATIVE] = Decoding.LIST
    catalogue = opened.read_catalogue()
    prepared, cases = prepared_cases(Dataset.open(dataset), catalogue, split.value)
    cases = cases[:users]
    model = load_target(opened.target_path, device=chosen, dtype=pick_dtype(dtype, chosen))
    draft = _draft(opened, model.device, model.dtype) if speculative else None
    methods, ms, answers, asked = {}, {}, {}, {}
    for method, kind in ways.items():
        guesses = draft if method == SPECULATIVE else None
        asked[method] = requests_for(
            cases,
            max_history_items=opened.manifest.decoding.max_history_items,
            decoding=kind.value,
            exclude_seen=exclude_seen,
        )
        engine = Engine(model, catalogue, opened.layout, _MAX_BATCH[guesses is not None], guesses)
        with bar(method) as progress:
            update = partial(progress.update, total=len(cases))
            answers[method] = lists_of(engine, asked[method], on_progress=update)
        methods[method] = rows_of(answers[method])
        if latency:
            alone = Engine(model, catalogue, opened.layout, 1, guesses)
            ms[method] = median_ms(alone.write, asked[method][:latency], chosen)
    train = prepared.split.train
    for other in baseline or [Baseline.POPULARITY, Baseline.ITEM_KNN]:
        ranker = _ranker(other, prepared, len(catalogue), chosen, seed)
        rank = partial(ranked_lists, ranker, exclude_seen=exclude_seen)
        methods[other.value] = rank(cases)
        if latency:
            ms[other.value] = median_ms(rank, cases[:latency], chosen)
    rows = quality_rows(methods, cases, train, catalogue.codes, seed)
    for row in rows:
        row["ms_per_list_p50"] = ms.get(row["method"])
        row |= dict.fromkeys(_BESIDE_LIST.values())
        if row["method"] == SPECULATIVE:
            beside = agreement_figures(
                model,
                catalogue.codes,
                opened.layout,
                asked[SPECULATIVE],
                answers[Decoding.LIST.value],
                answers[SPECULATIVE],
            )
            row |= {name: beside[figure] for figure, name in _BESIDE_LIST.items()}
    measured = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    print_rows([_shown({name: row[name] for name in measured}) for row in rows])
    if json_file is not None:
        write_report(json_file, command_line(), chosen, rows)


def _draft(bundle: "Bundle", device: "torch.device", dtype: "torch.dtype") -> "Draft":
    """The bundle's own draft, for inference."""
    from service.model.draft import load_draft

    if bundle.draft_path is None:
        raise InputError(f"bundle {bundle.path} has no draft to write --speculative lists with")
    return load_draft(bundle.draft_path, device=device, dtype=dtype)


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
    """A row of an evaluation as it fits on a terminal: the interval below its metric; --json has it all."""
    shown = {_SHORT.get(name, name): value for name, value in row.items() if not name.endswith(_NOT_SHOWN)}
    for name in ("recall@10", "ndcg@10"):
        shown[name] = f"{row[name]:.4f}\n{row[f'{name}_low']:.4f}-{row[f'{name}_high']:.4f}"
    return shown
