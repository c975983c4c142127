"""Histories in one sqlite file: the embedded default, durable without any other process.

Each append is one transaction in write-ahead mode with `synchronous=FULL`: sqlite has flushed it to the
disk before it is acknowledged. Writes and reads each have a connection and a thread of their own, so the
event loop never waits for the disk and readers never wait for the writer. Several processes may open the
same file.

Lists are written in the writer's thread too, over a connection with `synchronous=NORMAL`, which leaves the flush to
whoever comes next: a recommendation does not wait for the disk.

What is deleted is overwritten, too, and the write-ahead file emptied, before a deletion is acknowledged. That leaves
copies of rows that sqlite had moved from page to page; they go when the file is written anew, which is part of the
deletion while the file is small.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from service.errors import HistoryStoreError, InputError
from service.history.store import EVENT_IDS_PER_ITEM, MAX_LISTS
from service.types import Event, JoinedItem, RememberedList

T = TypeVar("T")

_BUSY_SECONDS = 5.0
# Written anew in less than half a second.
_SMALL_FILE_BYTES = 64 * 2**20
# Of the oldest lists, so many go, where they are over, whenever one is written.
_MOST_FORGOTTEN = 4

# By version, what was new in it. `arrival` is sqlite's own row number: AUTOINCREMENT never gives one out twice.
_SCHEMAS = (
    """
