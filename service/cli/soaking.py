"""`padrec bench soak` and `bench prefix`: what a worker does for very many requests, and for users who come back."""

import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.display import bar, say
from service.cli.options import BundlePath, DatasetPath, Device, Dtype, DtypeName, JsonFile, Seed
from service.cli.reporting import check_json, command_line, print_rows
from service.errors import PadrecError

if TYPE_CHECKING:
    from service.config import WorkerSettings
    from service.engine.engine import Engine

_DRAIN_SECONDS = 60.0


class Speculation(StrEnum):
    """The worker's setting of this name."""

    OFF = "off"
    AUTO = "auto"
    ON = "on"


def bench_soak(
    bundle: BundlePath,
    dataset: DatasetPath,
    requests: Annotated[int, typer.Option(min=10, help="How many.")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests on their way at a time.")] = 64,
    max_batch: Annotated[int, typer.Option(min=1, help="Lists written at the same time.")] = 32,
    kept_prompts: Annotated[int, typer.Option(min=0, help="Histories whose prompts are kept.")] = 64,
    speculation: Annotated[Speculation, typer.Option(help="How much is guessed.")] = Speculation.AUTO,
    check: Annotated[int, typer.Option(min=0, help="So many lists are compared with the reference's.")] = 20,
    device: Device = "auto",
    dtype: DtypeName = Dtype.AUTO,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Send mixed requests through a worker's queue and engine: each must be answered once, and rightly.

    Lengths, filters, temperatures, priorities, deadlines and callers that go away are mixed. Ends with an error where
    one is answered twice or wrongly, a list is left in the engine, or the engine failed.
    """
    import torch
    from prometheus_client import CollectorRegistry

    from service.catalog.bundle import Bundle
    from service.cli.serving import build_engine
    from service.data.dataset import Dataset
    from service.engine.reference import write_list
    from service.evaluation.near_ties import agreement_figures
    from service.evaluation.report import write_report
    from service.evaluation.soak import mixed_requests, resident_bytes, soak, soak_figures
    from service.model.target import load_target, pick_device, pick_dtype
    from service.prepared import prepared_cases
    from service.telemetry.metrics import WorkerMetrics
    from service.worker.loop import EngineLoop
    from service.worker.scheduler import Scheduler

    check_json(json_file)
    chosen = pick_device(device)
    opened = Bundle.open(bundle)
    catalogue, limits = opened.read_catalogue(), opened.manifest.decoding
    _, cases = prepared_cases(Dataset.open(dataset), catalogue, "test")
    settings = _settings(device, dtype, speculation, max_batch, kept_prompts)
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
        [case.history.tolist() for case in cases],
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
    row["checked"] = len(sample)
    row |= agreement | {"not_allowed": row["not_allowed"] + agreement["not_allowed"]}
    row["left_in_engine"] = engines[0].num_running
    print_rows([{"figure": name, "value": value} for name, value in row.items()])
    if json_file is not None:
        write_report(json_file, command_line(), chosen, [row])
    amiss = [name for name in ("failed", "answered_twice", "not_allowed", "left_in_engine") if row[name]]
    if amiss:
        raise PadrecError(", ".join(f"{name} {row[name]}" for name in amiss))


def bench_prefix(
    bundle: BundlePath,
    history_items: Annotated[int, typer.Option(min=2, help="Items of a history.")] = 100,
    users: Annotated[int, typer.Option(min=1, help="Users of either kind.")] = 30,
    batch: Annotated[int, typer.Option(min=1, help="Users who come at the same time.")] = 1,
    device: Device = "auto",
    dtype: DtypeName = Dtype.AUTO,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Time the prefill of users who are new, and of those who come back with one more item; milliseconds per user.

    Histories may be longer than the bundle's target would be given; what they hold is random.
    """
    from service.catalog.bundle import Bundle
    from service.cli.serving import build_engine
    from service.evaluation.prefix_bench import measure_prefixes
    from service.evaluation.report import write_report
    from service.model.target import pick_device

    check_json(json_file)
    chosen = pick_device(device)
    opened = Bundle.open(bundle)
    with bar("prefilling") as progress:
        row = measure_prefixes(
            lambda kept: build_engine(opened, _settings(device, dtype, Speculation.ON, batch, kept)),
            device=chosen,
            num_rows=opened.manifest.num_items,
            history_items=history_items,
            num_users=users,
            batch=batch,
            seed=seed,
            on_progress=progress.update,
        )
    print_rows([row])
    if json_file is not None:
        write_report(json_file, command_line(), chosen, [row])


def _settings(
    device: str, dtype: Dtype, speculation: Speculation, max_batch: int, kept_prompts: int
) -> "WorkerSettings":
    from service.config import WorkerSettings

    return WorkerSettings.model_validate(
        {
            "device": device,
            "dtype": dtype.value,
            "speculation": speculation.value,
            "max_batch": max_batch,
            "kept_prompts": kept_prompts,
        }
    )
