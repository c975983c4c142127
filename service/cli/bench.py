"""`padrec bench`: what things cost."""

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.display import bar
from service.cli.options import BundlePath, DatasetPath, Device, Dtype, DtypeName, JsonFile, Seed
from service.cli.reporting import check_json, command_line, print_rows
from service.errors import InputError
from service.types import MAX_TEMPERATURE, MIN_TEMPERATURE, MIN_TOP_P

if TYPE_CHECKING:
    from service.catalog.bundle import Bundle
    from service.evaluation.decode_bench import Question
    from service.evaluation.decode_methods import Method, TreeKind

app = typer.Typer(help="Measure.", no_args_is_help=True)


class Tree(StrEnum):
    """What a draft's guesses form."""

    CHAIN = "chain"
    TREE = "tree"
    BOTH = "both"
    AUTO = "auto"


class Picture(StrEnum):
    """What `bench plot` draws."""

    LENGTHS = "lengths"
    SPEEDS = "speeds"
    QUALITY = "quality"


BASELINES = ("autoregressive", "transformers")

# What a terminal has room for, under shorter names; --json has it all.
_SHOWN = {
    "method": "method",
    "draft": "draft",
    "tree": "tree",
    "batch": "batch",
    "lists_per_second": "lists/s",
    "ms_per_list_p50": "p50 ms",
    "ms_per_list_p99": "p99 ms",
    "speed_up": "speed-up",
    "accepted_length": "accepted",
    "accepted_length_without_forced": "not forced",
    "equal_to_reference": "equal",
}


