"""Item files of shops: JSON lines, CSV or Parquet, one item a line or row."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from service.data.item_records import CHUNK, Record, attribute_types, distinct, item_table, record_id
from service.data.reading import json_lines
from service.data.staging import identifier, querying
from service.data.tables import CSV_SUFFIXES, PARQUET_SUFFIXES, Table, find_files, open_csv, open_parquet
from service.errors import DatasetError

JSON_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")

# A number as people write one; 007 is no number.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}")


def read_item_file(
    connection: duckdb.DuckDBPyConnection, file: Path, *, item_id_column: str, title_column: str
) -> pa.Table:
    """Columns `item_id`, `title` and `attributes`: all other columns that hold scalars or lists of strings.

    The title column may be missing; titles are empty then.

    Raises:
        DatasetError: the file cannot be read or is of another kind, has no column `item_id_column`, or an
            item has no ID or stands twice.
    """
    find_files(file, ())
    records = _Records(connection, file, item_id_column, title_column)
    table = item_table(records, attribute_types(records))
    return distinct(table, file)


class _Records:
    """Can be iterated many times; each time reads the file anew."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, file: Path, item_id: str, title: str) -> None:
        self._connection = connection
        self._file = file
        self._item_id = item_id
        self._title = title

    def __iter__(self) -> Iterator[Record]:
        for row in self._rows():
            item_id = record_id(self._file, row, self._item_id)
            del row[self._item_id]
            yield item_id, row | {"title": row.pop(self._title, None)}

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self._file.name.endswith(JSON_SUFFIXES):
            yield from json_lines(self._file)
        elif self._file.name.endswith(CSV_SUFFIXES):
            for row in self._query(open_csv(self._file)):
                yield {
                    name: value if name in (self._item_id, self._title) else _number_or_text(value)
                    for name, value in row.items()
                }
        elif self._file.name.endswith(PARQUET_SUFFIXES):
            yield from self._query(open_parquet(self._connection, self._file))
        else:
            raise DatasetError(f"{self._file}: an item file ends in .jsonl, .csv, .tsv or .parquet")

    def _query(self, table: Table) -> Iterator[dict[str, Any]]:
        columns = [f"{table.require_id(self._item_id)} AS {identifier(self._item_id)}"]
        columns += [
            _attribute(name, own)
            for name, own in table.types.items()
            if name != self._item_id and not own.startswith(("STRUCT", "MAP", "BLOB"))
        ]
        with querying(self._file):
            query = f"SELECT {', '.join(columns)} FROM {table.relation}"
            for batch in self._connection.sql(query).to_arrow_reader(CHUNK):
                yield from batch.to_pylist()


def _attribute(name: str, own: str) -> str:
    column = identifier(name)
    if own.startswith("DECIMAL"):
        return f"CAST({column} AS DOUBLE) AS {column}"
    if own.startswith(("DATE", "TIME", "HUGEINT", "UHUGEINT", "UUID", "ENUM", "INTERVAL")):
        return f"CAST({column} AS VARCHAR) AS {column}"
    return column


def _number_or_text(value: str | None) -> str | int | float | None:
    if value is None:
        return None
    if _INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _DECIMAL.fullmatch(value) else value
