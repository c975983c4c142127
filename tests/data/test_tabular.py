import csv
import gzip
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.data.dataset import Dataset
from service.data.tabular import import_tabular
from service.errors import DatasetError, InputError

CSV = "user,item,time\nb,y,20\na,x,5\nb,x,10\na,z,5\n"


def import_csv(src: Path, out: Path, **options: Any) -> Dataset:
    columns = {"user_column": "user", "item_column": "item", "timestamp_column": "time"}
    return import_tabular(src, out, **({"kind": "csv"} | columns | options))


def rows_of(dataset: Dataset) -> list[tuple[str, str, float]]:
    table = pq.read_table(dataset.path / "interactions.parquet")
    return list(zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp")), strict=True))


def assert_refused(src: Path, tmp_path: Path, *words: str, **options: Any) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DatasetError) as caught:
        import_csv(src, tmp_path / "out", **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert sorted(tmp_path.iterdir()) == before


def test_csv_is_sorted_by_user_and_time_and_keeps_ties(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    dataset = import_csv(tmp_path / "log.csv", tmp_path / "out")
    assert rows_of(dataset) == [("a", "x", 5), ("a", "z", 5), ("b", "x", 10), ("b", "y", 20)]
    assert dataset.items().to_pydict() == {"item_id": ["x", "y", "z"], "title": ["", "", ""]}
    assert (dataset.name, dataset.info.source.format) == ("log", "csv")
    assert {file.name for file in dataset.path.iterdir()} == {
        "dataset.json",
        "interactions.parquet",
        "items.parquet",
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tabs.tsv", CSV.replace(",", "\t").encode()),
        ("semicolons.csv", CSV.replace(",", ";").encode()),
        ("windows.csv", b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode()),
        ("packed.csv.gz", gzip.compress(CSV.encode())),
        ("odd[1] name*.csv", CSV.encode()),
    ],
)
def test_kinds_of_csv(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert len(rows_of(import_csv(tmp_path / name, tmp_path / "out"))) == 4


def test_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('time,item,user\n1,007,#1\n2,"a,""b""",#1\n3,1e5,#1\n')
    rows = rows_of(import_csv(tmp_path / "log.csv", tmp_path / "out"))
    assert [row[:2] for row in rows] == [("#1", "007"), ("#1", 'a,"b"'), ("#1", "1e5")]


@pytest.mark.parametrize("pattern", ["logs", "logs/*.csv"])
def test_many_files_with_columns_in_any_order(tmp_path: Path, pattern: str) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "2.csv").write_text("time,user,item,extra\n1,a,late,?\n")
    (logs / "1.csv").write_text("user,item,time\na,early,1\n")
    (logs / "notes.md").write_text("not a log")
    dataset = import_csv(tmp_path / pattern, tmp_path / "out")
    assert rows_of(dataset) == [("a", "early", 1), ("a", "late", 1)]


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["1700000000", "1700000001.5"], [1_700_000_000, 1_700_000_001.5]),
        (["1700000000500", "1700000001000"], [1_700_000_000.5, 1_700_000_001]),
        (["1700000000500000", "1700000001000000"], [1_700_000_000.5, 1_700_000_001]),
        (["1700000000500000000", "1700000001000000000"], [1_700_000_000.5, 1_700_000_001]),
        (["0", "1"], [0, 1]),
        (["2023-11-14T22:13:20Z", "2023-11-14T23:13:21+00:30"], [1_700_000_000, 1_700_001_801]),
        (["2023-11-14 22:13:20", "2023-11-15"], [1_700_000_000, 1_700_006_400]),
    ],
)
def test_units_of_time(tmp_path: Path, times: list[str], seconds: list[float]) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(f"a,x,{time}\n" for time in times))
    assert [row[2] for row in rows_of(import_csv(tmp_path / "log.csv", tmp_path / "out"))] == seconds


def test_without_times_the_source_order_holds(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    dataset = import_csv(tmp_path / "log.csv", tmp_path / "out", timestamp_column=None)
    assert rows_of(dataset) == [("a", "x", 0), ("a", "z", 1), ("b", "y", 0), ("b", "x", 1)]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([20, 5, 10], pa.timestamp("s")),
        pa.array([20, 5, 10], pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us", tz="UTC")),
        pa.array([20_000, 5_000, 10_000], pa.timestamp("ms")),
        pa.array([20, 5, 10], pa.int32()),
        pa.array([20, 5, 10], pa.float64()),
        pa.array(["20", "5", "10"]),
    ],
)
def test_parquet(tmp_path: Path, times: pa.Array) -> None:
    table = pa.table({"user": [2.0, 1.0, 2.0], "item": [7, 8, 9], "time": times})
    pq.write_table(table, tmp_path / "log.parquet")
    dataset = import_csv(tmp_path / "log.parquet", tmp_path / "out", kind="parquet")
    assert [row[:2] for row in rows_of(dataset)] == [("1", "8"), ("2", "9"), ("2", "7")]
    if times.type in (pa.timestamp("s"), pa.timestamp("ms")):
        assert [row[2] for row in rows_of(dataset)] == [5, 10, 20]


def test_incomplete_rows_and_short_users_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV + ",x,1\nc,,1\nc,x,\nd,x,4\n")
    dataset = import_csv(tmp_path / "log.csv", tmp_path / "out", min_interactions=2)
    assert {row[0] for row in rows_of(dataset)} == {"a", "b"}
    assert dataset.info.skipped == {"incomplete_rows": 3}


