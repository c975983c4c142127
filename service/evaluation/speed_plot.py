"""A picture of lists per second by batch size, from the rows of `padrec bench decode`."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import InputError
from service.evaluation.decode_methods import AUTOREGRESSIVE
from service.evaluation.decode_plot import label_of

# Okabe and Ito's palette, which the colour-blind can tell apart; markers say the same once more.
_STYLES = [("#555555", "D"), ("#D55E00", "s"), ("#0072B2", "o"), ("#009E73", "^"), ("#CC79A7", "v")]


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
        try:
            for row in json.loads(file.read_bytes())["rows"]:
                speed_up = row["speed_up"] if row["method"] != AUTOREGRESSIVE else None
                speed = Speed(label_of(row), int(row["batch"]), float(row["lists_per_second"]), speed_up)
                known = fastest.setdefault((speed.label, speed.batch), speed)
                if speed.lists_per_second > known.lists_per_second:
                    fastest[speed.label, speed.batch] = speed
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} was not written by 'padrec bench decode --json'") from error
    if not fastest:
        raise InputError(f"{', '.join(map(str, files))}: no rows")
    return list(fastest.values())


def draw_speeds(speeds: Sequence[Speed]) -> bytes:
    """An SVG with a line for each label, in order of appearance; the same bytes for the same speeds.

    Numbers at the points are speed-ups over the engine alone.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("matplotlib is missing; it comes with padrec[plot]") from error

    labels = list(dict.fromkeys(speed.label for speed in speeds))
    batches = sorted({speed.batch for speed in speeds})
    # Text stays text: the file is small, and can be searched.
    with rc_context({"svg.hashsalt": "padrec", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for place, label in enumerate(labels):
            color, marker = _STYLES[place % len(_STYLES)]
            line = sorted((speed for speed in speeds if speed.label == label), key=lambda speed: speed.batch)
            axes.plot(
                [speed.batch for speed in line],
                [speed.lists_per_second for speed in line],
                color=color,
                marker=marker,
                markersize=4,
                linewidth=1.2,
                label=label,
            )
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
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.margins(x=0.06, y=0.12)
        axes.set_xlabel("lists in a batch")
        axes.set_ylabel("lists per second")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper right", ncols=len(labels), frameon=False)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()
