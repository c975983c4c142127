"""A real HTTP server of a recommender."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from service.gateway.recommender import Recommender
from service.gateway.rest import create_app


@asynccontextmanager
async def served(recommender: Recommender, **options: Any) -> AsyncIterator[tuple[str, int]]:
    """Its host and port; `options` are uvicorn's."""
    config = uvicorn.Config(create_app(recommender), lifespan="off", log_config=None, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()
        server.should_exit = True
        await serving
