"""`padrec demo`: a synthetic shop, a target and a draft trained on it, and the service; nothing else is needed."""

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.display import bar, say
from service.errors import InputError

if TYPE_CHECKING:
    from service.config import Settings
    from service.data.dataset import Dataset

# Enough for lists that follow a user's interests, in the minute or two that a newcomer waits; a model for
# more than show is built with 'padrec bundle build'.
STEPS = 320
DRAFT_STEPS = 80
_LEARNING_RATE = 6e-3
_NUM_EXAMPLES = 20  # users to pick in the console


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Print one recommendation as JSON and exit, on any free port.")
    ] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where the demo keeps its shop and bundle.")] = Path(
        ".demo"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="HTTP port.")] = 8000,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, the first time.")] = STEPS,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Serve nothing: build the bundle, put the shop's histories where the settings say, and exit.",
        ),
    ] = False,
) -> None:
    """Build a demo bundle the first time, then serve it."""
    from service.config import load_settings
    from service.launch import serve

    if once and prepare:
        raise InputError("--once serves, and --prepare does not: give one of them")
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "bundle"
    dataset = _shop(folder / "shop")
    if not (bundle / "manifest.json").is_file():
        _build(dataset, bundle, steps)
    users = dataset.interactions().user_ids[:_NUM_EXAMPLES]
    if prepare:
        asyncio.run(_remember(dataset, load_settings(), users[0]))
        say(f"{bundle} can be served")
        return
    settings = _settings(load_settings(), folder, 0 if once else port, users)
    user = users[0]
    asyncio.run(_remember(dataset, settings, user))

    def on_ready(url: str) -> None:
        from service.cli.serving import ask

        answer = ask(url, {"user_id": user})
        if once:
            print(json.dumps(answer, indent=2, ensure_ascii=False), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            _show(url, dataset, user, answer)

    raise SystemExit(serve(bundle, settings, None, on_ready=on_ready))


def _shop(path: Path) -> "Dataset":
    from service.data.dataset import INFO, Dataset
    from service.data.synthesize import synthesize

    if (path / INFO).is_file():
        return Dataset.open(path)
    say("making a shop of 2,000 items and 4,000 users")
    return synthesize(path)


def _build(dataset: "Dataset", bundle: Path, steps: int) -> None:
    import torch

    from service.build import build_bundle
    from service.cli.models import preset_with, shower

    preset = preset_with("tiny", steps)
    # So few steps have to be large ones, and leave no history known by heart.
    training = replace(preset.training, learning_rate=_LEARNING_RATE, history_substitution=0.0)
    draft = replace(preset.draft, steps=min(DRAFT_STEPS, steps), validate_every=DRAFT_STEPS)
    with bar("training") as shown:
        build_bundle(
            dataset,
            replace(preset, training=training, draft=draft),
            bundle,
            device=torch.device("cpu"),
            on_stage=say,
            on_progress=shower(shown),
        )


def _settings(settings: "Settings", folder: Path, port: int, users: Sequence[str]) -> "Settings":
    """The operator's settings, with the demo's own history and users, and no word but warnings beside the demo's."""
    history = {"url": f"sqlite:///{(folder / 'history.sqlite3').absolute()}"}
    return settings.model_copy(
        update={
            "gateway": settings.gateway.model_copy(update={"port": port, "example_users": tuple(users)}),
            "history": settings.history.model_copy(update=history),
            "log": settings.log.model_copy(update={"level": "warning"}),
        }
    )


async def _remember(dataset: "Dataset", settings: "Settings", user: str) -> None:
    """Put the shop's histories into the store, unless the one of `user` is there."""
    import pyarrow.parquet as pq

    from service.data.dataset import INTERACTIONS
    from service.history.opening import open_store
    from service.types import Event

    store = open_store(settings.history)
    try:
        if not await store.get(user):
            events = pq.read_table(dataset.path / INTERACTIONS)
            await store.append([Event(**event) for event in events.to_pylist()])
    finally:
        await store.close()


def _show(url: str, dataset: "Dataset", user: str, answer: dict[str, Any]) -> None:
    from service.cli.serving import print_answer

    body = json.dumps({"user_id": user, "num_items": 10})
    print(f"\nthe shop is open: {url}/console?user={user} (reference: {url}/docs). Ask for a list:\n")
    print(f"  curl -s {url}/recommend -H 'content-type: application/json' -d '{body}'\n")
    print(f"user {user} met last:")
    titles = dict(zip(*(dataset.items()[name].to_pylist() for name in ("item_id", "title")), strict=True))
    for item_id in _latest(url, user):
        print(f"  {titles.get(item_id, item_id)}")
    print("\nand is recommended:")
    print_answer(answer)
    print("\nCtrl-C ends it.", flush=True)


def _latest(url: str, user: str, count: int = 5) -> tuple[str, ...]:
    from service.client import Client

    with Client(url) as client:
        return client.get_history(user).item_ids[-count:]
