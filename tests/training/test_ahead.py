"""What is made ahead is what would have been made."""

import threading

import pytest

from service.training.ahead import Ahead


def test_the_next_one_is_begun_with_the_one_asked_for() -> None:
    made, begun = [], {step: threading.Event() for step in range(2, 6)}

    def make(step: int) -> int:
        begun[step].set()
        made.append((step, threading.current_thread().name))
        return 10 * step

    began: list[str] = []
    with Ahead(make, 6, begin=lambda: began.append(threading.current_thread().name)) as ahead:
        for step in range(2, 6):  # as a training that goes on
            assert ahead.of(step) == 10 * step
            if step < 5:
                assert begun[step + 1].wait(10)
    assert [step for step, _ in made] == [2, 3, 4, 5]
    assert {name for _, name in made} == set(began) == {"ahead_0"}


def test_what_fails_fails_where_it_is_asked_for() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise ValueError("no batch")
        return step

    with Ahead(make, 3) as ahead:
        assert ahead.of(0) == 0
        ahead.settle()
        with pytest.raises(ValueError, match="no batch"):
            ahead.of(1)


def test_once_settled_nothing_is_being_made() -> None:
    goes_on, done = threading.Event(), []

    def make(step: int) -> None:
        if step:
            assert goes_on.wait(10)
        done.append(step)

    with Ahead(make, 2) as ahead:
        ahead.settle()
        ahead.of(0)
        threading.Timer(0.1, goes_on.set).start()
        ahead.settle()
        assert done == [0, 1]


def test_without_a_thread_nothing_is_made_that_was_not_asked_for() -> None:
    made: list[int] = []
    with Ahead(made.append, 3, in_thread=False) as ahead:
        ahead.of(1)
        ahead.settle()
    assert made == [1]
