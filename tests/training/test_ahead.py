"""What is made ahead is what would have been made."""

import threading

import pytest

from service.training.ahead import made_ahead


def test_the_next_one_is_begun_with_the_one_asked_for() -> None:
    made, begun = [], {step: threading.Event() for step in range(2, 6)}

    def make(step: int) -> int:
        begun[step].set()
        made.append((step, threading.current_thread().name))
        return 10 * step

    with made_ahead(make, 6) as of:
        for step in range(2, 6):  # as a training that goes on
            assert of(step) == 10 * step
            if step < 5:
                assert begun[step + 1].wait(10)
    assert [step for step, _ in made] == [2, 3, 4, 5]
    assert {name for _, name in made} == {"ahead_0"}


def test_what_fails_fails_where_it_is_asked_for() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise ValueError("no batch")
        return step

    with made_ahead(make, 3) as of:
        assert of(0) == 0
        with pytest.raises(ValueError, match="no batch"):
            of(1)
