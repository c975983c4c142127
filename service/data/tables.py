"""CSV and Parquet files as relations of DuckDB."""

import csv
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from service.data.reading import open_text, reading
from service.data.staging import identifier, literal, querying
from service.errors import DatasetError

CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET_SUFFIXES = (".parquet",)
DELIMITERS = ",\t;|"


@dataclass(frozen=True)
class Table:
    """One file of a source.

    Attributes:
        relation: stands after FROM.
        types: DuckDB's type of each column, by name; all VARCHAR in CSV files, so that no ID loses its zeros.
    """

    file: Path
    relation: str
    types: Mapping[str, str]

    def require(self, column: str) -> str:
        """The SQL identifier of a column.

        Raises:
            DatasetError: there is no such column; the message lists those there are.
        """
        if column not in self.types:
            there_are = ", ".join(self.types)
            raise DatasetError(f"{self.file}: no column '{column}'; there are: {there_are}")
        return identifier(column)

    def require_id(self, column: str) -> str:
        """An SQL expression for a column of IDs as strings; whole numbers stored as floats lose their `.0`.

        Raises:
            DatasetError: there is no such column, or it holds nested values.
        """
        name, own = self.require(column), self.types[column]
        if own.endswith("]") or own.startswith(("STRUCT", "MAP", "BLOB")):
            raise DatasetError(f"{self.file}: column '{column}' holds {own}, not IDs")
        if own in ("FLOAT", "DOUBLE"):
            return f"regexp_replace(CAST({name} AS VARCHAR), '\\.0$', '')"
        return f"CAST({name} AS VARCHAR)"


def find_files(src: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file `src`, those of the folder `src` with one of `suffixes`, or what the pattern `src` matches.

    Returns:
        Sorted by name.

    Raises:
        DatasetError: there is none, or one cannot be read.
    """
    if src.is_dir():
        files = sorted(
            file for file in src.iterdir() if file.is_file() and file.name.endswith(tuple(suffixes))
        )
        if not files:
            raise DatasetError(f"{src}: no file ends in {' or '.join(suffixes)}")
    else:
        files = [src] if src.exists() else sorted(Path(match) for match in glob.glob(str(src)))
        if not files:
            raise DatasetError(f"no such file: {src}")
    for file in files:
        with reading(file), file.open("rb") as stream:
            stream.read(1)
    return files


def open_csv(file: Path) -> Table:
    """A CSV file with a header line.

    Of comma, tab, semicolon and bar the delimiter is the one that the header has most of.

    Raises:
        DatasetError: the file cannot be read, is empty, or has a column name twice.
    """
    with reading(file), open_text(file) as stream:
        first = stream.readline()
        delimiter = max(DELIMITERS, key=first.count)
        stream.seek(0)
        try:
            columns = next(csv.reader(stream, delimiter=delimiter), [])
        except csv.Error as error:
            raise DatasetError(f"{file}: not a CSV file: {error}") from error
    if not any(columns):
        raise DatasetError(f"{file}: no header line")
    for column in columns:
        if columns.count(column) > 1:
            raise DatasetError(f"{file}: column '{column}' stands twice in the header")
    struct = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    options = (
        f"columns={{{struct}}}, delim={literal(delimiter)}, header=true, quote='\"', escape='\"', comment=''"
    )
    relation = f"read_csv({_path(file)}, {options}, auto_detect=false, hive_partitioning=false)"
    return Table(file, relation, dict.fromkeys(columns, "VARCHAR"))


def open_parquet(connection: duckdb.DuckDBPyConnection, file: Path) -> Table:
    """A Parquet file.

    Raises:
        DatasetError: the file is torn or of another format.
    """
    relation = f"read_parquet({_path(file)}, hive_partitioning=false)"
    with querying(file):
        described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return Table(file, relation, {name: own for name, own, *_ in described})


def _path(file: Path) -> str:
    return literal(glob.escape(str(file)))
