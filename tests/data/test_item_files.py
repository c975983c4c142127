import gzip
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.data.item_files import read_item_file
from service.data.staging import staging
from service.errors import DatasetError


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with staging(tmp_path) as opened:
        yield opened


def read(connection: duckdb.DuckDBPyConnection, file: Path) -> pa.Table:
    return read_item_file(connection, file, item_id_column="id", title_column="name")


LINES = b'{"id": 1, "name": "Cup", "size": 2}\n{"id": "b", "size": 2.5, "tags": ["x"]}\n'


@pytest.mark.parametrize(
    ("name", "content"), [("i.jsonl", LINES), ("i.json.gz", gzip.compress(LINES)), ("i.json", LINES)]
)
def test_json_lines(tmp_path: Path, connection: duckdb.DuckDBPyConnection, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(connection, tmp_path / name).to_pylist() == [
        {"item_id": "1", "title": "Cup", "attributes": {"size": 2.0, "tags": None}},
        {"item_id": "b", "title": "", "attributes": {"size": 2.5, "tags": ["x"]}},
    ]


def test_csv_columns_get_the_type_that_holds_all_values(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    (tmp_path / "i.csv").write_text("id,whole,part,mixed,zeros\n01,3,3,3,07\n02,-4,0.5,n/a,11\n")
    table = read(connection, tmp_path / "i.csv")
    assert table["item_id"].to_pylist() == ["01", "02"]
    assert table["attributes"].to_pylist() == [
        {"whole": 3, "part": 3.0, "mixed": "3", "zeros": "07"},
        {"whole": -4, "part": 0.5, "mixed": "n/a", "zeros": "11"},
    ]


def test_parquet_types(tmp_path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    columns = {
        "id": [1.0, 2.0],
        "name": ["Cup", None],
        "price": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
        "since": pa.array([0, 1], pa.date32()),
        "weight": [float("nan"), 2.0],
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "nested": [{"a": 1}, None],
        "counts": [[1], [2]],
    }
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    table = read(connection, tmp_path / "i.parquet")
    assert table["item_id"].to_pylist() == ["1", "2"]
    assert table["attributes"].to_pylist() == [
        {"price": 1.0, "since": "1970-01-01", "kind": "a", "weight": None},
        {"price": 2.0, "since": "1970-01-02", "kind": "b", "weight": 2.0},
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("i.jsonl", b'{"id": "a"}\n{"name": "nameless"}\n', ["no 'id'"]),
        ("i.jsonl", b'{"id": "a"}\n{"id": "a"}\n', ["'a' stands twice"]),
        ("i.jsonl", b'{"id": "a"', ["line 1"]),
        ("i.jsonl", b'{"id": true}\n', ["'id' True"]),
        ("i.jsonl", b'{"id": "a\\ud800"}\n', ["half a character"]),
        ("i.jsonl", b'{"id": "a"}\n{"id": "b", "x": ' + b"[" * 100_000, ["line 2", "nested too deeply"]),
        ("i.csv", b"sku,name\na,Cup\n", ["no column 'id'", "sku, name"]),
        ("i.csv", b"id,name\n,Cup\n", ["no 'id'"]),
        ("i.csv", b"id,name\na\n", ["line 2"]),
        ("i.parquet", b"PAR1", []),
        ("i.xls", b"?", [".parquet"]),
    ],
)
def test_bad_item_files(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read(connection, tmp_path / name)
    assert "\n" not in str(caught.value)
    for word in [name, *words]:
        assert word in str(caught.value)


def test_missing_item_file(tmp_path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(DatasetError, match=r"no such file: .*i\.csv"):
        read(connection, tmp_path / "i.csv")
