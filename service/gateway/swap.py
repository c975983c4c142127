"""Another bundle takes the place of the one that is served, and no request fails for it."""

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, Field

from service.catalog.bundle import ITEMS, POPULAR, Bundle, Manifest
from service.errors import (
    BundleError,
    InputError,
    PadrecError,
    RequestError,
    SwapUnderwayError,
    first_line,
)
from service.gateway.edition import Edition, Worker
from service.gateway.new_worker import Source, launched, running
from service.gateway.recommender import Recommender
from service.rpc.messages import WorkerDescription
from service.rpc.target import target_of
from service.types import DecodeRequest

State = Literal["checking", "loading", "switching", "draining", "done", "failed"]

_POLL_SECONDS = 0.1
# One that runs already has nothing to load.
_RUNNING_SECONDS = 30.0
# Beyond the longest deadline, when every request has its answer.
_LAST_ANSWERS_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class DescribedWorker(Worker, Protocol):
    """A worker that says what it serves."""

    async def describe(self, *, timeout: float) -> WorkerDescription:
        """What it serves; raises what `decode` raises."""
        ...


# By address and catalogue version.
Connect = Callable[[str, str], DescribedWorker]


class Swap(BaseModel):
    """A swap of bundles, as it stands."""

    model_config = ConfigDict(frozen=True)

    swap_id: str
    bundle: str = Field(description="The folder of the bundle that is to be served.")
    state: State = Field(
        description="checking: its files are read; loading: a worker loads it beside the one that serves; switching: "
        "new requests get it; draining: requests that began before are finished with the old one, whose worker then "
        "ends; done; failed: the old one serves on, as error says why."
    )
    error: str | None = Field(None, description="Why it failed, in a line.")
    seconds: float = Field(description="Since it was asked for; of one that is over, until then.")


