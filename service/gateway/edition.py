"""All that a gateway holds of one bundle, in one object: what a request takes from it is of one version."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol, Self

from service.catalog.bundle import Bundle, Manifest
from service.catalog.filters import Filters
from service.catalog.items import Catalogue
from service.gateway.left_out import LeftOut
from service.gateway.popular import PopularList
from service.history.withdrawals import Withdrawn
from service.types import DecodedItem, DecodedList, DecodeRequest

_NUM_CACHED_ITEMS = 10_000


class Worker(Protocol):
    """Who writes lists; `service.rpc.client.WorkerClient` over the wire."""

    async def decode(self, request: DecodeRequest, *, timeout: float) -> tuple[DecodedList, str]:
        """A list, within `timeout` seconds, and the version of the model that wrote it.

        Raises:
            QueueFullError: too many requests wait.
            DeadlineExceededError: the time was not enough.
            UnavailableError: no worker answers.
        """
        ...

    def decode_stream(
        self, request: DecodeRequest, *, timeout: float
    ) -> AsyncGenerator[DecodedItem | tuple[DecodedList, str], None]:
        """As `decode`, and before its result items as they are accepted, the first ones of the list."""
        ...

    async def ready(self) -> bool:
        """Whether the worker takes requests."""
        ...

    async def close(self) -> None:
        """Let go of the connection; nothing may be called after this."""
        ...


class Edition:
    """One bundle, and the worker that serves it. What it says of them never changes.

    A request takes the recommender's edition once, holds it from its start to its end, and asks no other; so nothing of
    it is of another version, whatever becomes the recommender's edition meanwhile.

    Args:
        path: the bundle's folder.
        manifest: its versions and decoding defaults.
        catalogue: its items.
        popular: item IDs, most popular first.
        worker: writes lists in rows of `catalogue`.
    """

    def __init__(
        self, path: Path, manifest: Manifest, catalogue: Catalogue, popular: Iterable[str], worker: Worker
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.catalogue = catalogue
        self.worker = worker
        # Lists repeat: reading an item from the table takes longer than all other work on it.
        self.item = lru_cache(_NUM_CACHED_ITEMS)(catalogue.item)
        self.popular = PopularList(self.known(popular)[0])
        self.filters = Filters(catalogue)
        self._left_out = Withdrawn(), LeftOut()
        self._num_holders = 0
        self._unused = asyncio.Event()

    @classmethod
    def read(cls, bundle: Bundle, worker: Worker) -> Self:
        """The edition of a bundle, which takes a while for a large catalogue; raises `BundleError`."""
        return cls(bundle.path, bundle.manifest, bundle.read_catalogue(), bundle.read_popular(), worker)

    def known(self, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
        """Rows of the items that exist, and the IDs that do not, both in the given order."""
        rows, unknown = [], []
        for item_id in item_ids:
            row = self.catalogue.row_of(item_id)
            if row is None:
                unknown.append(item_id)
            else:
                rows.append(row)
        return rows, unknown

    def left_out(self, withdrawn: Withdrawn) -> LeftOut:
        """What these items are here; found again until others are withdrawn."""
        if self._left_out[0] is not withdrawn:
            rows, _ = self.known(withdrawn.item_ids)
            self._left_out = withdrawn, LeftOut.of(rows, len(self.catalogue))
        return self._left_out[1]

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Itself, in use while the block runs."""
        self._num_holders += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._num_holders -= 1
            if self._num_holders == 0:
                self._unused.set()

    async def unused(self, seconds: float) -> bool:
        """Wait until nobody holds it, for so many seconds at most; whether that is so."""
        if self._num_holders == 0:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._unused.wait()
        except TimeoutError:
            return False
        return True
