from itertools import pairwise

import numpy as np
import pytest

from service.catalog.window import window


@pytest.mark.parametrize("length", [0, 1, 49, 50])
def test_what_fits_is_read_whole(length: int) -> None:
    assert window(range(length), 50) == tuple(range(length))


def test_a_long_history_is_read_from_near_where_it_fits() -> None:
    for length in range(51, 200):
        found = window(range(length), 50)
        assert found == tuple(range(length - len(found), length))
        assert 40 <= len(found) <= 50


def test_short_windows_are_full() -> None:
    assert window((5, 6, 7, 8), 3) == (6, 7, 8)


def test_a_user_who_comes_back_mostly_finds_the_same_beginning() -> None:
    items = np.random.default_rng(0).integers(12_000, size=2_000).tolist()
    begins = [len(items[:n]) - len(window(items[:n], 50)) for n in range(60, 2_000)]
    assert begins == sorted(begins)
    same = np.mean([a == b for a, b in pairwise(begins)])
    assert same > 0.7