@app.command("decode")
def bench_decode(
    bundle: BundlePath,
    dataset: DatasetPath,
    draft: Annotated[
        list[Path] | None,
        typer.Option("--draft", help="Folder of a draft, in place of the bundle's own; may be repeated."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Lists in a batch; several numbers with commas.")] = "1,8",
    users: Annotated[int, typer.Option(min=1, help="So many test users, in an order of the seed.")] = 200,
    num_items: Annotated[int, typer.Option(min=1, help="Length of the lists.")] = 10,
    tree: Annotated[
        Tree, typer.Option(help="What a draft's guesses form; auto: as the service decides.")
    ] = Tree.BOTH,
    passes: Annotated[
        str, typer.Option(help="Passes of the draft in a round; several numbers with commas.")
    ] = "",
    width: Annotated[int | None, typer.Option(min=1, help="Branches that a tree extends.")] = None,
    places: Annotated[
        str,
        typer.Option(help="The most tokens of a tree, forced ones included; several numbers with commas."),
    ] = "",
    share: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of all trees of a round, for each list; the most probable have room."
        ),
    ] = None,
    unconstrained: Annotated[
        bool, typer.Option("--unconstrained", help="The draft guesses without the trie; lists are the same.")
    ] = False,
    compare: Annotated[
        str, typer.Option(help="Also measure autoregressive, transformers, both (with a comma) or none ('').")
    ] = "autoregressive",
    temperature: Annotated[
        float, typer.Option(min=0, max=MAX_TEMPERATURE, help="0 writes the most probable.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option(min=MIN_TOP_P, max=1, help="Of sampling.")] = 1.0,
    exclude_seen: Annotated[
        bool, typer.Option(help="Lists hold no item of the history, as the service asks.")
    ] = True,
    check: Annotated[int, typer.Option(min=0, help="So many lists are compared with the reference's.")] = 50,
    device: Device = "auto",
    dtype: DtypeName = Dtype.AUTO,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, help="How often each list is timed.")] = 3,
    warm_up: Annotated[
        bool,
        typer.Option(
            help="Write lists untimed first; without, times mean nothing and the rest comes sooner."
        ),
    ] = True,
    json_file: JsonFile = None,
) -> None:
    """Time the writing of lists with and without drafts, and compare them with the reference's.

    A list's latency is that of its batch, from the prompt to the last item.
    """
    from service.catalog.bundle import Bundle
    from service.data.dataset import Dataset
    from service.evaluation.decode_bench import Question, measure_decode, requests_of
    from service.evaluation.report import write_report
    from service.model.target import load_target, pick_device, pick_dtype
    from service.model.vocabulary import check_layout
    from service.prepared import prepared_cases

    batches, baselines = _numbers("--batch", batch), _baselines(compare)
    sizes = [
        {"passes": a, "places": b}
        for a in (_numbers("--passes", passes) if passes else [None])
        for b in (_numbers("--places", places) if places else [None])
    ]
    if 0 < temperature < MIN_TEMPERATURE:
        raise InputError(f"--temperature {temperature} is neither 0 nor at least {MIN_TEMPERATURE}")
    if width is not None and tree is Tree.CHAIN:
        raise InputError("--width is an option of trees; a chain has none")
    if tree is Tree.AUTO and (passes or places or width is not None or share is not None or unconstrained):
        raise InputError(
            "--tree auto chooses by itself; leave out --passes, --width, --places, --share, --unconstrained"
        )
    check_json(json_file)
    chosen = pick_device(device)
    opened = Bundle.open(bundle)
    limits = opened.manifest.decoding
    if num_items > limits.max_num_items:
        raise InputError(f"--num-items {num_items}: this bundle's lists hold at most {limits.max_num_items}")
    folders = _drafts(opened, draft or [])
    if not folders and not baselines:
        raise InputError(f"bundle {bundle} has no draft; pass --draft or --compare")
    prepared, cases = prepared_cases(Dataset.open(dataset), opened.read_catalogue(), "test")
    model = load_target(opened.target_path, device=chosen, dtype=pick_dtype(dtype, chosen))
    check_layout(opened.layout, model.config.vocab_size)
    question = Question(
        model=model,
        catalogue=prepared.catalogue,
        layout=opened.layout,
        requests=requests_of(
            _shuffled(cases, seed)[:users],
            num_items=num_items,
            max_history_items=limits.max_history_items,
            exclude_seen=exclude_seen,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        ),
        num_checked=check,
        seed=seed,
    )
    kinds: dict[Tree, tuple[TreeKind, ...]] = {
        Tree.CHAIN: ("chain",),
        Tree.TREE: ("tree",),
        Tree.BOTH: ("chain", "tree"),
        Tree.AUTO: ("auto",),
    }
    shapes = [{"constrained": not unconstrained, "width": width, "share": share, **size} for size in sizes]
    methods = _plain_methods(question, baselines)
    methods += _draft_methods(question, folders, opened.target_digest, kinds[tree], shapes)
    with bar("decoding") as progress:
        rows = measure_decode(
            question,
            methods,
            batches=batches,
            repeats=repeats,
            warms_up=warm_up,
            on_progress=progress.update,
        )
    print_rows([{shown: _short(row[name]) for name, shown in _SHOWN.items()} for row in rows])
    if json_file is not None:
        write_report(json_file, command_line(), chosen, rows)


@app.command("plot")
def bench_plot(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="From 'bench decode --json'; from 'evaluate --json' for quality."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The picture to write, an .svg.")],
    what: Annotated[
        Picture, typer.Option(help="Accepted lengths, lists per second, or quality by latency.")
    ] = Picture.LENGTHS,
) -> None:
    """Draw accepted lengths by method, a point for each draft and the mean over drafts of a variant; or something else.

    Speeds are lists per second by the size of the batch, with the speed-up over the engine alone. Quality is NDCG@10 by
    the time that a list takes, of methods that 'evaluate --latency' timed.
    """
    from service.evaluation.decode_plot import draw, read_lengths
    from service.evaluation.quality_plot import draw_qualities, read_qualities
    from service.evaluation.speed_plot import draw_speeds, read_speeds
    from service.files import check_new_file, write_atomic

    if out.suffix != ".svg":
        raise InputError(f"--out {out} is no .svg")
    check_new_file(out, overwrite=True)
    drawers: dict[Picture, Callable[[], bytes]] = {
        Picture.LENGTHS: lambda: draw(read_lengths(files)),
        Picture.SPEEDS: lambda: draw_speeds(read_speeds(files)),
        Picture.QUALITY: lambda: draw_qualities(read_qualities(files)),
    }
    write_atomic(out, drawers[what]())
    print(f"drawn {out}")


