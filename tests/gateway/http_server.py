"""A real HTTP server of a recommender."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from service.gateway.recommender import Recommender
from service.gateway.server import http_config
from service.rpc.tls import ServerTls
from tests.gateway.conftest import app_of


@asynccontextmanager
async def served(recommender: Recommender, tls: ServerTls | None = None) -> AsyncIterator[tuple[str, int]]:
    """Its host and port."""
    config = http_config(app_of(recommender), recommender.settings.idle_seconds, tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()
        server.should_exit = True
        await serving
