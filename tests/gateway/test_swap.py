import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.catalog.bundle import Bundle
from service.errors import PadrecError, QueueFullError, RequestError, SwapUnderwayError
from service.gateway.query import RecommendQuery
from service.gateway.recommender import Recommender
from service.gateway.swap import Swap, Swaps
from service.rpc.messages import WorkerDescription
from tests.gateway.conftest import FakeWorker

ADDRESS = "127.0.0.1:1"


class NewWorker(FakeWorker):
    """One that says what it serves."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.manifest.num_items)
        self.model_version = bundle.manifest.model_version
        self.catalog_version = bundle.manifest.catalog_version

    async def describe(self, *, timeout: float) -> WorkerDescription:
        return WorkerDescription(self.model_version, self.catalog_version, 0, 1, 0, 1)


@pytest.fixture
def other(tmp_path: Path, make_bundle: Callable[..., Path]) -> Bundle:
    (tmp_path / "other").mkdir()
    return Bundle.open(make_bundle(tmp_path / "other", 12))


@pytest.fixture
def new_worker(other: Bundle) -> NewWorker:
    return NewWorker(other)


@pytest.fixture
def swaps(recommender: Recommender, new_worker: NewWorker) -> Swaps:
    """Of a gateway that was started alone."""
    return Swaps(recommender, lambda *_: new_worker, None)


async def outcome(swaps: Swaps) -> Swap:
    """Of the swap that is under way."""
    async with asyncio.timeout(60):
        while swaps.latest is None or swaps.latest.state not in ("done", "failed"):
            await asyncio.sleep(0.01)
    return swaps.latest


def counted(recommender: Recommender, kind: str) -> float:
    return (
        recommender.metrics.registry.get_sample_value("padrec_bundle_swaps_total", {"outcome": kind}) or 0.0
    )


async def test_another_bundle_is_served_and_the_old_one_let_go(
    swaps: Swaps, recommender: Recommender, other: Bundle, worker: Any, new_worker: NewWorker
) -> None:
    assert swaps.latest is None
    before = recommender.edition
    begun = await swaps.begin(other.path, ADDRESS)
    assert (begun.bundle, begun.state, begun.error) == (str(other.path), "checking", None)
    done = await outcome(swaps)
    assert (done.swap_id, done.state, done.error) == (begun.swap_id, "done", None)
    assert recommender.edition is not before
    assert swaps.serving.model_dump() == {
        "bundle": str(other.path),
        "model_version": other.manifest.model_version,
        "catalog_version": other.manifest.catalog_version,
        "num_items": 12,
    }
    assert len(new_worker.requests) == 1  # a list before anybody's
    assert (worker.is_closed, new_worker.is_closed) == (True, False)
    answer = await recommender.recommend(RecommendQuery(user_id="ann", history=["item-1", "item-15"]))
    assert answer.catalog_version == other.manifest.catalog_version
    assert answer.ignored_item_ids == ("item-15",)
    assert counted(recommender, "done") == 1.0


async def test_requests_that_run_keep_the_old_one_until_they_end(
    swaps: Swaps, recommender: Recommender, bundle: Bundle, other: Bundle, worker: Any
) -> None:
    worker.release.clear()
    query = RecommendQuery(user_id="ann", history=["item-1"])
    runs = asyncio.create_task(recommender.recommend(query))
    await worker.started.wait()
    await swaps.begin(other.path, ADDRESS)
    async with asyncio.timeout(60):
        while swaps.latest is None or swaps.latest.state != "draining":
            await asyncio.sleep(0.01)
    assert swaps.serving.bundle == str(other.path)
    assert (await recommender.recommend(query)).catalog_version == other.manifest.catalog_version
    with pytest.raises(SwapUnderwayError):
        await swaps.begin(bundle.path, ADDRESS)
    assert not worker.is_closed
    worker.release.set()
    assert (await runs).catalog_version == bundle.manifest.catalog_version
    assert (await outcome(swaps)).state == "done"
    assert worker.is_closed


async def test_one_that_may_not_be_served_is_told_at_once(
    swaps: Swaps, recommender: Recommender, other: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for path, worker, field, words in (
        (Path("other/bundle"), ADDRESS, "bundle", "absolute"),
        (tmp_path / "none", ADDRESS, "bundle", "no such bundle"),
        (tmp_path / "empty", ADDRESS, "bundle", r"manifest\.json is missing"),
        (Path("/" + "a" * 300), ADDRESS, "bundle", "cannot be read"),
        (Path("/\0"), ADDRESS, "bundle", "no such bundle|null byte"),
        (other.path, None, "worker", "give the address"),
        (other.path, "somewhere", "worker", "host:port"),
    ):
        with pytest.raises(RequestError, match=words) as raised:
            await swaps.begin(path, worker)
        assert raised.value.field == field
    assert swaps.latest is None
    recommender.settings = recommender.settings.model_copy(update={"bundle_folder": tmp_path / "empty"})
    (tmp_path / "empty" / "link").symlink_to(other.path)
    for path in (other.path, tmp_path / "empty" / ".." / "other" / "bundle", tmp_path / "empty" / "link"):
        with pytest.raises(RequestError, match="only bundles below"):
            await swaps.begin(path, ADDRESS)


def _unready(worker: NewWorker) -> None:
    worker.is_ready = False


def _other_model(worker: NewWorker) -> None:
    worker.model_version = "model-9"


def _full(worker: NewWorker) -> None:
    worker.error = QueueFullError("the queue is full")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_unready, "not ready within 0.2 s"),
        (_other_model, "the worker serves model model-9 of catalogue "),
        (_full, "the queue is full"),
    ],
)
async def test_a_worker_that_is_not_as_it_should_be_leaves_the_old_one(
    swaps: Swaps,
    recommender: Recommender,
    other: Bundle,
    worker: Any,
    new_worker: NewWorker,
    wrong: Callable[[NewWorker], None],
    words: str,
) -> None:
    recommender.settings = recommender.settings.model_copy(update={"max_load_seconds": 0.2})
    wrong(new_worker)
    before = recommender.edition
    await swaps.begin(other.path, ADDRESS)
    failed = await outcome(swaps)
    assert failed.state == "failed"
    assert words in (failed.error or "")
    assert recommender.edition is before
    assert (worker.is_closed, new_worker.is_closed) == (False, True)
    assert counted(recommender, "failed") == 1.0


async def test_a_torn_bundle_leaves_the_old_one(swaps: Swaps, other: Bundle, worker: Any) -> None:
    (other.path / "popular.json").write_text("[]")
    await swaps.begin(other.path, ADDRESS)
    failed = await outcome(swaps)
    assert failed.state == "failed"
    assert "popular.json does not match" in (failed.error or "")
    assert not worker.is_closed


class Launcher:
    """Answers orders as it is told to, and keeps them."""

    def __init__(self, *answers: dict[str, object] | None) -> None:
        self.answers = answers
        self.orders: list[dict[str, object]] = []
        self.is_left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in self.answers:
            if answer is None:  # it goes away
                break
            if "error" not in answer or not self.orders:
                self.orders.append(json.loads(await reader.readline()))
            writer.write(json.dumps(answer).encode() + b"\n")
        else:
            await reader.read()
            self.is_left.set()
        writer.close()


@pytest.fixture
def socket_path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="padrec-control-") as folder:  # a socket's path must be short
        yield f"{folder}/control"


@asynccontextmanager
async def listening(launcher: Launcher, path: str) -> AsyncIterator[None]:
    async with await asyncio.start_unix_server(launcher, path):
        yield


async def test_the_launcher_starts_the_worker_and_stops_the_old_one(
    recommender: Recommender, other: Bundle, new_worker: NewWorker, socket_path: str
) -> None:
    launcher = Launcher({"worker": "unix:/new"}, {"committed": True}, {"retired": True})
    called: list[tuple[str, str]] = []

    def connect(address: str, catalog_version: str) -> NewWorker:
        called.append((address, catalog_version))
        return new_worker

    swaps = Swaps(recommender, connect, socket_path)
    with pytest.raises(RequestError, match="name none"):
        await swaps.begin(other.path, ADDRESS)
    async with listening(launcher, socket_path):
        await swaps.begin(other.path, None)
        assert (await outcome(swaps)).state == "done"
        await launcher.is_left.wait()
    assert launcher.orders == [{"start": str(other.path)}, {"commit": True}, {"retire": True}]
    assert called == [("unix:/new", other.manifest.catalog_version)]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"error": "no room"}], "no room"),
        ([{"worker": "unix:/new"}, {"error": "the new worker was ended by SIGKILL"}], "SIGKILL"),
        ([{"worker": "unix:/new"}, None], "the launcher does not answer"),
        ([None], "the launcher does not answer"),
    ],
)
async def test_a_launcher_that_cannot_leaves_the_old_one(
    recommender: Recommender,
    other: Bundle,
    worker: Any,
    new_worker: NewWorker,
    socket_path: str,
    answers: list[dict[str, object] | None],
    words: str,
) -> None:
    new_worker.is_ready = False
    swaps = Swaps(recommender, lambda *_: new_worker, socket_path)
    async with listening(Launcher(*answers), socket_path):
        await swaps.begin(other.path, None)
        failed = await outcome(swaps)
    assert failed.state == "failed"
    assert words in (failed.error or "")
    assert not worker.is_closed


async def test_without_its_launcher_nothing_is_swapped(recommender: Recommender, other: Bundle) -> None:
    swaps = Swaps(recommender, lambda *_: NewWorker(other), "/nowhere")
    await swaps.begin(other.path, None)
    assert (await outcome(swaps)).error == "the launcher does not answer"


async def test_a_gateway_that_ends_gives_a_swap_up(
    recommender: Recommender, other: Bundle, new_worker: NewWorker, socket_path: str
) -> None:
    new_worker.is_ready = False
    launcher = Launcher({"worker": "unix:/new"})
    swaps = Swaps(recommender, lambda *_: new_worker, socket_path)
    async with listening(launcher, socket_path):
        await swaps.begin(other.path, None)
        while not launcher.orders:
            await asyncio.sleep(0.01)
        await swaps.close()
        await launcher.is_left.wait()


async def test_what_is_unexpected_is_told_without_details(
    swaps: Swaps, other: Bundle, new_worker: NewWorker
) -> None:
    new_worker.error = ZeroDivisionError("secret")
    await swaps.begin(other.path, ADDRESS)
    assert (await outcome(swaps)).error == "internal error; the log says more"
    new_worker.error = PadrecError("no")
    await swaps.begin(other.path, ADDRESS)
    assert (await outcome(swaps)).error == "no"