CREATE TABLE events (
  arrival INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id TEXT NOT NULL,
  timestamp REAL NOT NULL,
  item_id TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (user_id, timestamp, arrival, item_id);
CREATE TABLE event_ids (
  arrival INTEGER PRIMARY KEY,
  user_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  UNIQUE (user_id, event_id)
);
CREATE INDEX event_ids_by_arrival ON event_ids (user_id, arrival);
""",
    """
CREATE TABLE lists (
  arrival INTEGER PRIMARY KEY,
  user_id TEXT NOT NULL,
  recommendation_id TEXT NOT NULL,
  ends REAL NOT NULL,
  item_ids TEXT NOT NULL,
  listed_before TEXT NOT NULL,
  joined TEXT NOT NULL DEFAULT '[]',
  UNIQUE (user_id, recommendation_id)
);
""",
)
_OLD_EVENTS = """
DELETE FROM events WHERE arrival IN (
  SELECT arrival FROM events WHERE user_id = ? ORDER BY timestamp DESC, arrival DESC LIMIT -1 OFFSET ?)
"""
_OLD_EVENT_IDS = """
DELETE FROM event_ids WHERE arrival IN (
  SELECT arrival FROM event_ids WHERE user_id = ? ORDER BY arrival DESC LIMIT -1 OFFSET ?)
"""
_MANY_LISTS = """
DELETE FROM lists WHERE arrival IN (
  SELECT arrival FROM lists WHERE user_id = ? ORDER BY arrival DESC LIMIT -1 OFFSET ?)
"""
_OLD_LISTS = """
DELETE FROM lists WHERE ends <= ? AND arrival IN (SELECT arrival FROM lists ORDER BY arrival LIMIT ?)
"""
_LIST = " FROM lists WHERE user_id = ? AND recommendation_id = ? AND ends > ?"
_NEWEST = "SELECT item_id FROM events WHERE user_id = ? ORDER BY timestamp DESC, arrival DESC LIMIT ?"


class SqliteHistoryStore:
    """A `HistoryStore` in the file `path`, which is made if it is missing.

    Args:
        path: of the file.
        max_items: of a user.
        remember_seconds: for which a list is remembered; 0: not at all.
        clock: seconds since the epoch.

    Raises:
        InputError: the file cannot be opened for writing, is no sqlite database, or is another program's.
    """

    def __init__(
        self,
        path: Path,
        max_items: int,
        *,
        remember_seconds: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._max_items = max_items
        self._remember_seconds = remember_seconds
        self._clock = clock
        self._has_traces = False
        try:
            self._writing = _open(path)
            self._remembering = _connect(path, synchronous="NORMAL")
            self._reading = _connect(path)
        except sqlite3.Error as error:
            raise InputError(f"history file {path}: {error}") from error
        self._writer = ThreadPoolExecutor(1, "history-writer")
        self._reader = ThreadPoolExecutor(1, "history-reader")

    async def append(self, events: Sequence[Event]) -> None:
        """See `HistoryStore`."""
        if events:
            await self._run(self._writer, self._append, events)

    async def get(self, user_id: str) -> list[str]:
        """See `HistoryStore`."""
        return await self._run(self._reader, self._get, user_id)

    async def delete(self, user_id: str) -> None:
        """See `HistoryStore`."""
        await self._run(self._writer, self._delete, user_id)

    async def remember(self, listed: RememberedList) -> None:
        """See `HistoryStore`."""
        if self._remember_seconds:
            await self._run(self._writer, self._remember, listed)

    async def recall(self, user_id: str, recommendation_id: str) -> RememberedList | None:
        """See `HistoryStore`."""
        return await self._run(self._reader, self._recall, user_id, recommendation_id)

    async def join(self, user_id: str, recommendation_id: str, item_ids: Sequence[str]) -> list[JoinedItem]:
        """See `HistoryStore`."""
        return await self._run(self._writer, self._join, user_id, recommendation_id, item_ids)

    async def ping(self) -> None:
        """See `HistoryStore`."""
        await self._run(self._reader, self._get, "")

    async def close(self) -> None:
        """See `HistoryStore`."""
        for connection in (self._remembering, self._writing):
            await self._run(self._writer, connection.close)
        await self._run(self._reader, self._reading.close)
        self._writer.shutdown()
        self._reader.shutdown()

    async def _run(self, executor: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, function, *args)
        except sqlite3.Error as error:
            raise HistoryStoreError(f"history file {self._path}: {error}") from error

    def _append(self, events: Sequence[Event]) -> None:
        with _transaction(self._writing) as db:
            for event in events:
                self._insert(db, event)
            for user_id in {event.user_id for event in events}:
                db.execute(_OLD_EVENTS, (user_id, self._max_items))
                db.execute(_OLD_EVENT_IDS, (user_id, self._max_items * EVENT_IDS_PER_ITEM))

    def _insert(self, db: sqlite3.Connection, event: Event) -> None:
        known = "SELECT 1 FROM event_ids WHERE user_id = ? AND event_id = ?"
        if event.event_id is not None and db.execute(known, (event.user_id, event.event_id)).fetchone():
            return
        arrival = db.execute(
            "INSERT INTO events (user_id, timestamp, item_id) VALUES (?, ?, ?)",
            (event.user_id, event.timestamp, event.item_id),
        ).lastrowid
        if event.event_id is not None:
            db.execute("INSERT INTO event_ids VALUES (?, ?, ?)", (arrival, event.user_id, event.event_id))

    def _get(self, user_id: str) -> list[str]:
        rows = self._reading.execute(_NEWEST, (user_id, self._max_items)).fetchall()
        return [item_id for (item_id,) in reversed(rows)]

    def _delete(self, user_id: str) -> None:
        with _transaction(self._writing) as db:
            tables = ("events", "event_ids", "lists")
            gone = [
                db.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,)).rowcount for table in tables
            ]
        self._has_traces |= any(gone)
        if self._has_traces:
            self._erase_traces()

    def _erase_traces(self) -> None:
        """Leave nothing of deleted rows on the disk; what fails is done at the next deletion, of anybody.

        Raises:
            HistoryStoreError: another process has read for so long that the write-ahead file cannot be emptied.
        """
        db = self._writing
        (num_pages,), (page_bytes,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
        )
        if num_pages * page_bytes <= _SMALL_FILE_BYTES:
            db.execute("PRAGMA temp_store = MEMORY")  # no copy on the disk, and no need for a folder of such
            db.execute("VACUUM")
        deadline = time.monotonic() + _BUSY_SECONDS
        while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            # Sqlite waits for readers, but not for others who do the same.
            if time.monotonic() > deadline:
                raise HistoryStoreError(
                    f"history file {self._path}: the user is deleted, but another process reads the file, and traces "
                    "are left in it; delete the user again"
                )
            time.sleep(0.01)
        self._has_traces = False

    def _remember(self, listed: RememberedList) -> None:
        now = self._clock()
        with _transaction(self._remembering) as db:
            db.execute(
                "INSERT INTO lists (user_id, recommendation_id, ends, item_ids, listed_before) VALUES (?, ?, ?, ?, ?)",
                (
                    listed.user_id,
                    listed.recommendation_id,
                    now + self._remember_seconds,
                    json.dumps(listed.item_ids),
                    json.dumps(listed.before),
                ),
            )
            db.execute(_MANY_LISTS, (listed.user_id, MAX_LISTS))
            db.execute(_OLD_LISTS, (now, _MOST_FORGOTTEN))

    def _recall(self, user_id: str, recommendation_id: str) -> RememberedList | None:
        found = self._reading.execute(
            "SELECT item_ids, listed_before" + _LIST, (user_id, recommendation_id, self._clock())
        ).fetchone()
        if found is None:
            return None
        item_ids, before = (tuple(json.loads(text)) for text in found)
        return RememberedList(user_id, recommendation_id, item_ids, before)

    def _join(self, user_id: str, recommendation_id: str, item_ids: Sequence[str]) -> list[JoinedItem]:
        with _transaction(self._remembering) as db:
            found = db.execute(
                "SELECT arrival, item_ids, joined" + _LIST, (user_id, recommendation_id, self._clock())
            ).fetchone()
            if found is None:
                return []
            arrival, listed, before = found[0], json.loads(found[1]), json.loads(found[2])
            ranks = {item_id: rank for rank, item_id in enumerate(listed, start=1)}
            joined = [
                JoinedItem(item_id, ranks[item_id], ranks[item_id] not in before)
                for item_id in item_ids
                if item_id in ranks
            ]
            after = before + [one.rank for one in joined if one.is_first]
            db.execute("UPDATE lists SET joined = ? WHERE arrival = ?", (json.dumps(after), arrival))
        return joined


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit at the end of the block, or undo all of it; the write lock is taken at its start."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _connect(path: Path, synchronous: str = "FULL") -> sqlite3.Connection:
    # One thread uses each connection; it is merely not the one that opens it.
    db = sqlite3.connect(
        path.absolute(), timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute("PRAGMA secure_delete = ON")
    return db


def _open(path: Path) -> sqlite3.Connection:
    """Connect for writing; the first to come makes the tables, or those that an older version did not have."""
    db = _connect(path)
    try:
        _write_ahead(db)
        with _transaction(db):
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (num_tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not (0 < version <= len(_SCHEMAS) or version == num_tables == 0):
                raise InputError(f"history file {path}: not written by this version of padrec")
            if version < len(_SCHEMAS):
                for statement in ";".join(_SCHEMAS[version:]).split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {len(_SCHEMAS)}")
    except BaseException:
        db.close()
        raise
    return db


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to write-ahead mode; sqlite does not itself wait for others who open the file right now."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