class Serving(BaseModel):
    """What is served."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    bundle: str = Field(description="The bundle's folder.")
    model_version: str
    catalog_version: str
    num_items: int


class Swaps:
    """Swaps the recommender's edition, one swap at a time.

    Args:
        recommender: whose edition.
        connect: a client of a worker.
        launcher: the socket of who starts workers; None: they run already when a swap is asked for.
    """

    def __init__(self, recommender: Recommender, connect: Connect, launcher: str | None) -> None:
        self._recommender, self._connect, self._launcher = recommender, connect, launcher
        self._latest: Swap | None = None
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def serving(self) -> Serving:
        """What requests get that start now."""
        edition = self._recommender.edition
        return Serving(
            bundle=str(edition.path),
            model_version=edition.manifest.model_version,
            catalog_version=edition.manifest.catalog_version,
            num_items=edition.manifest.num_items,
        )

    @property
    def latest(self) -> Swap | None:
        """The swap that is under way, or the last that was, of this process."""
        if self._latest is not None and self._is_under_way:
            return self._latest.model_copy(update={"seconds": self._seconds})
        return self._latest

    async def begin(self, path: Path, worker: str | None) -> Swap:
        """Start a swap, which goes on by itself.

        Args:
            path: of the bundle.
            worker: address of the worker that serves it, where there is no launcher.

        Raises:
            RequestError: there is no such bundle, or it may not be served; or a worker is to be named, or is not.
            SwapUnderwayError: there is one already.
        """
        source = self._source(worker)
        if self._is_under_way:
            raise SwapUnderwayError("a swap is under way; one at a time")
        before, self._began = self._latest, time.perf_counter()
        swap = self._latest = Swap(swap_id=uuid.uuid4().hex, bundle=str(path), state="checking", seconds=0.0)
        try:
            await asyncio.to_thread(self._check, path)
        except BaseException:
            self._latest = before
            raise
        self._task = asyncio.create_task(self._run(path, source))
        return swap

    async def close(self) -> None:
        """Give up a swap that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _is_under_way(self) -> bool:
        return self._latest is not None and self._latest.state not in ("done", "failed")

    @property
    def _seconds(self) -> float:
        return round(time.perf_counter() - self._began, 3)

    def _source(self, worker: str | None) -> Source:
        if self._launcher is not None:
            if worker is not None:
                raise RequestError("worker", "padrec serve starts the worker itself; name none")
            return launched(self._launcher)
        if worker is None:
            raise RequestError("worker", "give the address of a worker that serves the bundle")
        try:
            target_of(worker)
        except InputError as error:
            raise RequestError("worker", str(error)) from error
        return running(worker)

    def _check(self, path: Path) -> None:
        """What there is to say at once."""
        folder = self._recommender.settings.bundle_folder
        try:
            if not path.is_absolute():
                raise RequestError("bundle", "give an absolute path")
            if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
                raise RequestError("bundle", f"only bundles below {folder} may be served")
            Bundle.open(path, only=())
        except BundleError as error:
            raise RequestError("bundle", str(error)) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise RequestError("bundle", f"cannot be read: {first_line(error)}") from error

    async def _run(self, path: Path, source: Source) -> None:
        try:
            await self._swap(path, source)
        except PadrecError as error:
            self._end("failed", str(error))
        except Exception as error:
            _log.exception("swap failed", exc_info=error)
            self._end("failed", "internal error; the log says more")
        else:
            self._end("done")

    async def _swap(self, path: Path, source: Source) -> None:
        # Who starts no worker may have a folder without the target.
        only = (ITEMS, POPULAR) if self._launcher is None else None
        bundle = await asyncio.to_thread(Bundle.open, path, only=only)
        self._enter("loading")
        async with source(path) as new:
            worker = self._connect(new.address, bundle.manifest.catalog_version)
            try:
                edition = await new.while_it_lives(self._load(bundle, worker))
                self._enter("switching")
                await new.commit()
            except BaseException:
                await worker.close()
                raise
            old, self._recommender.edition = self._recommender.edition, edition
            self._enter("draining")
            await self._drain(old)
            try:
                await new.retire_old()
            except PadrecError as error:  # it is served all the same
                _log.warning("nobody says that the old worker ended", error=str(error))

    async def _load(self, bundle: Bundle, worker: DescribedWorker) -> Edition:
        """The edition, once its worker writes lists."""
        edition = await asyncio.to_thread(Edition.read, bundle, worker)
        seconds = self._recommender.settings.max_load_seconds
        if self._launcher is None:
            seconds = min(seconds, _RUNNING_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                while not await worker.ready():
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise PadrecError(f"the new worker was not ready within {seconds:g} s") from error
        deadline = self._recommender.settings.max_deadline_ms / 1000
        _check_serves(await worker.describe(timeout=deadline), bundle.manifest)
        popular = edition.popular.first(1, np.ones(len(edition.catalogue), dtype=bool))
        await worker.decode(
            DecodeRequest("before the switch", history=tuple(popular), num_items=1), timeout=deadline
        )
        return edition

    async def _drain(self, old: Edition) -> None:
        """Wait for the requests that hold it; all have a deadline."""
        longest = self._recommender.settings.max_deadline_ms / 1000 + _LAST_ANSWERS_SECONDS
        if not await old.unused(longest):
            _log.warning("requests outlived their deadline", seconds=longest)
        await old.worker.close()

    def _enter(self, state: State, error: str | None = None) -> None:
        assert self._latest is not None
        told = {"state": state, "error": error, "seconds": self._seconds}
        self._latest = self._latest.model_copy(update=told)
        _log.info("bundle swap", bundle=self._latest.bundle, **told)

    def _end(self, outcome: Literal["done", "failed"], error: str | None = None) -> None:
        self._enter(outcome, error)
        self._recommender.metrics.swaps.labels(outcome).inc()


def _check_serves(serves: WorkerDescription, manifest: Manifest) -> None:
    """Raise a `PadrecError` unless a worker serves the bundle of this manifest."""
    found, wanted = (
        f"model {one.model_version} of catalogue {one.catalog_version}" for one in (serves, manifest)
    )
    if found != wanted:
        raise PadrecError(f"the worker serves {found}, the bundle is {wanted}")
