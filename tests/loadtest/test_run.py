import itertools
from collections import Counter
from pathlib import Path

import pytest

from loadtest.profile import Profile
from loadtest.run import Run, Target

TARGETS = [
    Target(("http://a:1",)),
    Target(("http://a:1", "http://b:1"), ("a:2", "b:2"), "http://w:3/metrics"),
]


def in_turn(num_gateways: int, generator: int, generators: int, visitors: int) -> list[int]:
    target = Target(tuple(f"http://gateway-{number}" for number in range(num_gateways)))
    return list(itertools.islice(target.turns(generator, generators), visitors))


def test_visitors_take_gateways_in_turn() -> None:
    assert in_turn(3, 0, 1, 7) == [0, 1, 2, 0, 1, 2, 0]
    assert in_turn(1, 0, 1, 3) == [0, 0, 0]
    assert [in_turn(4, generator, 2, 5) for generator in range(2)] == [[0, 1, 2, 3, 0], [2, 3, 0, 1, 2]]


@pytest.mark.parametrize("num_gateways", [1, 2, 3, 8])
@pytest.mark.parametrize("generators", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("visitors", [8, 9, 21])
def test_gateways_get_as_many_visitors_of_each_generator_and_of_all(
    num_gateways: int, generators: int, visitors: int
) -> None:
    of_each = [
        Counter(in_turn(num_gateways, generator, generators, visitors)) for generator in range(generators)
    ]
    for counts in [*of_each, sum(of_each, Counter())]:
        assert len(counts) == num_gateways
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_is_read_as_it_was_written(tmp_path: Path, target: Target) -> None:
    run = Run(target, "soak", Profile(rate=7), tmp_path / "recording.jsonl", {"shape": "soak"})
    run.write(tmp_path / "run.json")
    assert Run.read(tmp_path / "run.json") == run
