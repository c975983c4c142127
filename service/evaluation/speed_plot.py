"""A picture of lists per second by batch size, from the rows of `padrec bench decode`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import InputError
from service.evaluation.decode_methods import AUTOREGRESSIVE
from service.evaluation.picture import BLUE, GREEN, GREY, ORANGE, PURPLE, label_of, rows_of, svg_of

_STYLES = [(GREY, "D"), (ORANGE, "s"), (BLUE, "o"), (GREEN, "^"), (PURPLE, "v")]


@dataclass(frozen=True, slots=True)
class Speed:
    """One method at one batch size.

    Attributes:
        label: the method, and how it differs from the default.
        batch: lists in a batch.
        lists_per_second: that it writes.
        speed_up: over the engine alone in the same report; None where that was not measured.
    """

    label: str
    batch: int
    lists_per_second: float
    speed_up: float | None


def read_speeds(files: Sequence[Path]) -> list[Speed]:
    """The speeds in reports of `bench decode`; of one method at one batch size the fastest.

    Raises:
        InputError: a file is no such report, or there is no row at all.
    """
    fastest: dict[tuple[str, int], Speed] = {}
    for file in files:
        with rows_of(file) as rows:
            for row in rows:
                speed_up = row["speed_up"] if row["method"] != AUTOREGRESSIVE else None
                speed = Speed(label_of(row), int(row["batch"]), float(row["lists_per_second"]), speed_up)
                known = fastest.setdefault((speed.label, speed.batch), speed)
                if speed.lists_per_second > known.lists_per_second:
                    fastest[speed.label, speed.batch] = speed
    if not fastest:
        raise InputError(f"{', '.join(map(str, files))}: no rows")
    return list(fastest.values())


def draw_speeds(speeds: Sequence[Speed]) -> bytes:
    """An SVG with a line for each label, in order of appearance; the same bytes for the same speeds.

    Numbers at the points are speed-ups over the engine alone.

    Raises:
        InputError: matplotlib is missing.
    """
    labels = list(dict.fromkeys(speed.label for speed in speeds))
    batches = sorted({speed.batch for speed in speeds})

    def draw_all(figure: Any, axes: Any) -> None:
        for place, label in enumerate(labels):
            line = sorted((speed for speed in speeds if speed.label == label), key=lambda speed: speed.batch)
            _draw_line(axes, line, *_STYLES[place % len(_STYLES)])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.margins(x=0.06, y=0.12)
        axes.set_xlabel("lists in a batch")
        axes.set_ylabel("lists per second")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper right", ncols=len(labels), frameon=False)

    return svg_of((6.4, 3.6), draw_all)


def _draw_line(axes: Any, line: Sequence[Speed], color: str, marker: str) -> None:
    """One method, by batch size."""
    batches, lists = [speed.batch for speed in line], [speed.lists_per_second for speed in line]
    axes.plot(batches, lists, color=color, marker=marker, markersize=4, linewidth=1.2, label=line[0].label)
    for speed in line:
        if speed.speed_up is not None:
            axes.annotate(
                f"{speed.speed_up:.2f}x",
                (speed.batch, speed.lists_per_second),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                color=color,
                fontsize=8,
            )