def test_item_file(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    (tmp_path / "items.csv").write_text("sku,name,price,code\nx,Cup,3.50,007\nw,Saw,12,\n")
    dataset = import_csv(
        tmp_path / "log.csv",
        tmp_path / "out",
        items=tmp_path / "items.csv",
        item_id_column="sku",
        title_column="name",
    )
    items = dataset.items().to_pydict()
    assert items["item_id"] == ["x", "w", "y", "z"]
    assert items["title"] == ["Cup", "Saw", "", ""]
    assert items["attributes"][:2] == [{"price": 3.5, "code": "007"}, {"price": 12.0, "code": None}]
    assert dataset.interactions().items.tolist() == [0, 3, 0, 2]


def test_unknown_columns_name_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    for option in ("user_column", "item_column", "timestamp_column"):
        options = {option: "who"}
        assert_refused(
            tmp_path / "log.csv", tmp_path, "log.csv: no column 'who'", "user, item, time", **options
        )
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "log.parquet")
    assert_refused(tmp_path / "log.parquet", tmp_path, "no column 'user'; there are: a, b", kind="parquet")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["no header line"]),
        (b"user,item,time\n", ["no interactions"]),
        (b"user,item,time\na,x\n", ["line 2", "Expected Number of Columns: 3 Found: 2"]),
        (b'user,item,time\na,"x,1\n', ["line 2", "quote"]),
        (b"user,item,time\na\xff,x,1\n", ["not UTF-8"]),
        (b"user,item,time\n" + b"a,x,1\n" * 3_000 + b"a\xff,x,1\n", ["line 3002", "not utf-8"]),
        (b"us\xffer,item,time\na,x,1\n", ["not UTF-8"]),
        (b"user,user,time\na,x,1\n", ["'user' stands twice"]),
        (b"user,item,time\na,x,soon\n", ["column 'time'", "'soon' is no time"]),
        (b"user,item,time\na,x,1\na,x,2024-01-01\n", ["column 'time'", "is no time"]),
        (b"user,item,time\na,x,nan\n", ["'nan' is no time"]),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    assert_refused(tmp_path / "log.csv", tmp_path, "log.csv", *words)


def test_torn_and_missing_files(tmp_path: Path) -> None:
    assert_refused(tmp_path / "log.csv", tmp_path, "no such file", "log.csv")
    assert_refused(tmp_path / "*.csv", tmp_path, "no such file")
    packed = gzip.compress("".join(f"a,x{n},{n * 7919 % 1013}\n" for n in range(5_000)).encode())
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(CSV.encode())[:-12])
    assert_refused(tmp_path / "log.csv.gz", tmp_path, "log.csv.gz")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(CSV.encode()) + packed[: len(packed) // 2])
    assert_refused(tmp_path / "log.csv.gz", tmp_path, "log.csv.gz")
    pq.write_table(
        pa.table({"user": ["a"] * 100, "item": ["x"] * 100, "time": range(100)}), tmp_path / "a.parquet"
    )
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (b"", whole[:100], whole[:-20], CSV.encode()):
        (tmp_path / "a.parquet").write_bytes(content)
        assert_refused(tmp_path / "a.parquet", tmp_path, "a.parquet", kind="parquet")


def test_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    assert_refused(tmp_path / "logs", tmp_path, "logs", ".csv")


def test_nested_columns_are_no_ids_and_no_times(tmp_path: Path) -> None:
    table = pa.table({"user": [["a"]], "item": ["x"], "time": [True], "who": ["a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert_refused(tmp_path / "a.parquet", tmp_path, "column 'user' holds VARCHAR[]", kind="parquet")
    options = {"kind": "parquet", "user_column": "who"}
    assert_refused(tmp_path / "a.parquet", tmp_path, "column 'time' holds BOOLEAN", **options)


def test_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    assert_refused(tmp_path / "log.csv", tmp_path, "no interactions", min_interactions=9)


def test_existing_out(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    import_csv(tmp_path / "log.csv", tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        import_csv(tmp_path / "log.csv", tmp_path / "out")
    import_csv(tmp_path / "log.csv", tmp_path / "out", overwrite=True)


IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(IDS, IDS, st.integers(0, 5)), min_size=1, max_size=30))
def test_csv_equals_group_and_sort(rows: list[tuple[str, str, int]], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("csv")
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("user", "item", "time"), *rows])
    (folder / "log.csv").write_bytes(stream.getvalue().encode())
    dataset = import_csv(folder / "log.csv", folder / "out")
    expected = sorted(rows, key=lambda row: (row[0], row[2]))
    assert rows_of(dataset) == expected
    histories = dataset.interactions()
    assert histories.user_ids == sorted({user for user, _, _ in rows})
    item_ids = dataset.items()["item_id"].to_pylist()
    assert [item_ids[row] for row in histories.items] == [item for _, item, _ in expected]


def test_dates(tmp_path: Path) -> None:
    day = datetime(2024, 2, 29, tzinfo=UTC)
    table = pa.table({"user": ["a"], "item": ["x"], "time": pa.array([day.date()])})
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = import_csv(tmp_path / "a.parquet", tmp_path / "out", kind="parquet")
    assert rows_of(dataset) == [("a", "x", day.timestamp())]
