from pathlib import Path

import pytest

from service.data.staged_events import StagedEvents
from service.data.staging import identifier, literal, querying, staging
from service.errors import DatasetError


def test_nothing_stays(tmp_path: Path) -> None:
    with staging(tmp_path) as connection:
        connection.execute("CREATE TABLE t AS SELECT * FROM range(1000)")
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_reader_left_in_the_middle(tmp_path: Path) -> None:
    with staging(tmp_path) as connection:
        reader = connection.sql("SELECT * FROM range(1000000)").to_arrow_reader(10)
        assert reader.read_next_batch().num_rows == 10
    assert list(tmp_path.iterdir()) == []


def test_errors_become_one_line(tmp_path: Path) -> None:
    with (
        staging(tmp_path) as connection,
        pytest.raises(DatasetError) as caught,
        querying(tmp_path / "log.csv"),
    ):
        connection.execute("SELECT nothing FROM nowhere\nWHERE true")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot read {tmp_path / 'log.csv'}: ")


def test_names_and_strings_are_quoted(tmp_path: Path) -> None:
    odd = 'it\'s "odd"'
    with staging(tmp_path) as connection:
        query = f"SELECT {identifier(odd)} FROM (SELECT {literal(odd)} AS {identifier(odd)})"
        assert connection.execute(query).fetchall() == [(odd,)]


def test_more_rows_than_memory_come_in_order(tmp_path: Path) -> None:
    num_rows = 1_500_000
    with staging(tmp_path, memory_limit="60MB") as connection:
        connection.execute("SET threads = 2")
        events = StagedEvents(connection, tmp_path)
        rows = f"(SELECT n, hash(n) AS h FROM range({num_rows}) AS r(n))"
        user = "'a user with quite a long name, number ' || (h % 5000)"
        events.add(tmp_path, rows, user=user, item="'i' || (n % 7)", timestamp="CAST(0 AS DOUBLE)")
        count = 0
        last = ""
        for batch in events.batches():
            users = batch["user_id"]
            assert last <= users[0].as_py()
            last = users[-1].as_py()
            count += batch.num_rows
        assert count == len(events) == num_rows


@pytest.mark.parametrize(
    ("message", "raised"), [("Query interrupted", KeyboardInterrupt), ("else", RuntimeError)]
)
def test_ctrl_c_in_a_query(tmp_path: Path, message: str, raised: type[BaseException]) -> None:
    with pytest.raises(raised), querying(tmp_path):
        raise RuntimeError(message)
