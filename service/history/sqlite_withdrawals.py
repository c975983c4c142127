"""Withdrawn items in the file of the histories, durable in the same way."""

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from service.errors import HistoryStoreError, InputError
from service.history.withdrawals import Withdrawn, too_many

T = TypeVar("T")

_BUSY_SECONDS = 5.0

# Beside the tables of `service.history.sqlite`, which knows nothing of these.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS withdrawn_items (item_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawals (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), version TEXT NOT NULL);
INSERT OR IGNORE INTO withdrawals VALUES (1, '');
"""


class SqliteWithdrawals:
    """A `WithdrawalStore` in the history file `path`, which a history store must have opened before.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = _open(path)
        except sqlite3.Error as error:
            raise InputError(f"history file {path}: {error}") from error
        self._thread = ThreadPoolExecutor(1, "withdrawals")

    async def version(self) -> str:
        """See `WithdrawalStore`."""
        return await self._run(self._version)

    async def read(self) -> Withdrawn:
        """See `WithdrawalStore`."""
        return await self._run(self._read)

    async def add(self, item_ids: Sequence[str], limit: int) -> None:
        """See `WithdrawalStore`."""
        await self._run(self._add, item_ids, limit)

    async def remove(self, item_ids: Sequence[str]) -> None:
        """See `WithdrawalStore`."""
        await self._run(self._remove, item_ids)

    async def close(self) -> None:
        """See `WithdrawalStore`."""
        await self._run(self._db.close)
        self._thread.shutdown()

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except sqlite3.Error as error:
            raise HistoryStoreError(f"history file {self._path}: {error}") from error

    def _version(self) -> str:
        (version,) = self._db.execute("SELECT version FROM withdrawals").fetchone()
        return str(version)

    def _read(self) -> Withdrawn:
        version = self._version()  # before the items, so that it is never newer
        items = self._db.execute("SELECT item_id FROM withdrawn_items")
        return Withdrawn(version, frozenset(item_id for (item_id,) in items))

    def _add(self, item_ids: Sequence[str], limit: int) -> None:
        with self._db as db:
            self._change(db)
            db.executemany("INSERT OR IGNORE INTO withdrawn_items VALUES (?)", ((one,) for one in item_ids))
            (count,) = db.execute("SELECT count(*) FROM withdrawn_items").fetchone()
            if count > limit:
                raise too_many(limit)

    def _remove(self, item_ids: Sequence[str]) -> None:
        with self._db as db:
            self._change(db)
            db.executemany("DELETE FROM withdrawn_items WHERE item_id = ?", ((one,) for one in item_ids))

    def _change(self, db: sqlite3.Connection) -> None:
        db.execute("UPDATE withdrawals SET version = ?", (uuid.uuid4().hex,))


def _open(path: Path) -> sqlite3.Connection:
    # One thread uses it; it is merely not the one that opens it.
    db = sqlite3.connect(
        path.absolute(), timeout=_BUSY_SECONDS, isolation_level="IMMEDIATE", check_same_thread=False
    )
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
