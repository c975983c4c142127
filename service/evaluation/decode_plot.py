"""A picture of accepted lengths, from the rows of `padrec bench decode`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import InputError
from service.evaluation.picture import BLUE, GREY, ORANGE, label_of, rows_of, svg_of

_STYLES = {"chain": ("chain", BLUE, "o"), "tree": ("tree", ORANGE, "s"), None: ("no draft", GREY, "D")}
_KINDS = tuple(_STYLES)
_INCHES_PER_METHOD = 0.55


@dataclass(frozen=True, slots=True)
class Length:
    """One draft's accepted length.

    Attributes:
        label: the method, and how it differs from the default.
        tree: `chain`, `tree`, or None without a draft.
        mean: tokens per round.
        low: of the interval over users.
        high: likewise.
    """

    label: str
    tree: str | None
    mean: float
    low: float
    high: float


def read_lengths(files: Sequence[Path]) -> list[Length]:
    """The lengths in reports of `bench decode`, one for each draft, kind of tree and size of it of each file.

    The batch hardly changes a length, so the smallest of each file counts alone.

    Raises:
        InputError: a file is no such report, or there is no length at all.
    """
    lengths = [length for file in files for length in _lengths_of(file)]
    if not lengths:
        raise InputError(f"{', '.join(map(str, files))}: no row has an accepted length")
    return lengths


def _lengths_of(file: Path) -> list[Length]:
    with rows_of(file) as all_rows:
        rows = [row for row in all_rows if row["accepted_length"] is not None]
        smallest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: int(row["batch"])):
            smallest.setdefault((*_kind(row), *_size(row)), row)
        num_sizes = Counter(_kind(row) for row in smallest.values())
        return [
            Length(
                label_of(row) + (_size_label(row) if num_sizes[_kind(row)] > 1 else ""),
                row["tree"],
                *(float(row[f"accepted_length{end}"]) for end in ("", "_low", "_high")),
            )
            for row in smallest.values()
            if row["tree"] in _STYLES
        ]


def _kind(row: dict[str, Any]) -> tuple[Any, ...]:
    return label_of(row), row["draft"], row["tree"]


def _size(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["passes"], row["width"], row["places"]


def _size_label(row: dict[str, Any]) -> str:
    return f", {row['passes']} passes, {row['places']} tokens"


def draw(lengths: Sequence[Length]) -> bytes:
    """An SVG with a line for each label, in order of appearance; the same bytes for the same lengths.

    Every draft is a point with its interval over users; the tall mark and the number are the mean over drafts.

    Raises:
        InputError: matplotlib is missing.
    """
    labels = list(dict.fromkeys(length.label for length in lengths))
    used = [kind for kind in _KINDS if any(length.tree == kind for length in lengths)]

    def draw_all(figure: Any, axes: Any) -> None:
        from matplotlib.lines import Line2D

        for place, label in enumerate(labels):
            kinds = [kind for kind in _KINDS if any(_is(length, label, kind) for length in lengths)]
            for i, kind in enumerate(kinds):
                of_kind = [length for length in lengths if _is(length, label, kind)]
                _draw_drafts(axes, place + 0.4 * (i - (len(kinds) - 1) / 2), kind, of_kind)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.set_xlabel("accepted length: tokens per round (95% interval over users)")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        handles = [
            Line2D([], [], color=color, marker=marker, markersize=4, linewidth=1, label=name)
            for name, color, marker in (_STYLES[kind] for kind in used)
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)

    return svg_of((6.4, 1.1 + _INCHES_PER_METHOD * len(labels)), draw_all)


def _is(length: Length, label: str, kind: str | None) -> bool:
    return (length.label, length.tree) == (label, kind)


def _draw_drafts(axes: Any, height: float, kind: str | None, drafts: Sequence[Length]) -> None:
    """All drafts of one method and kind, spread a little around a height, and their mean."""
    _, color, marker = _STYLES[kind]
    for i, draft in enumerate(drafts):
        y = height + 0.2 * ((i + 0.5) / len(drafts) - 0.5)
        axes.plot([draft.low, draft.high], [y, y], color=color, linewidth=1, alpha=0.6)
        axes.plot([draft.mean], [y], color=color, marker=marker, markersize=3.5, linestyle="none")
    mean = sum(draft.mean for draft in drafts) / len(drafts)
    axes.plot([mean, mean], [height - 0.16, height + 0.16], color=color, linewidth=1.6)
    right = max(max(draft.high, draft.mean) for draft in drafts)
    axes.annotate(
        f"{mean:.2f}",
        (right, height),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=color,
        fontsize=8,
    )
