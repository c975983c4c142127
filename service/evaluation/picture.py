"""What pictures of reports share: how reports are read, what is drawn and in which colours."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import InputError

# Okabe and Ito's palette, which the colour-blind can tell apart; markers say the same once more.
GREY, BLUE, ORANGE, GREEN, PURPLE = "#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7"


@contextmanager
def rows_of(file: Path, command: str = "padrec bench decode --json") -> Iterator[list[dict[str, Any]]]:
    """The rows of a report that `command` writes.

    Raises:
        InputError: it is none, or lacks what is read of its rows.
    """
    try:
        yield json.loads(file.read_bytes())["rows"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} was not written by '{command}'") from error


def label_of(row: dict[str, Any]) -> str:
    """The method of a row, and how it differs from the default."""
    label = str(row["method"])
    if not row["constrained"]:
        label += ", no trie"
    if row["temperature"]:
        label += f", T {row['temperature']:g}"
    return label


def svg_of(size: tuple[float, float], draw: Callable[[Any, Any], None]) -> bytes:
    """What is drawn into a figure and its axes, of so many inches; the same bytes for the same drawing.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("matplotlib is missing; it comes with padrec[plot]") from error

    # Text stays text: the file is small, and can be searched.
    with rc_context({"svg.hashsalt": "padrec", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(figure, axes)
        axes.set_axisbelow(True)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()
