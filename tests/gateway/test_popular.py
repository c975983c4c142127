from service.gateway.popular import PopularList


def test_popular_rows_come_first_then_all_others() -> None:
    popular = PopularList([3, 1], num_items=5)
    assert popular.first(2, set()) == [3, 1]
    assert popular.first(4, set()) == [3, 1, 0, 2]
    assert popular.first(9, set()) == [3, 1, 0, 2, 4]


def test_excluded_rows_are_passed_over() -> None:
    excluded = {3, 0}
    assert PopularList([3, 1], num_items=5).first(3, excluded) == [1, 2, 4]
    assert excluded == {3, 0}


def test_a_row_that_is_popular_twice_is_listed_once() -> None:
    assert PopularList([2, 2], num_items=3).first(3, set()) == [2, 0, 1]
