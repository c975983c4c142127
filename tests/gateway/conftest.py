"""A gateway without its worker: a small bundle, real histories, lists as each test wants them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.catalog.allowed import allows
from service.catalog.bundle import Bundle
from service.config import GatewaySettings
from service.errors import HistoryStoreError
from service.gateway.edition import Edition
from service.gateway.keys import KeyRing
from service.gateway.recommender import Recommender
from service.gateway.rest import create_app
from service.gateway.swap import Swaps
from service.gateway.withdrawals import Withdrawals
from service.history.sqlite import SqliteHistoryStore
from service.history.store import HistoryStore
from service.history.withdrawals import Withdrawn, too_many
from service.rpc.client import WorkerClient
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from service.telemetry.metrics import GatewayMetrics
from service.telemetry.tracing import Tracing
from service.types import DecodedItem, DecodedList, DecodeRequest, TracedToken
from tests.gateway.grpc_calls import serving


class FakeWorker:
    """Writes the first rows that are allowed, or fails as told."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.requests: list[DecodeRequest] = []
        self.timeouts: list[float] = []
        self.error: Exception | None = None
        self.fails_late = False  # after the first items of a stream
        self.is_ready = True
        self.is_closed = False
        self.release = asyncio.Event()
        self.release.set()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def decode(self, request: DecodeRequest, *, timeout: float) -> tuple[DecodedList, str]:
        self.requests.append(request)
        self.timeouts.append(timeout)
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        is_allowed = allows(request)
        rows = [row for row in range(self.num_rows) if is_allowed(row)][: request.num_items]
        # A guess that was accepted, one that was not, what the target wrote itself, and its separator.
        rounds = (
            (TracedToken(0, 1, -1, False, False, True, None),),
            (
                TracedToken(1, 0, -1, True, False, True, None),
                TracedToken(1, 2, -1, True, False, False, None),
                TracedToken(2, 1, 0, False, False, True, rows[0] if rows else None),
                TracedToken(3, None, 2, False, True, True, None),
            ),
        )
        written = DecodedList(
            request_id=request.request_id,
            items=tuple(DecodedItem(row, 1 / (2 + place)) for place, row in enumerate(rows)),
            exhausted=len(rows) < request.num_items,
            num_rounds=3,
            num_forced_tokens=1,
            prefill_seconds=0.002,
            decode_seconds=0.003,
            queue_seconds=0.001,
            num_round_tokens=14,
            num_round_forced_tokens=4,
            rounds=rounds if request.explain else (),
        )
        return written, "model-1"

    async def decode_stream(
        self, request: DecodeRequest, *, timeout: float
    ) -> AsyncIterator[DecodedItem | tuple[DecodedList, str]]:
        error, self.error = self.error, None
        if error is not None and not self.fails_late:
            raise error
        written, version = await self.decode(request, timeout=timeout)
        for item in written.items[: len(written.items) // 2]:
            yield item
        if error is not None:
            raise error
        yield written, version

    async def ready(self) -> bool:
        return self.is_ready

    async def close(self) -> None:
        self.is_closed = True


class DownStore:
    """A history store that cannot be reached."""

    async def append(self, events: object) -> None:
        raise HistoryStoreError("history store: connection refused")

    async def get(self, user_id: str) -> list[str]:
        raise HistoryStoreError("history store: connection refused")

    async def delete(self, user_id: str) -> None:
        raise HistoryStoreError("history store: connection refused")

    async def remember(self, listed: object) -> None:
        raise HistoryStoreError("history store: connection refused")

    async def recall(self, user_id: str, recommendation_id: str) -> None:
        raise HistoryStoreError("history store: connection refused")

    async def join(self, user_id: str, recommendation_id: str, item_ids: object) -> list[object]:
        raise HistoryStoreError("history store: connection refused")

    async def ping(self) -> None:
        raise HistoryStoreError("history store: connection refused")

    async def close(self) -> None: ...


class MemoryWithdrawals:
    """Withdrawn items that gateways of one test share, in a store that can be down."""

    def __init__(self) -> None:
        self.is_down = False
        self.reads = 0
        self._changes = 0
        self._items: set[str] = set()

    def _check(self) -> None:
        if self.is_down:
            raise HistoryStoreError("history store: connection refused")

    async def version(self) -> str:
        self._check()
        return str(self._changes)

    async def read(self) -> Withdrawn:
        self.reads += 1
        return Withdrawn(await self.version(), frozenset(self._items))

    async def add(self, item_ids: Sequence[str], limit: int) -> None:
        self._check()
        if len(self._items.union(item_ids)) > limit:
            raise too_many(limit)
        self._items.update(item_ids)
        self._changes += 1

    async def remove(self, item_ids: Sequence[str]) -> None:
        self._check()
        self._items.difference_update(item_ids)
        self._changes += 1

    async def close(self) -> None: ...


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Bundle:
    return Bundle.open(make_bundle(tmp_path, 20, max_history_items=4, max_num_items=30))


@pytest.fixture
def worker(bundle: Bundle) -> FakeWorker:
    return FakeWorker(bundle.manifest.num_items)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[HistoryStore]:
    store = SqliteHistoryStore(tmp_path / "history.sqlite3", 10, remember_seconds=60)
    yield store
    await store.close()


@pytest.fixture
def down_store() -> HistoryStore:
    return DownStore()


@pytest.fixture
def settings() -> GatewaySettings:
    return GatewaySettings(
        max_history_items=12, max_excluded_items=25, max_events=3, max_deadline_ms=9_000, max_body_bytes=4_096
    )


MakeRecommender = Callable[[HistoryStore], Recommender]


@pytest.fixture
def memory() -> MemoryWithdrawals:
    return MemoryWithdrawals()


@pytest.fixture
def make_recommender(
    bundle: Bundle, worker: FakeWorker, settings: GatewaySettings, memory: MemoryWithdrawals
) -> MakeRecommender:
    def make(store: HistoryStore) -> Recommender:
        metrics = GatewayMetrics(CollectorRegistry())
        withdrawals = Withdrawals(memory, settings.max_withdrawn_items, metrics)
        withdrawals.is_known = True
        return Recommender(Edition.read(bundle, worker), store, withdrawals, settings, metrics)

    return make


@pytest.fixture
def recommender(make_recommender: MakeRecommender, store: HistoryStore) -> Recommender:
    return make_recommender(store)


@pytest.fixture
async def client(recommender: Recommender) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(recommender) as client:
        yield client


@pytest.fixture
async def degraded_client(
    make_recommender: MakeRecommender, down_store: HistoryStore
) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(make_recommender(down_store)) as client:
        yield client


def app_of(recommender: Recommender, keys: KeyRing | None = None, tracing: Tracing | None = None) -> FastAPI:
    """With swaps to workers that nobody needs to answer at."""
    return create_app(recommender, Swaps(recommender, WorkerClient, None), keys, tracing)


def http_client(recommender: Recommender, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_of(recommender, **options), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


@pytest.fixture
async def channel(recommender: Recommender) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(recommender) as (_, channel):
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return recommender_pb2_grpc.RecommenderStub(channel)
