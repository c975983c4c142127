import pytest

from loadtest.profile import Profile
from loadtest.shapes import BEYOND, SHAPES, Schedule, Stage, check_shape, visitors
from service.errors import InputError

PROFILE = Profile(ramp_from=10, ramp_growth=2, ramp_stage_seconds=5, ramp_most_stages=6, rate=20)


def rates(shape: str, holds_up_to: float = float("inf"), profile: Profile = PROFILE) -> list[float]:
    return [stage.rate for stage in SHAPES[shape](profile, lambda stage: stage.rate <= holds_up_to)]


def test_a_ramp_grows_until_a_rate_is_not_held_and_goes_beyond_the_last_that_was() -> None:
    assert rates("ramp", holds_up_to=45) == [10, 20, 40, 80, 2 * 40]


def test_a_ramp_ends_though_everything_is_held() -> None:
    assert rates("ramp") == [10, 20, 40, 80, 160, 320, 2 * 320]


def test_a_ramp_of_which_nothing_is_held_knows_no_knee() -> None:
    assert rates("ramp", holds_up_to=5) == [10]


def test_a_rate_that_turns_out_not_to_be_held_later_is_not_the_knee() -> None:
    asked: list[float] = []

    def was_held(stage: Stage) -> bool:  # of 40 a second the first failure comes after its end
        asked.append(stage.rate)
        return stage.rate < 40 or (stage.rate == 40 and asked.count(40) == 1)

    assert [stage.rate for stage in SHAPES["ramp"](PROFILE, was_held)] == [10, 20, 40, 80, 2 * 20]


def test_only_the_last_stage_of_a_ramp_is_beyond_the_knee() -> None:
    names = [stage.name for stage in SHAPES["ramp"](PROFILE, lambda stage: stage.rate < 30)]
    assert names == ["10 a second", "20 a second", "40 a second", BEYOND]


def test_other_shapes_do_not_ask_what_was_held() -> None:
    assert rates("step", holds_up_to=0) == [10, 20, 30]
    assert rates("spike", holds_up_to=0) == [20, 100, 20]
    assert rates("soak", holds_up_to=0) == [20]


@pytest.mark.parametrize("shape", SHAPES)
def test_names_of_stages_are_distinct(shape: str) -> None:
    names = [stage.name for stage in SHAPES[shape](Profile(), lambda _stage: True)]
    assert len(names) == len(set(names))


def test_a_schedule_follows_the_clock() -> None:
    begun: list[tuple[str, float]] = []
    stages = iter([Stage("a", 1, 5), Stage("b", 2, 3)])
    schedule = Schedule(stages, lambda stage, at: begun.append((stage.name, at)))
    names = [stage and stage.name for stage in map(schedule.at, [1.0, 2.0, 5.9, 6.1, 9.0, 9.1, 20.0])]
    assert names == ["a", "a", "a", "b", "b", None, None]
    assert begun == [("a", 1.0), ("b", 6.1)]


def test_visitors_of_a_rate() -> None:
    assert [visitors(rate, 5.0) for rate in (0.01, 10, 12.5)] == [1, 50, 62]


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(InputError, match="no such shape: 'hill'; there are ramp, step, spike, soak"):
        check_shape("hill")
