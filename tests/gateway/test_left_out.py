import numpy as np
import pytest

from service.catalog.filters import unpacked
from service.gateway.left_out import LeftOut

NUM_ITEMS = 5_003


def bits(allowed: np.ndarray) -> bytes:
    return np.packbits(allowed, bitorder="little").tobytes()


@pytest.mark.parametrize("count", [0, 1, 1_000, 1_001, NUM_ITEMS])
def test_a_list_holds_what_is_wanted_and_not_left_out(count: int) -> None:
    rng = np.random.default_rng(count)
    rows = rng.permutation(NUM_ITEMS)[:count].tolist()
    left_out = LeftOut.of(rows, NUM_ITEMS)
    assert (left_out.allowed is None) == (count <= 1_000)
    for wanted in (np.ones(NUM_ITEMS, dtype=bool), rng.random(NUM_ITEMS) < 0.3):
        allowed = unpacked(left_out.within(bits(wanted)), NUM_ITEMS).copy()
        allowed[list(left_out.rows)] = False
        expected = wanted.copy()
        expected[rows] = False
        assert (allowed == expected).all()
    if left_out.allowed is not None:
        alone = np.ones(NUM_ITEMS, dtype=bool)
        alone[rows] = False
        assert (unpacked(left_out.allowed, NUM_ITEMS) == alone).all()
