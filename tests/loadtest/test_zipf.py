from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from loadtest.zipf import Zipf


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.0, 1.4])
def test_ranks_come_as_often_as_they_should(exponent: float) -> None:
    zipf, draws = Zipf(50, exponent, seed=1), 20_000
    counts = Counter(zipf.draw() for _ in range(draws))
    weights = np.arange(1, 51) ** -exponent
    expected = draws * weights / weights.sum()
    assert chisquare([counts[rank] for rank in range(50)], expected).pvalue > 0.001


def test_the_same_seed_draws_the_same() -> None:
    one, other, third = Zipf(1_000, 1.0, seed=3), Zipf(1_000, 1.0, seed=3), Zipf(1_000, 1.0, seed=4)
    drawn = [one.draw() for _ in range(100)]
    assert drawn == [other.draw() for _ in range(100)]
    assert drawn != [third.draw() for _ in range(100)]


def test_one_rank_is_always_drawn() -> None:
    zipf = Zipf(1, 1.0, seed=0)
    assert {zipf.draw() for _ in range(100)} == {0}


@pytest.mark.parametrize(("count", "exponent"), [(0, 1.0), (5, -0.1)])
def test_what_is_no_distribution_is_refused(count: int, exponent: float) -> None:
    with pytest.raises(ValueError, match="no Zipf distribution"):
        Zipf(count, exponent, seed=0)
