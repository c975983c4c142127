"""`padrec serve`, `gateway`, `worker` and `recommend`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import LOCAL_URL, ApiKey, BundlePath, CaFile, CertificateFile, Decoding, KeyFile, Url
from service.errors import InputError

if TYPE_CHECKING:
    from service.catalog.bundle import Bundle
    from service.catalog.items import Catalogue
    from service.config import Settings, WorkerSettings
    from service.engine.engine import Engine
    from service.rpc.tls import ClientTls
    from service.types import DecodeRequest

# What a start may take longer to learn what guessing costs; a CPU that is slower than that learns it in service.
_WARM_UP_SECONDS = {"cpu": 3.0, "cuda": 300.0}
_PIPED_WIDTH = 10_000  # characters; lines are only as long as they have to be

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings in TOML; PADREC_* variables win.")
]
Port = Annotated[int | None, typer.Option("--port", help="HTTP port, in place of the settings'.")]
GrpcPort = Annotated[
    int | None,
    typer.Option("--grpc-port", help="gRPC port, in place of the settings', which are none by default."),
]


def serve(
    bundle: BundlePath, config: ConfigFile = None, port: Port = None, grpc_port: GrpcPort = None
) -> None:
    """Serve a bundle: one worker and one gateway, restarted when they die."""
    from service.cli.display import say
    from service.config import load_settings
    from service.launch import serve as launch

    settings = _with_ports(load_settings(config), port, grpc_port)
    sys.exit(launch(bundle, settings, config, on_ready=lambda url: say(f"serving {bundle} at {url}")))


def gateway(
    bundle: BundlePath,
    config: ConfigFile = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket to inherit.")] = None,
) -> None:
    """The process that speaks items: REST and gRPC in front of a worker."""
    import socket

    from service.config import load_settings
    from service.gateway.server import run_gateway

    try:
        sockets = None if fd is None else [socket.socket(fileno=fd)]
    except OSError as error:
        raise InputError(f"--fd {fd} is no listening socket: {error.strerror}") from error
    run_gateway(bundle, _with_ports(load_settings(config), port, grpc_port), sockets=sockets)


def worker(
    bundle: BundlePath,
    config: ConfigFile = None,
    beside: Annotated[
        bool, typer.Option("--beside", hidden=True, help="Another worker is replaced.")
    ] = False,
) -> None:
    """The process that owns the device: target and engine behind the internal gRPC."""
    from service.config import load_settings
    from service.worker.process import end_process, run_worker

    run_worker(bundle, load_settings(config), build_engine, beside=beside)
    # Nothing is left to be saved, and the interpreter would take torch apart for more than a second.
    end_process(0)


def build_engine(bundle: "Bundle", settings: "WorkerSettings") -> "Engine":
    """The engine that a worker's settings ask for."""
    import structlog
    import torch

    from service.engine.engine import Engine
    from service.engine.load import ByLoad, warm_up
    from service.engine.tree import TreeShape
    from service.model.draft import check_draft, load_draft
    from service.model.target import load_target, pick_device, pick_dtype
    from service.model.vocabulary import check_layout

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        # A pass whose threads wait for a core waits whole, and the gateway, or who looks at its console, needs one too.
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    model = load_target(bundle.target_path, device=device, dtype=dtype)
    check_layout(bundle.layout, model.config.vocab_size)
    catalogue = bundle.read_catalogue()
    draft, trees = None, None
    if settings.speculation != "off" and bundle.draft_path is not None:
        draft = load_draft(bundle.draft_path, device=device, dtype=dtype)
        check_draft(
            draft.config, model.config, bundle.layout.num_levels, len(catalogue), bundle.target_digest
        )
        if settings.speculation == "auto":
            trees = ByLoad(TreeShape.menu(draft.config, device))
    engine = Engine(
        model,
        catalogue,
        bundle.layout,
        settings.max_batch,
        draft,
        trees,
        max_items=bundle.manifest.decoding.max_num_items,
        num_prefixes=settings.kept_prompts,
    )
    log, decoding = structlog.get_logger(__name__), bundle.manifest.decoding
    longest_prompt = bundle.layout.prompt_length(decoding.max_history_items)
    engine.reserve(longest_prompt)
    if trees is not None:
        seconds = _WARM_UP_SECONDS.get(device.type, 0.0)
        found = warm_up(engine, trees, _popular_requests(bundle, catalogue), seconds)
        log.info("speculation measured", best_by_batch=found)
    started = time.perf_counter()
    captured = engine.make_ready(longest_prompt)
    log.info("graphs captured", count=captured, seconds=round(time.perf_counter() - started, 3))
    return engine


