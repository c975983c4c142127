"""Rows of a measurement: as a table on stdout, and as JSON where asked for."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from service.files import check_new_file

_SECRETS = re.compile(r"(?<=://)[^/\s]*@|(?<=[?&])password=[^&\s]*&?")


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table with a column for each key of the first row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


def check_json(file: Path | None) -> None:
    """Raise an `InputError` unless `--json FILE` may be written: a long measurement must not fail at its last step."""
    if file is not None:
        check_new_file(file, overwrite=True)


def command_line(*program: str) -> str:
    """The command as a reader would type it, without secrets of URLs; of `padrec` where no other program is named."""
    return shlex.join([*(program or ("padrec",)), *(_SECRETS.sub("", word) for word in sys.argv[1:])])
