"""How much load there is, and when: a shape is a row of stages, each with a steady rate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from loadtest.profile import Profile
from service.errors import InputError

BEYOND = "beyond the knee"


@dataclass(frozen=True, slots=True)
class Stage:
    """A while with one rate.

    Attributes:
        name: distinct within a shape.
        rate: calls per second that are due, whatever becomes of them.
        seconds: how long.
    """

    name: str
    rate: float
    seconds: float


# Whether the service answered all of a stage in time, as far as is known: asked again later, it may have become untrue.
WasHeld = Callable[[Stage], bool]


def ramp(profile: Profile, was_held: WasHeld) -> Iterator[Stage]:
    """Rates that grow until one is not held; then, where one was, the last that was held times `beyond_factor`."""
    rate, done = profile.ramp_from, list[Stage]()
    while len(done) < profile.ramp_most_stages and all(map(was_held, done[-2:])):
        done.append(Stage(f"{rate:.3g} a second", rate, profile.ramp_stage_seconds))
        yield done[-1]
        rate *= profile.ramp_growth
    held = list(takewhile(was_held, done))
    if held:
        yield Stage(BEYOND, held[-1].rate * profile.beyond_factor, profile.beyond_seconds)


def step(profile: Profile, _was_held: WasHeld) -> Iterator[Stage]:
    """From one rate to the next at once."""
    for factor in profile.step_factors:
        yield Stage(f"{factor:g} times", profile.rate * factor, profile.step_seconds)


def spike(profile: Profile, _was_held: WasHeld) -> Iterator[Stage]:
    """A calm, far more at once, and a calm again."""
    yield Stage("before", profile.rate, profile.calm_seconds)
    yield Stage("spike", profile.rate * profile.spike_factor, profile.spike_seconds)
    yield Stage("after", profile.rate, profile.calm_seconds)


def soak(profile: Profile, _was_held: WasHeld) -> Iterator[Stage]:
    """One rate for long."""
    yield Stage("soak", profile.rate, profile.soak_seconds)


SHAPES: dict[str, Callable[[Profile, WasHeld], Iterator[Stage]]] = {
    "ramp": ramp,
    "step": step,
    "spike": spike,
    "soak": soak,
}


def check_shape(name: str) -> str:
    """The name, if there is such a shape; raises `InputError`."""
    if name not in SHAPES:
        raise InputError(f"no such shape: '{name}'; there are {', '.join(SHAPES)}")
    return name


class Schedule:
    """Which stage it is, by a clock that the caller reads.

    Args:
        stages: of a shape.
        on_stage: told of each stage when it begins, and when.
    """

    def __init__(self, stages: Iterator[Stage], on_stage: Callable[[Stage, float], None]) -> None:
        self._stages = stages
        self._on_stage = on_stage
        self._stage: Stage | None = None
        self._until = 0.0

    def at(self, now: float) -> Stage | None:
        """The stage at `now`, seconds that only rise; None: all are over."""
        if self._stage is None or now >= self._until:
            self._stage = next(self._stages, None)
            if self._stage is not None:
                self._until = now + self._stage.seconds
                self._on_stage(self._stage, now)
        return self._stage


def visitors(rate: float, think_seconds: float) -> int:
    """How many visitors make a rate of calls, each being due once in `think_seconds`."""
    return max(1, round(rate * think_seconds))
