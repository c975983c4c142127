"""Reading sources: what goes wrong becomes one clear line that names the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ijson
import pyarrow as pa

from service.errors import DatasetError

MAX_MESSAGE = 300


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns what fails in the block into a `DatasetError` that names `file`."""
    try:
        yield
    except OSError as error:
        # pyarrow raises OSError for torn files as well, without a `strerror`.
        raise DatasetError(f"cannot read {file}: {error.strerror or one_line(error)}") from error
    except (EOFError, pa.ArrowException) as error:
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


def json_object(file: Path) -> Iterator[tuple[str, Any]]:
    """The members of the one JSON object in `file`, one at a time, in their order.

    Raises:
        DatasetError: the file cannot be read, is cut short, or holds something else.
    """
    with reading(file), file.open("rb") as stream:
        start = stream.read(1)
        while start.isspace():
            start = stream.read(1)
        if start not in (b"{", b""):
            raise DatasetError(f"{file}: not a JSON object")
        stream.seek(0)
        yield from ijson.kvitems(stream, "", use_float=True)


def json_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of `file`, one a line; empty lines are passed over.

    Raises:
        DatasetError: the file cannot be read, or a line is not an object; the message has its number.
    """
    with reading(file), file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{file}: line {number}: not valid JSON: {one_line(error)}") from error
            if not isinstance(value, dict):
                raise DatasetError(f"{file}: line {number}: not a JSON object")
            yield value