def _popular_requests(bundle: "Bundle", catalogue: "Catalogue") -> "list[DecodeRequest]":
    """Lists for users of popular items, as the gateway would ask for them."""
    import numpy as np

    from service.types import DecodeRequest

    decoding = bundle.manifest.decoding
    rows = [row for item in bundle.read_popular() if (row := catalogue.row_of(item)) is not None]
    drawn = np.random.default_rng(0).choice(rows or [0], size=(8, min(10, decoding.max_history_items)))
    return [
        DecodeRequest(str(number), tuple(history), min(10, decoding.max_num_items), tuple(history))
        for number, history in enumerate(drawn.tolist())
    ]


def recommend(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's ID.")],
    history: Annotated[
        str | None,
        typer.Option(help="Item IDs, oldest first, separated by commas; default: the stored history."),
    ] = None,
    num_items: Annotated[int, typer.Option(help="Length of the list.")] = 10,
    decoding: Annotated[
        Decoding | None,
        typer.Option(
            help="list: item by item; beam: the most probable next items; default: as the bundle says."
        ),
    ] = None,
    url: Url = LOCAL_URL,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, help="Time for the answer; default: five seconds.")
    ] = None,
    api_key: ApiKey = None,
    ca: CaFile = None,
    certificate: CertificateFile = None,
    key: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
) -> None:
    """Ask a running service for a list."""
    body: dict[str, Any] = {"user_id": user, "num_items": num_items, "deadline_ms": deadline_ms}
    if decoding is not None:
        body["decoding"] = decoding.value
    if history is not None:
        body["history"] = [item for item in history.split(",") if item]
    answer = ask(url, body, api_key=api_key, tls=client_tls(ca, certificate, key))
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print_answer(answer)


def client_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> "ClientTls":
    """What the options say; raises `InputError`."""
    from service.rpc.tls import ClientTls

    if (certificate is None) != (key is None):
        raise InputError("give --certificate and --key together")
    return ClientTls(ca, certificate, key)


def ask(
    url: str, body: dict[str, Any], *, api_key: str | None = None, tls: "ClientTls | None" = None
) -> dict[str, Any]:
    """One `POST /recommend`.

    Raises:
        InputError: a file of `tls` cannot be used.
        PadrecError: nothing answers there, or the answer is an error.
    """
    from service.client import Client

    verify = tls.context() if tls is not None and url.startswith("https") else True
    with Client(url, api_key=api_key, verify=verify) as client:
        return client.recommend(**body).model_dump(mode="json")


def print_answer(answer: dict[str, Any]) -> None:
    """A list as a table, and what there is to say about it in a line."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    # Where a terminal is too narrow it is titles that are cut, and nothing is in a pipe.
    rank, item_id, score = (Column(name, no_wrap=True) for name in ("rank", "item", "score"))
    table = Table(rank, item_id, Column("title"), score, box=None, pad_edge=False)
    for item in answer["items"]:
        value = "" if item["score"] is None else f"{item['score']:.3f}"
        # `Text`, for a title may hold what rich would take for markup.
        title = Text(item["title"], no_wrap=True, overflow="ellipsis")
        table.add_row(str(item["rank"]), Text(item["item_id"]), title, value)
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    console.print(table)
    notes = [f"{answer['timings']['total_ms']:.0f} ms", f"model {answer['model_version']}"]
    if answer["fallback"]:
        notes.append(f"fallback: {answer['fallback']}")
    if answer["ignored_item_ids"]:
        notes.append(f"ignored: {', '.join(answer['ignored_item_ids'])}")
    console.print(Text("; ".join(notes), style="dim"))


def _with_ports(settings: "Settings", port: int | None, grpc_port: int | None) -> "Settings":
    ports = {"port": port, "grpc_port": grpc_port}
    given = {name: number for name, number in ports.items() if number is not None}
    for name, number in given.items():
        if not 0 <= number <= 65_535:
            raise InputError(f"--{name.replace('_', '-')} {number} is not between 0 and 65535")
    return settings.model_copy(update={"gateway": settings.gateway.model_copy(update=given)})