@app.command("trie")
def bench_trie(
    items: Annotated[int, typer.Option(min=1, help="Size of the catalogue.")] = 1_000_000,
    levels: Annotated[int, typer.Option(min=1, max=8, help="Codes per item.")] = 4,
    codebook_size: Annotated[int, typer.Option(min=2, help="Codes at each level.")] = 256,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Build a trie of random semantic IDs and ask, as lists do, what may come next."""
    import torch

    from service.evaluation.report import write_report
    from service.evaluation.trie_bench import measure_trie

    check_json(json_file)
    rows = measure_trie(items, levels, codebook_size, seed)
    print_rows(rows)
    if json_file is not None:
        write_report(json_file, command_line(), torch.device("cpu"), rows)


def _short(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise InputError(f"{option} '{text}' is not a list of numbers from 1, like 1,8")
    return list(dict.fromkeys(numbers))


def _baselines(text: str) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in BASELINES:
            raise InputError(f"--compare '{name}' is not one of {', '.join(BASELINES)}")
    return names


def _drafts(bundle: "Bundle", given: Sequence[Path]) -> dict[str, Path]:
    """Folders of drafts by the names that rows call them: a folder's own, or its whole path where two share one."""
    own = [] if bundle.draft_path is None else [bundle.draft_path]
    folders = list(dict.fromkeys(given)) or own
    counts = Counter(folder.name for folder in folders)
    return {folder.name if counts[folder.name] == 1 else str(folder): folder for folder in folders}


def _shuffled(cases: Sequence[Any], seed: int) -> list[Any]:
    import numpy as np

    return [cases[index] for index in np.random.default_rng(seed).permutation(len(cases))]


def _plain_methods(question: "Question", names: Sequence[str]) -> "list[Method]":
    from service.evaluation.decode_methods import autoregressive_method, transformers_method

    makers: tuple[Callable[..., Method], ...] = (
        autoregressive_method,
        transformers_method,
    )
    make = dict(zip(BASELINES, makers, strict=True))
    return [make[name](question.model, question.catalogue, question.layout) for name in names]


def _draft_methods(
    question: "Question",
    folders: dict[str, Path],
    target_digest: str,
    kinds: "Sequence[TreeKind]",
    shapes: Sequence[dict[str, Any]],
) -> "list[Method]":
    from service.engine.tree import TreeShape
    from service.evaluation.decode_methods import draft_method, shape_of
    from service.model.draft import check_draft, load_draft

    model, catalogue, layout = question.model, question.catalogue, question.layout
    methods = []
    for name, folder in folders.items():
        draft = load_draft(folder, device=model.device, dtype=model.dtype)
        if draft.config.guesses_items and not all(options["constrained"] for options in shapes):
            raise InputError(
                f"draft {folder} guesses items, which are paths of the trie; leave out --unconstrained"
            )
        try:
            check_draft(draft.config, model.config, layout.num_levels, len(catalogue), target_digest)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from error
        for kind, options in product(kinds, shapes):
            if kind == "auto":
                shape = TreeShape.menu(draft.config, model.device)[0]
            else:
                shape = shape_of(kind, draft.config, **options)
            methods.append(
                draft_method(
                    model,
                    catalogue,
                    layout,
                    draft,
                    name=name,
                    tree=kind,
                    shape=shape,
                    requests=question.requests,
                )
            )
    return methods
