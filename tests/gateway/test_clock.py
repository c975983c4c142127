import pytest

from service.errors import DeadlineExceededError
from service.gateway.clock import Clock


def test_time_passes() -> None:
    clock = Clock(60.0)
    elapsed = clock.elapsed()
    assert 0 <= elapsed <= clock.elapsed()
    assert 0 < clock.remaining() <= 60.0 - elapsed


def test_no_time_left_is_the_deadline() -> None:
    with pytest.raises(DeadlineExceededError):
        Clock(0.0).remaining()


def test_a_share_of_what_is_left() -> None:
    assert 0 < Clock(60.0).share(0.1) <= 6.0
    assert Clock(0.0).share(0.1) == 0.0
