"""From a recording to the rows of its report."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from loadtest.outcomes import LATE, NO_FAILURES, OK, REFUSED
from loadtest.recording import CallRecord, Recording, StageRecord
from loadtest.shapes import BEYOND
from loadtest.telling import engine_figures
from loadtest.traffic import LISTS, RECOMMEND, STREAM

_PERCENTILES = (50, 95, 99)


def rows_of(recording: Recording) -> list[dict[str, Any]]:
    """What a report tells, by `kind` of row; loadtest/README.md describes each.

    Rates are per second; what is told of lists counts those of a batch one by one.
    """
    stages = [_stage_row(recording, stage, until) for stage, until in _with_ends(recording.stages)]
    about = {
        name: value
        for name, value in recording.about.items()
        if name not in ("command", "device", "versions")
    }
    rows = [{"kind": "run", **about}, *stages]
    rows += [
        row for stage, until in _with_ends(recording.stages) for row in _call_rows(recording, stage, until)
    ]
    rows += _held_rows(stages, recording.about["profile"]["limits_ms"])
    return rows + _beyond_rows(stages, recording.about["profile"])


def outcomes_of(call: CallRecord, deadline: float) -> Counter[str]:
    """Of a call's lists; what came after its deadline is late."""
    if call.call in LISTS and call.seconds > deadline and OK in call.outcomes:
        late = Counter(call.outcomes)
        late[LATE] = late.pop(OK)
        return late
    return Counter(call.outcomes)


def _with_ends(stages: Sequence[StageRecord]) -> list[tuple[StageRecord, float]]:
    starts = [stage.start for stage in stages[1:]]
    ends = [stage.start + stage.seconds for stage in stages]
    return list(zip(stages, map(min, ends, [*starts, float("inf")]), strict=True))


def _calls_of(recording: Recording, stage: StageRecord, until: float) -> list[CallRecord]:
    since = stage.start + recording.about["profile"]["settle_seconds"]
    return [call for call in recording.calls if since <= call.due < until]


def _stage_row(recording: Recording, stage: StageRecord, until: float) -> dict[str, Any]:
    profile = recording.about["profile"]
    deadline, since = profile["deadline_ms"] / 1_000, stage.start + profile["settle_seconds"]
    calls, seconds = _calls_of(recording, stage, until), until - since
    lists: Counter[str] = Counter()
    for call in calls:
        if call.call in LISTS:
            lists.update(outcomes_of(call, deadline))
    events = Counter(kind for call in calls if call.call not in LISTS for kind in call.outcomes)
    answered = [call.seconds for call in calls if _is_single(call) and OK in call.outcomes]
    return {
        "kind": "stage",
        "stage": stage.name,
        "seconds": seconds,
        "calls_due": stage.rate,
        "calls": len(calls) / seconds,
        "lists": lists.total() / seconds,
        "goodput": lists[OK] / seconds,
        "refused": lists[REFUSED] / seconds,
        "late": lists[LATE] / seconds,
        "list_outcomes": dict(sorted(lists.items())),
        "event_outcomes": dict(sorted(events.items())),
        "failed_lists": _failures(lists),
        "failed_events": _failures(events),
        **_percentiles(answered),
        "generator_lag_ms_p99": _percentiles([call.lag for call in calls])["p99_ms"],
        **engine_figures(recording.samples, since, until),
    }


def _is_single(call: CallRecord) -> bool:
    return call.call in (RECOMMEND, STREAM)


def _failures(outcomes: Counter[str]) -> dict[str, int]:
    return {kind: count for kind, count in sorted(outcomes.items()) if kind not in NO_FAILURES}


def _call_rows(recording: Recording, stage: StageRecord, until: float) -> list[dict[str, Any]]:
    """By protocol and kind of call: how long those took that were answered whole, and what became of all."""
    deadline = recording.about["profile"]["deadline_ms"] / 1_000
    groups: dict[tuple[str, str], list[CallRecord]] = {}
    for call in _calls_of(recording, stage, until):
        groups.setdefault((call.protocol, call.call), []).append(call)
    return [
        {
            "kind": "call",
            "stage": stage.name,
            "protocol": protocol,
            "call": name,
            "calls": len(calls),
            **_percentiles([call.seconds for call in calls if set(call.outcomes) == {OK}]),
            "outcomes": dict(sum((outcomes_of(call, deadline) for call in calls), Counter())),
        }
        for (protocol, name), calls in sorted(groups.items())
    ]


def _held_rows(stages: Iterable[dict[str, Any]], limits_ms: Iterable[float]) -> list[dict[str, Any]]:
    """For each limit the highest rate at which, and below which, all lists came and their p99 kept it."""
    rows = []
    for limit in limits_ms:
        held: dict[str, Any] | None = None
        for row in sorted(stages, key=lambda row: float(row["calls_due"])):
            whole = not (row["refused"] or row["late"] or row["failed_lists"] or row["failed_events"])
            if not whole or row["p99_ms"] is None or row["p99_ms"] > limit:
                break
            held = row
        told = {name: None if held is None else held[name] for name in ("calls_due", "goodput", "p99_ms")}
        rows.append({"kind": "held", "limit_ms": limit, **told})
    return rows


def _beyond_rows(stages: Sequence[dict[str, Any]], profile: dict[str, Any]) -> list[dict[str, Any]]:
    """What was left of the goodput beyond the knee, where a ramp went there."""
    beyond = next((row for row in stages if row["stage"] == BEYOND), None)
    if beyond is None:
        return []
    peak = max(row["goodput"] for row in stages if row is not beyond)
    return [
        {
            "kind": "beyond",
            "knee": beyond["calls_due"] / profile["beyond_factor"],
            "calls_due": beyond["calls_due"],
            "peak_goodput": peak,
            "goodput": beyond["goodput"],
            "share_of_peak": beyond["goodput"] / peak if peak else None,
            "p99_ms": beyond["p99_ms"],
            "deadline_ms": profile["deadline_ms"],
            "refused": beyond["refused"],
            "late": beyond["late"],
            "failed_lists": beyond["failed_lists"],
        }
    ]


def _percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """In milliseconds; None where there is nothing."""
    if not seconds:
        return {f"p{percent}_ms": None for percent in _PERCENTILES}
    found = np.percentile(seconds, _PERCENTILES, method="inverted_cdf")
    return {
        f"p{percent}_ms": 1_000 * float(value) for percent, value in zip(_PERCENTILES, found, strict=True)
    }
