"""Reading sources: what goes wrong becomes one clear line that names the file."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import ijson
import pyarrow as pa

from service.errors import DatasetError

MAX_MESSAGE = 300
MAX_DEPTH = 32


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns what fails in the block into a `DatasetError` that names `file`."""
    try:
        yield
    except OSError as error:
        # pyarrow raises OSError for torn files as well, without a `strerror`.
        raise DatasetError(f"cannot read {file}: {error.strerror or one_line(error)}") from error
    except (EOFError, zlib.error, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {file}: {one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8: {error.reason}") from error
    except ijson.JSONError as error:
        raise DatasetError(f"{file}: not valid JSON: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The first line of an error's message, at most `MAX_MESSAGE` characters."""
    message = error.args[0] if error.args else ""
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    line = next(iter(text.strip().splitlines()), type(error).__name__)
    return line.strip().rstrip(".")[:MAX_MESSAGE]


def open_text(file: Path) -> TextIO:
    """Open UTF-8 text, with or without a byte order mark; a name that ends in `.gz` is decompressed."""
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")


def json_object(file: Path) -> Iterator[tuple[str, Any]]:
    """The members of the one JSON object in `file`, one at a time, in their order.

    Raises:
        DatasetError: the file cannot be read, is cut short, is nested deeper than `MAX_DEPTH`, or holds
            something else.
    """
    with reading(file), file.open("rb") as stream:
        start = stream.read(1)
        while start.isspace():
            start = stream.read(1)
        if start not in (b"{", b""):
            raise DatasetError(f"{file}: not a JSON object")
        stream.seek(0)
        events = _shallow(file, ijson.basic_parse(stream, use_float=True))
        yield from ijson.kvitems(ijson.parse(events), "")


def _shallow(file: Path, events: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    # Before ijson gives each event its path: the paths of a chunk of brackets would fill the memory.
    depth = 0
    for event, value in events:
        if event in ("start_map", "start_array"):
            depth += 1
            if depth > MAX_DEPTH:
                raise DatasetError(f"{file}: nested deeper than {MAX_DEPTH} levels")
        elif event in ("end_map", "end_array"):
            depth -= 1
        yield event, value


def json_lines(file: Path, parse: Callable[[str], Any] = json.loads) -> Iterator[dict[str, Any]]:
    """The JSON objects of `file`, one a line; empty lines are passed over.

    Args:
        file: may be compressed, see `open_text`.
        parse: reads a line; raises ValueError for one that it cannot read.

    Raises:
        DatasetError: the file cannot be read, or a line is not an object; the message has its number.
    """
    with reading(file), open_text(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = parse(line)
            except ValueError as error:
                raise DatasetError(f"{file}: line {number}: not valid JSON: {one_line(error)}") from error
            except RecursionError as error:
                raise DatasetError(f"{file}: line {number}: nested too deeply") from error
            if not isinstance(value, dict):
                raise DatasetError(f"{file}: line {number}: not a JSON object")
            yield value
