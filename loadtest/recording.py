"""What happened in a load test, line by line: the report is made of this file, then or later."""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from loadtest.outcomes import OK
from loadtest.shapes import Stage
from service.errors import InputError

# Enough to tell a rate that is held from one that is not.
_FEWEST_CALLS = 5


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call.

    Attributes:
        protocol: `rest` or `grpc`.
        call: its name.
        due: when it should have left, in seconds of the recording.
        lag: seconds by which it left later, which is the load generator's fault.
        seconds: from when it was due until all of the answer was there.
        outcomes: how many of its lists (of a call for none: of itself) ended how.
    """

    protocol: str
    call: str
    due: float
    lag: float
    seconds: float
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage that began.

    Attributes:
        start: in seconds of the recording; it ends `seconds` later, or when the next one begins.
    """

    name: str
    rate: float
    seconds: float
    start: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process said of itself.

    Attributes:
        process: `gateway`, `worker` or `locust`.
        at: when, in seconds of the recording.
        values: by name, and where there are labels `name{label=value,…}`.
        number: which of several gateways it is, from 0.
    """

    process: str
    at: float
    values: Mapping[str, float]
    number: int = 0


@dataclass(frozen=True, slots=True)
class Recording:
    """All of a test.

    Attributes:
        about: the run: command, shape, profile and where.
    """

    about: Mapping[str, Any]
    stages: Sequence[StageRecord]
    calls: Sequence[CallRecord]
    samples: Sequence[Sample]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what a `Recorder` wrote.

        Raises:
            InputError: it is no recording.
        """
        kinds: dict[str, list[Any]] = {"about": [], "stage": [], "call": [], "sample": []}
        makers = {"about": dict, "stage": StageRecord, "call": CallRecord, "sample": Sample}
        try:
            for line in file.read_text(encoding="utf-8").splitlines():
                fields = json.loads(line)
                kind = fields.pop("kind")
                kinds[kind].append(makers[kind](**fields))
            [about] = kinds["about"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} is no recording of a load test") from error
        return cls(about, kinds["stage"], kinds["call"], kinds["sample"])


@dataclass(slots=True)
class _Tally:
    """Of the calls that were due in a stage, since its start."""

    start: float
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Recorder:
    """Writes a recording while it happens.

    Args:
        file: made anew.
        about: of the run.
    """

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        self._file = file.open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}  # by stage, in the order in which they began
        self._write("about", dict(about))

    def stage(self, stage: Stage, start: float) -> None:
        """A stage begins."""
        self._tallies[stage.name] = _Tally(start)
        self._write("stage", asdict(StageRecord(stage.name, stage.rate, stage.seconds, start)))

    def call(self, record: CallRecord) -> None:
        """A call is over."""
        tally = next((one for one in reversed(self._tallies.values()) if one.start <= record.due), None)
        if tally is not None:
            tally.outcomes.update(record.outcomes)
            tally.seconds.append(record.seconds)
        self._write("call", asdict(record))

    def sample(self, sample: Sample) -> None:
        """A process was asked."""
        self._write("sample", asdict(sample))

    def was_held(self, stage: Stage, deadline: float) -> bool:
        """Whether all that is over of a stage's calls was answered, nothing refused, and its p99 within `deadline`."""
        tally = self._tallies[stage.name]
        if len(tally.seconds) < _FEWEST_CALLS or set(tally.outcomes) != {OK}:
            return False
        return float(np.quantile(tally.seconds, 0.99)) <= deadline

    def close(self) -> None:
        """Nothing comes any more."""
        self._file.close()

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.write(json.dumps({"kind": kind, **fields}) + "\n")


def sampled(text: str, wanted: Iterable[str]) -> dict[str, float]:
    """Of a process's /metrics, the values of these names, whatever their labels."""
    names = frozenset(wanted)
    return {
        _key(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in names
    }


def _key(name: str, labels: Mapping[str, str]) -> str:
    if not labels:
        return name
    return f"{name}{{{','.join(f'{label}={value}' for label, value in sorted(labels.items()))}}}"
