import numpy as np

from service.gateway.popular import PopularList


def test_popular_rows_come_first_then_all_others() -> None:
    popular, all_rows = PopularList([3, 1]), np.ones(5, dtype=bool)
    assert popular.first(2, all_rows) == [3, 1]
    assert popular.first(4, all_rows) == [3, 1, 0, 2]
    assert popular.first(9, all_rows) == [3, 1, 0, 2, 4]
    assert all_rows.all()


def test_rows_that_are_not_allowed_are_passed_over() -> None:
    allowed = np.array([False, True, True, False, True])
    assert PopularList([3, 1]).first(3, allowed) == [1, 2, 4]


def test_a_row_that_is_popular_twice_is_listed_once() -> None:
    assert PopularList([2, 2]).first(3, np.ones(3, dtype=bool)) == [2, 0, 1]
