import pytest

from service.errors import RateLimitError
from service.gateway.rate import TokenBucket


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_then_as_many_as_the_rate_gives(clock: Clock) -> None:
    bucket = TokenBucket(2.0, 3, clock)
    for _ in range(3):
        bucket.take()
    with pytest.raises(RateLimitError, match="2 times a second, 3 at once") as caught:
        bucket.take()
    assert caught.value.retry_after == pytest.approx(0.5)
    clock.now += caught.value.retry_after
    bucket.take()
    with pytest.raises(RateLimitError):
        bucket.take()


def test_it_never_holds_more_than_a_burst(clock: Clock) -> None:
    bucket = TokenBucket(10.0, 2, clock)
    clock.now += 1_000
    bucket.take(2)
    with pytest.raises(RateLimitError):
        bucket.take()


def test_more_than_a_burst_waits_for_a_full_one_and_is_owed(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 5, clock)
    bucket.take(20)
    with pytest.raises(RateLimitError) as caught:
        bucket.take()
    assert caught.value.retry_after == pytest.approx(16)
    with pytest.raises(RateLimitError) as caught:
        bucket.take(20)
    assert caught.value.retry_after == pytest.approx(20)
    clock.now += 20
    bucket.take(20)


def test_what_is_refused_costs_nothing(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 5, clock)
    bucket.take(3)
    for _ in range(10):
        with pytest.raises(RateLimitError):
            bucket.take(3)
    bucket.take(2)


def test_what_is_given_back_may_be_taken_again(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 1, clock)
    bucket.take()
    bucket.give_back(1)
    bucket.take()
