import asyncio
import random
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


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def fill(store: SqliteHistoryStore, num_users: int) -> list[str]:
    """Histories that grow in turns, so that rows move from page to page."""
    chance = random.Random(1)
    users = [f"user-{number:05d}-of-the-shop" for number in range(num_users)]
    for _ in range(5 * num_users):
        chosen = [chance.choice(users) for _ in range(4)]
        await store.append(
            [
                Event(user, f"item-{chance.randrange(999)}", chance.random(), f"{user}-{chance.random()}")
                for user in chosen
            ]
        )
    return users


async def test_nothing_of_a_deleted_user_is_left_in_any_file(tmp_path: Path) -> None:
    store = SqliteHistoryStore(tmp_path / "history.sqlite3", 20, remember_seconds=600)
    users = await fill(store, 200)
    for turn, user in enumerate(users * 3):
        await store.remember(RememberedList(user, f"{turn}", (f"item of {user}",), ("before",)))
    gone = users[::4]
    for user in gone:
        await store.delete(user)
        assert user.encode() not in all_bytes(tmp_path)
    assert [user for user in users if user.encode() not in all_bytes(tmp_path)] == gone
    assert await store.get(users[1]) != []
    await store.close()


async def test_a_large_file_is_not_written_anew_but_what_is_deleted_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.history.sqlite._SMALL_FILE_BYTES", 0)
    store = SqliteHistoryStore(tmp_path / "history.sqlite3", 20)
    users = await fill(store, 100)
    size = (tmp_path / "history.sqlite3").stat().st_size
    gone = users[::2]
    for user in gone:
        await store.delete(user)
    left = [user for user in gone if user.encode() in all_bytes(tmp_path)]
    # Copies of rows that had moved; docs/security.md says how they go.
    assert len(left) <= len(gone) // 5
    assert (tmp_path / "history.sqlite3").stat().st_size >= size
    with closing(sqlite3.connect(tmp_path / "history.sqlite3")) as other:
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not any(user.encode() in all_bytes(tmp_path) for user in gone)
    await store.close()


async def test_a_deletion_that_leaves_traces_says_so_and_the_next_erases_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.history.sqlite._BUSY_SECONDS", 0.1)
    path = tmp_path / "history.sqlite3"
    store = SqliteHistoryStore(path, 5)
    await store.append([Event("ann-4711", "a", 1.0), Event("bob", "b", 1.0)])
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        with pytest.raises(HistoryStoreError, match="another process reads the file"):
            await store.delete("ann-4711")
        assert await store.get("ann-4711") == []
        reader.execute("ROLLBACK")
    await store.delete("ann-4711")
    assert b"ann-4711" not in all_bytes(tmp_path)
    assert await store.get("bob") == ["b"]
    await store.close()


async def test_deletions_by_several_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    stores = [SqliteHistoryStore(path, 5) for _ in range(3)]
    names = [f"user-{number}-of-many" for number in range(30)]
    await stores[0].append([Event(name, "a", 1.0) for name in names])

    async def delete_and_append(number: int) -> None:
        store = stores[number % 3]
        await store.delete(names[number])
        await store.append([Event("bob", str(number), float(number))])

    await asyncio.gather(*map(delete_and_append, range(30)))
    await stores[0].delete(names[0])
    assert not any(name.encode() in all_bytes(tmp_path) for name in names)
    assert await stores[1].get("bob") == ["25", "26", "27", "28", "29"]
    for store in stores:
        await store.close()
