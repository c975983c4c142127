"""How batches are cut."""

from itertools import combinations

import numpy as np
import pytest
import torch

from service.training.micro_batches import micro_batches, with_room


def cost(parts: list[np.ndarray], lengths: np.ndarray) -> int:
    return sum(len(part) * int(lengths[part].max()) for part in parts)


def test_few_long_ones_are_read_by_themselves() -> None:
    parts = micro_batches(np.array([3, 90, 4, 3, 5, 4, 3, 80]), 4)
    assert [part.tolist() for part in parts] == [[0, 3, 6, 2, 5, 4], [7, 1]]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9, 10])
def test_no_other_cut_pads_less(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(20):
        lengths = rng.integers(1, 30, 9)
        parts = micro_batches(lengths, size)
        assert len(parts) == -(-9 // size)
        assert sorted(np.concatenate(parts).tolist()) == list(range(9))
        assert all(len(part) * lengths[part].max() <= size * lengths.max() for part in parts)
        order = np.argsort(lengths, kind="stable")
        others = []
        for cuts in combinations(range(1, 9), len(parts) - 1):
            other = np.split(order, cuts)
            if all(len(part) * lengths[part].max() <= size * lengths.max() for part in other):
                others.append(cost(other, lengths))
        assert cost(parts, lengths) == min(others)


def test_sequences_of_one_length() -> None:
    parts = micro_batches(np.full(7, 12), 3)
    assert sorted(map(len, parts)) == [1, 3, 3]


def test_a_gpu_is_given_few_shapes_and_a_cpu_what_there_is() -> None:
    tokens = np.arange(1, 20 * 33 + 1).reshape(20, 33)
    assert np.array_equal(with_room(tokens, torch.device("cpu")), tokens)
    padded = with_room(tokens, torch.device("cuda"))
    assert padded.shape == (32, 48)
    assert (padded[:20, :33] == tokens).all()
    assert padded.sum() == tokens.sum()
    assert with_room(padded, torch.device("cuda")).shape == padded.shape
