"""A picture of how good lists are and how long they take, from the rows of `padrec evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import InputError
from service.evaluation.picture import BLUE, GREEN, GREY, ORANGE, PURPLE, rows_of, svg_of

_STYLES = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "v"), (GREY, "D")]
_TIME, _METRIC = "ms_per_list_p50", "ndcg@10"


@dataclass(frozen=True, slots=True)
class Quality:
    """One method.

    Attributes:
        label: the method.
        milliseconds: of a list that is made by itself.
        ndcg: its NDCG@10.
        low: of the interval over users.
        high: likewise.
    """

    label: str
    milliseconds: float
    ndcg: float
    low: float
    high: float


def read_qualities(files: Sequence[Path]) -> list[Quality]:
    """The methods of reports of `evaluate --latency`; those of several reports one after the other.

    Raises:
        InputError: a file is no such report, or nothing was timed.
    """
    qualities = []
    for file in files:
        with rows_of(file, "padrec evaluate --json") as rows:
            qualities += [
                Quality(
                    str(row["method"]),
                    float(row[_TIME]),
                    *(float(row[f"{_METRIC}{end}"]) for end in ("", "_low", "_high")),
                )
                for row in rows
                if row[_TIME] is not None
            ]
    if not qualities:
        raise InputError(f"{', '.join(map(str, files))}: nothing was timed; see 'padrec evaluate --latency'")
    return qualities


def draw_qualities(qualities: Sequence[Quality]) -> bytes:
    """An SVG with a point for each method and its interval; the same bytes for the same qualities.

    Raises:
        InputError: matplotlib is missing.
    """
    labels = list(dict.fromkeys(quality.label for quality in qualities))

    def draw_all(figure: Any, axes: Any) -> None:
        for place, label in enumerate(labels):
            color, marker = _STYLES[place % len(_STYLES)]
            points = [quality for quality in qualities if quality.label == label]
            axes.errorbar(
                [point.milliseconds for point in points],
                [point.ndcg for point in points],
                yerr=[
                    [point.ndcg - point.low for point in points],
                    [point.high - point.ndcg for point in points],
                ],
                color=color,
                marker=marker,
                markersize=4.5,
                linestyle="none",
                elinewidth=1,
                label=label,
            )
        axes.set_xscale("log")
        axes.margins(x=0.1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("milliseconds of a list by itself")
        axes.set_ylabel("NDCG@10 (95% interval over users)")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper right", ncols=len(labels), frameon=False)

    return svg_of((6.4, 3.6), draw_all)
