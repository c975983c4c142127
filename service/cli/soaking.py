"""`padrec bench soak` and `bench prefix`: what a worker does for very many requests, and for users who come back."""

import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.bench import Dtype
from service.cli.display import bar, say
from service.cli.options import DatasetPath, Device, JsonFile, Seed
from service.cli.reporting import check_json, command_line, print_rows
from service.errors import InputError, PadrecError

if TYPE_CHECKING:
    from service.engine.engine import Engine

_DRAIN_SECONDS = 60.0


class Speculation(StrEnum):
    """The worker's setting of this name."""

    OFF = "off"
    AUTO = "auto"
    ON = "on"


def bench_soak(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    dataset: DatasetPath,
    requests: Annotated[int, typer.Option(min=10, help="How many.")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests on their way at a time.")] = 64,
    max_batch: Annotated[int, typer.Option(min=1, help="Lists written at the same time.")] = 32,
    kept_prompts: Annotated[int, typer.Option(min=0, help="Histories whose prompts are kept.")] = 64,
    speculation: Annotated[Speculation, typer.Option(help="How much is guessed.")] = Speculation.AUTO,
    check: Annotated[int, typer.Option(min=0, help="So many lists are compared with the reference's.")] = 20,
    device: Device = "auto",
    dtype: Annotated[Dtype, typer.Option(help="auto: bfloat16 on a GPU, else float32.")] = Dtype.AUTO,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Send mixed requests through a worker's queue and engine: each must be answered once, and rightly.

    Lengths, filters, temperatures, priorities, deadlines and callers that go away are mixed. Ends with an error where
    one is answered twice or wrongly, a list is left in the engine, or the engine failed.
    """
    import torch
    from prometheus_client import CollectorRegistry

    from service.build import Prepared
    from service.catalog.bundle import Bundle
    from service.cli.serving import build_engine
    from service.config import WorkerSettings
    from service.data.dataset import Dataset
    from service.engine.reference import write_list
    from service.evaluation.near_ties import agreement_figures
    from service.evaluation.report import write_report
    from service.evaluation.soak import mixed_requests, resident_bytes, soak, soak_figures
    from service.model.target import load_target, pick_device, pick_dtype
    from service.telemetry.metrics import WorkerMetrics
    from service.worker.loop import EngineLoop
    from service.worker.scheduler import Scheduler

    check_json(json_file)
    chosen = pick_device(device)
    opened = Bundle.open(bundle)
    catalogue, limits = opened.read_catalogue(), opened.manifest.decoding
    prepared = Prepared.of(Dataset.open(dataset), catalogue)
    histories = [case.history.tolist() for case in prepared.split.cases("test")]
    if not histories:
        raise InputError(f"dataset {dataset}: no user has three interactions, so there is nothing to ask")
    settings = WorkerSettings.model_validate(
        {
            "device": device,
            "dtype": dtype.value,
            "speculation": speculation.value,
            "max_batch": max_batch,
            "kept_prompts": kept_prompts,
        }
    )
    engines: list[Engine] = []
    is_ready = threading.Event()

    def build() -> "Engine":
        engines.append(build_engine(opened, settings))
        return engines[0]

    def watch() -> dict[str, int]:
        held = {"host_bytes": resident_bytes()}
        return held | ({"device_bytes": torch.cuda.memory_allocated(chosen)} if chosen.type == "cuda" else {})

    scheduler = Scheduler(max(1, 2 * concurrency))
    loop = EngineLoop(
        build, scheduler, WorkerMetrics(CollectorRegistry()), on_ready=is_ready.set, on_end=is_ready.set
    )
    say("loading the engine")
    loop.start()
    is_ready.wait()
    if loop.failure is not None:
        raise loop.failure
    asked = mixed_requests(
        histories,
        num_rows=len(catalogue),
        max_history_items=limits.max_history_items,
        max_num_items=limits.max_num_items,
        seed=seed,
    )
    with bar("soaking") as progress:
        done = soak(
            asked,
            scheduler,
            num_requests=requests,
            concurrency=concurrency,
            num_rows=len(catalogue),
            num_sampled=check,
            watch=watch,
            on_progress=progress.update,
        )
    scheduler.close()
    if not loop.join(_DRAIN_SECONDS):
        raise PadrecError(f"the engine was not done {_DRAIN_SECONDS:.0f} s after the last reply")
    model = load_target(opened.target_path, device=chosen, dtype=pick_dtype(dtype, chosen))
    sample = [request for request, _ in done.sample]
    agreement = agreement_figures(
        model,
        catalogue.codes,
        opened.layout,
        sample,
        [write_list(model, catalogue.codes, opened.layout, request) for request in sample],
        [written for _, written in done.sample],
    )
    row = {"requests": requests, "concurrency": concurrency, "max_batch": max_batch, **soak_figures(done)}
    row |= agreement | {"not_allowed": row["not_allowed"] + agreement["not_allowed"]}
    row["left_in_engine"] = engines[0].num_running
    print_rows([{"figure": name, "value": value} for name, value in row.items()])
    if json_file is not None:
        write_report(json_file, command_line(), chosen, [row])
    amiss = [name for name in ("failed", "answered_twice", "not_allowed", "left_in_engine") if row[name]]
    if amiss:
        raise PadrecError(", ".join(f"{name} {row[name]}" for name in amiss))


def bench_prefix(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    history_items: Annotated[int, typer.Option(min=2, help="Items of a history.")] = 100,
    users: Annotated[int, typer.Option(min=1, help="Users of either kind.")] = 30,
    device: Device = "auto",
    dtype: Annotated[Dtype, typer.Option(help="auto: bfloat16 on a GPU, else float32.")] = Dtype.AUTO,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Time the prefill of users who are new, and of those who come back with one more item.

    Histories may be longer than the bundle's target would be given; what they hold is random.
    """
    from service.catalog.bundle import Bundle
    from service.engine.engine import Engine
    from service.evaluation.prefix_bench import measure_prefixes
    from service.evaluation.report import write_report
    from service.model.draft import load_draft
    from service.model.target import load_target, pick_device, pick_dtype

    check_json(json_file)
    chosen = pick_device(device)
    opened = Bundle.open(bundle)
    picked = pick_dtype(dtype, chosen)
    model = load_target(opened.target_path, device=chosen, dtype=picked)
    draft = None if opened.draft_path is None else load_draft(opened.draft_path, device=chosen, dtype=picked)
    catalogue = opened.read_catalogue()
    with bar("prefilling") as progress:
        row = measure_prefixes(
            lambda kept: Engine(model, catalogue, opened.layout, 1, draft, num_prefixes=kept),
            device=chosen,
            num_rows=len(catalogue),
            history_items=history_items,
            num_users=users,
            seed=seed,
            on_progress=progress.update,
        )
    print_rows([row])
    if json_file is not None:
        write_report(json_file, command_line(), chosen, [row])
