import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.data.dataset import Interactions
from service.data.split import LeaveOneOut, Split


def interactions_of(histories: list[list[int]]) -> Interactions:
    offsets = np.cumsum([0] + [len(items) for items in histories])
    items = np.array([item for items in histories for item in items], dtype=np.int32)
    return Interactions([f"u{n}" for n in range(len(histories))], offsets, items)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=8))
def test_split_of_each_user(histories: list[list[int]]) -> None:
    split = LeaveOneOut(interactions_of(histories))
    train = [split.train.history(user).tolist() for user in range(len(histories))]
    assert train == [items[:-2] if len(items) >= 3 else items for items in histories]
    long = [(user, items) for user, items in enumerate(histories) if len(items) >= 3]
    test = [(case.user, case.history.tolist(), case.target) for case in split.cases("test")]
    assert test == [(user, items[:-1], items[-1]) for user, items in long]
    valid = [(case.user, case.history.tolist(), case.target) for case in split.cases("valid")]
    assert valid == [(user, items[:-2], items[-2]) for user, items in long]


@pytest.mark.parametrize("name", ["valid", "test"])
def test_no_user_is_long_enough(name: Split) -> None:
    split = LeaveOneOut(interactions_of([[1, 2], [3]]))
    assert split.cases(name) == []
    assert split.train.items.tolist() == [1, 2, 3]
