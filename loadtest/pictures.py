"""Pictures of a load test over its time, second by second."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from loadtest.figures import outcomes_of
from loadtest.outcomes import OK, REFUSED
from loadtest.recording import Recording
from loadtest.traffic import LISTS, RECOMMEND, STREAM
from service.evaluation.picture import BLUE, GREEN, GREY, ORANGE, svg_of

_SIZE = (7.2, 2.9)


def pictures_of(recording: Recording) -> dict[str, bytes]:
    """By name, SVGs: lists per second, how long they took, and what waited and ran in the worker.

    Raises:
        InputError: matplotlib is missing.
    """
    draws = {"lists": _draw_lists, "latency": _draw_latency, "engine": _draw_engine}
    return {name: svg_of(_SIZE, _drawing(recording, draw)) for name, draw in draws.items()}


def _drawing(recording: Recording, draw: Callable[[Any, Recording], None]) -> Callable[[Any, Any], None]:
    def draw_all(figure: Any, axes: Any) -> None:
        for stage in recording.stages:
            axes.axvline(stage.start, color="#dddddd", linewidth=0.8)
        draw(axes, recording)
        axes.set_xlabel("seconds; grey lines: the rate changes")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper right", ncols=4, frameon=False)

    return draw_all


def _draw_lists(axes: Any, recording: Recording) -> None:
    deadline = recording.about["profile"]["deadline_ms"] / 1_000
    asked: list[tuple[float, float, float, float]] = []
    for call in recording.calls:
        if call.call in LISTS:
            outcomes = outcomes_of(call, deadline)
            asked.append((call.due, outcomes.total(), outcomes[OK], outcomes[REFUSED]))
    if asked:
        due, *counts = zip(*asked, strict=True)
        styles = (("due", GREY, ":"), ("in time", BLUE, "-"), ("refused, with when to retry", ORANGE, "--"))
        for (label, color, style), values in zip(styles, counts, strict=True):
            per_second = np.bincount(np.asarray(due, dtype=int), weights=values)
            axes.plot(
                np.arange(len(per_second)) + 0.5, per_second, style, color=color, linewidth=1.2, label=label
            )
    axes.set_ylabel("lists per second")


def _draw_latency(axes: Any, recording: Recording) -> None:
    seconds: dict[int, list[float]] = {}
    for call in recording.calls:
        if call.call in (RECOMMEND, STREAM) and OK in call.outcomes:
            seconds.setdefault(int(call.due), []).append(call.seconds)
    times = sorted(seconds)
    for percent, color in ((50, GREEN), (99, BLUE)):
        values = [1_000 * float(np.percentile(seconds[time], percent)) for time in times]
        label = f"p{percent} of lists that came"
        axes.plot([time + 0.5 for time in times], values, color=color, linewidth=1.2, label=label)
    deadline_ms = recording.about["profile"]["deadline_ms"]
    axes.axhline(deadline_ms, color=ORANGE, linestyle="--", linewidth=1, label="deadline")
    axes.set_ylabel("milliseconds since due")


def _draw_engine(axes: Any, recording: Recording) -> None:
    samples = [sample for sample in recording.samples if sample.process == "worker"]
    waiting = [(sample.at, sample.values.get("padrec_queue_size", 0.0)) for sample in samples]
    batches = []
    for before, after in pairwise(samples):
        lists, rounds = (
            after.values.get(f"padrec_batch_size_{part}", 0.0)
            - before.values.get(f"padrec_batch_size_{part}", 0.0)
            for part in ("sum", "count")
        )
        if rounds > 0:
            batches.append((after.at, lists / rounds))
    _plot(axes, waiting, ORANGE, "requests that wait")
    _plot(axes, batches, BLUE, "lists of a round")
    axes.set_ylabel("in the worker")


def _plot(axes: Any, points: Sequence[tuple[float, float]], color: str, label: str) -> None:
    axes.plot(
        [at for at, _ in points], [value for _, value in points], color=color, linewidth=1.2, label=label
    )
