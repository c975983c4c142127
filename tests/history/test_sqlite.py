import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from service.errors import HistoryStoreError, InputError
from service.history.sqlite import _SCHEMAS, SqliteHistoryStore
from service.types import Event, RememberedList

WRITER = """
import asyncio, sys
from pathlib import Path
from service.history.sqlite import SqliteHistoryStore
from service.types import Event

async def main(path, user, num_events):
    store = SqliteHistoryStore(Path(path), 100_000)
    for number in range(int(num_events)):
        await store.append([Event(user, str(number), float(number))])
        print(number, flush=True)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def start_writer(path: Path, user: str, num_events: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(path), user, str(num_events)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def history_of(path: Path, user: str) -> list[str]:
    store = SqliteHistoryStore(path, 100_000)
    try:
        return await store.get(user)
    finally:
        await store.close()


async def test_acknowledged_events_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    with start_writer(path, "ann", 1_000_000) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(50)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    kept = await history_of(path, "ann")
    assert kept[: len(acknowledged)] == acknowledged
    # The one event that was written but not yet acknowledged may be there too.
    assert len(kept) <= len(acknowledged) + 1


async def test_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    writers = [start_writer(path, f"user {number}", 5) for number in range(4)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    for number in range(4):
        assert await history_of(path, f"user {number}") == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_corrupt_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history.sqlite3"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"history file .*/history\.sqlite3: "):
        SqliteHistoryStore(path, 5)
    assert path.read_bytes() == content


def test_a_path_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"history file .*/missing/history: unable to open"):
        SqliteHistoryStore(tmp_path / "missing" / "history", 5)
    with pytest.raises(InputError, match="history file "):
        SqliteHistoryStore(tmp_path, 5)


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE events (id INTEGER)")
        db.commit()
    with pytest.raises(InputError, match="not written by this version of padrec"):
        SqliteHistoryStore(path, 5)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("events",)]


async def test_a_file_of_the_version_before_keeps_its_histories(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_SCHEMAS[0])
        db.execute("INSERT INTO events (user_id, timestamp, item_id) VALUES ('ann', 1.0, 'a')")
        db.execute("PRAGMA user_version = 1")
        db.commit()
    store = SqliteHistoryStore(path, 5, remember_seconds=60)
    await store.append([Event("ann", "b", 2.0)])
    await store.remember(RememberedList("ann", "1", ("c",)))
    assert await store.get("ann") == ["a", "b"]
    await store.close()
    again = SqliteHistoryStore(path, 5)
    assert await again.recall("ann", "1") == RememberedList("ann", "1", ("c",))
    await again.close()


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="not written by this version of padrec"):
        SqliteHistoryStore(path, 5)


async def test_lists_of_users_who_never_come_back_go_with_time(tmp_path: Path) -> None:
    path, now = tmp_path / "history.sqlite3", 1_000.0
    store = SqliteHistoryStore(path, 5, remember_seconds=60, clock=lambda: now)
    for number in range(7):
        await store.remember(RememberedList(f"user {number}", str(number), ("a",)))
    now += 60
    for left in (4, 2, 3):  # four go with each that comes
        await store.remember(RememberedList("ann", f"{left}", ("a",)))
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM lists").fetchone() == (left,)
    await store.close()


async def test_reads_and_the_event_loop_go_on_while_a_write_waits(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    store = SqliteHistoryStore(path, 5)
    await store.append([Event("ann", "a", 1.0)])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.append([Event("ann", "b", 2.0)]))
        for _ in range(3):
            assert await store.get("ann") == ["a"]
        assert not waiting.done()
        other.execute("ROLLBACK")
    await waiting
    assert await store.get("ann") == ["a", "b"]
    await store.close()


async def test_a_failure_is_an_error_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    store = SqliteHistoryStore(path, 5)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE events")
        other.execute("DROP TABLE lists")
    with pytest.raises(HistoryStoreError, match=r"history file .*/history\.sqlite3: no such table"):
        await store.append([Event("ann", "a", 1.0)])
    with pytest.raises(HistoryStoreError):
        await store.get("ann")
    with pytest.raises(HistoryStoreError):
        await store.ping()
    with pytest.raises(HistoryStoreError):
        await store.recall("ann", "1")
    with pytest.raises(HistoryStoreError):
        await store.join("ann", "1", ["a"])
    await store.close()
