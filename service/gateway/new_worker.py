"""Where the worker of another bundle comes from: the launcher starts it, or it runs already."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from service.errors import PadrecError

T = TypeVar("T")


class NewWorker(Protocol):
    """The worker of another bundle, beside the one that serves.

    Attributes:
        address: where it listens, or will.
    """

    address: str

    async def while_it_lives(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the worker ends: `PadrecError`, which says why."""
        ...

    async def commit(self) -> None:
        """Have it in the place of the one that serves, from its next start on; raises `PadrecError`."""
        ...

    async def retire_old(self) -> None:
        """Stop the one that served; raises `PadrecError`."""
        ...


# Of a bundle's folder; a block that ends before the commit gives the worker up.
Source = Callable[[Path], AbstractAsyncContextManager[NewWorker]]


class RunningWorker:
    """Others started it, and others stop the old one."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def while_it_lives(self, work: Coroutine[Any, Any, T]) -> T:
        """See `NewWorker`; nobody knows when it ends."""
        return await work

    async def commit(self) -> None:
        """See `NewWorker`."""

    async def retire_old(self) -> None:
        """See `NewWorker`."""


class LaunchedWorker:
    """The launcher's, over the connection that `service.control` describes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.address = ""

    async def start(self, bundle: Path) -> None:
        """Fills `address`; raises `PadrecError` when the launcher cannot start it."""
        self.address = (await self._ask(start=str(bundle)))["worker"]

    async def while_it_lives(self, work: Coroutine[Any, Any, T]) -> T:
        """See `NewWorker`."""
        task, told = asyncio.ensure_future(work), asyncio.ensure_future(self._answer())
        try:
            await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                told.result()
            return task.result()
        finally:
            task.cancel()
            told.cancel()
            await asyncio.gather(task, told, return_exceptions=True)

    async def commit(self) -> None:
        """See `NewWorker`."""
        await self._ask(commit=True)

    async def retire_old(self) -> None:
        """See `NewWorker`."""
        await self._ask(retire=True)

    async def _ask(self, **order: object) -> dict[str, Any]:
        try:
            self._writer.write(json.dumps(order).encode() + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise PadrecError("the launcher does not answer") from error
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
        except OSError:
            line = b""
        if not line:
            raise PadrecError("the launcher does not answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PadrecError(answer["error"])
        return answer


def running(address: str) -> Source:
    """A worker that serves the bundle already."""

    @asynccontextmanager
    async def source(_bundle: Path) -> AsyncIterator[NewWorker]:
        yield RunningWorker(address)

    return source


def launched(socket_path: str) -> Source:
    """One that the launcher who listens there starts."""

    @asynccontextmanager
    async def source(bundle: Path) -> AsyncIterator[NewWorker]:
        try:
            reader, writer = await asyncio.open_unix_connection(socket_path)
        except OSError as error:
            raise PadrecError("the launcher does not answer") from error
        try:
            worker = LaunchedWorker(reader, writer)
            await worker.start(bundle)
            yield worker
        finally:
            writer.close()

    return source
