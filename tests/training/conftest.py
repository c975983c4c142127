import numpy as np
import pytest

from service.data.dataset import Interactions


def interactions_of(histories: list[list[int]]) -> Interactions:
    offsets = np.cumsum([0, *map(len, histories)])
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return Interactions([f"u{i}" for i in range(len(histories))], offsets, items)


@pytest.fixture(scope="session")
def make_interactions():
    return interactions_of
