"""A DuckDB database on disk, for what may be larger than memory."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from service.data.reading import MAX_MESSAGE, one_line
from service.errors import DatasetError

MEMORY_LIMIT = "2GB"

_CSV_LINE = re.compile(r"CSV Error on Line: (\d+)")
_CSV_REASON = re.compile(
    r"^(Expected Number of Columns|Invalid unicode|Value with|Maximum line size).*$", re.M
)


@contextmanager
def staging(folder: Path, memory_limit: str = MEMORY_LIMIT) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database inside `folder` that is gone when the block ends; times without a zone are UTC."""
    work = folder / ".staging"
    work.mkdir()
    settings = {
        "memory_limit": memory_limit,
        "temp_directory": str(work / "spill"),
        "autoinstall_known_extensions": False,
        "TimeZone": "UTC",
    }
    connection = duckdb.connect(str(work / "staging.duckdb"), config=settings)
    try:
        yield connection
    finally:
        connection.close()
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def querying(source: Path) -> Iterator[None]:
    """Turns what DuckDB raises in the block into a `DatasetError` of one line that names `source`."""
    try:
        yield
    except RuntimeError as error:
        # What a query makes of Ctrl-C.
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        raise DatasetError(f"cannot read {source}: {_reason(error)}") from error


def _reason(error: duckdb.Error) -> str:
    message = str(error)
    line, reason = _CSV_LINE.search(message), _CSV_REASON.search(message)
    if line and reason:
        return f"line {line[1]}: {reason[0].strip().rstrip('.')}"[:MAX_MESSAGE]
    return re.sub(r"^[A-Z][\w ]* Error: ", "", one_line(error))


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
