"""A client for those who write in Python: `Client`, and `AsyncClient` for asyncio."""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.errors import (
    CallError,
    DeadlineError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    TryLaterError,
)

__all__ = [
    "AsyncClient",
    "CallError",
    "Client",
    "DeadlineError",
    "InvalidRequestError",
    "NotAllowedError",
    "NotFoundError",
    "TryLaterError",
]
