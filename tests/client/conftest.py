"""Both clients, in front of a gateway or of a script; a call is made the same way with either."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from service.client import AsyncClient, Client
from service.gateway.recommender import Recommender
from tests.gateway.conftest import (  # noqa: F401
    app_of,
    bundle,
    make_recommender,
    memory,
    recommender,
    settings,
    store,
    worker,
)
from tests.gateway.http_server import served

Calls = Callable[..., Awaitable[Any]]
CLIENTS: dict[str, type[Client | AsyncClient]] = {"sync": Client, "async": AsyncClient}


def calls_of(client: Client | AsyncClient) -> Calls:
    """Calls a method by its name; what a stream tells is appended to `told`, and returned."""

    async def call(name: str, *args: Any, told: list[Any] | None = None, **options: Any) -> Any:
        method = getattr(client, name)
        told = [] if told is None else told
        if name != "recommend_stream":
            if isinstance(client, Client):
                return await asyncio.to_thread(method, *args, **options)
            return await method(*args, **options)
        if isinstance(client, Client):
            await asyncio.to_thread(lambda: told.extend(method(*args, **options)))
        else:
            async for update in method(*args, **options):
                told.append(update)
        return told

    return call


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def calling(kind: str, recommender: Recommender, **options: Any) -> AsyncIterator[Calls]:  # noqa: F811
    """`sync` through a socket, `async` right into the application."""
    if kind == "async":
        transport = httpx.ASGITransport(app_of(recommender), raise_app_exceptions=False)
        async with AsyncClient("http://gateway", transport=transport, **options) as client:
            yield calls_of(client)
        return
    async with served(recommender) as (host, port):
        with Client(f"http://{host}:{port}", **options) as client:
            yield calls_of(client)


@pytest.fixture
async def call(kind: str, recommender: Recommender) -> AsyncIterator[Calls]:  # noqa: F811
    async with calling(kind, recommender) as call:
        yield call


class Script:
    """Answers requests as a test says, one after another, and keeps the time, which passes only where it sleeps.

    Attributes:
        answers: responses, or what is raised; the last one is given again and again.
        takes: seconds that each answer takes.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.answers: list[httpx.Response | Exception] = []
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []
        self.now, self.takes = 1000.0, 0.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.now += self.takes
        told = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(told, Exception):
            raise told
        return told

    def pass_time(self) -> None:
        """Three seconds."""
        self.now += 3

    def sleep(self, seconds: float) -> Any:
        self.slept.append(seconds)
        self.now += seconds
        return asyncio.sleep(0) if self._kind == "async" else None

    def client(self, **options: Any) -> Client | AsyncClient:
        waiting = {"clock": lambda: self.now, "sleep": self.sleep}
        return CLIENTS[self._kind](
            "http://gateway", transport=httpx.MockTransport(self.answer), **waiting, **options
        )

    async def call(self, name: str, *args: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
        """A call by a client with these settings."""
        return await calls_of(self.client(**client or {}))(name, *args, **options)


@pytest.fixture
def script(kind: str, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Waits are as long as they may be."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    return Script(kind)
