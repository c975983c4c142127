"""What there is to guess along a list, against loops over all items."""

import numpy as np
import pytest
import torch

from service.training.guesses import allowed_codes, decisions, pick_anchors, segments

NUM_CODES, NUM_LEVELS, NUM_PLACES = 4, 3, 6
PER_ITEM = NUM_LEVELS + 1
UNROLL = 4


def catalogue_of(seed: int, num_items: int = 9) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(NUM_CODES, size=(num_items, NUM_LEVELS))
    return codes[np.lexsort(codes.T[::-1])]


def lists_of(seed: int, codes: np.ndarray, size: int = 5) -> tuple[np.ndarray, list[set[int]]]:
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(codes)) for _ in range(size)]
    rows = np.stack([order[:NUM_PLACES] for order in orders])
    return rows, [set(order[NUM_PLACES : NUM_PLACES + n].tolist()) for n, order in enumerate(orders)]


def slow_allowed(codes: np.ndarray, rows: list[int], excluded: set[int]) -> list[list[set[int]]]:
    """For each place and level, the codes of free items that agree with the list's item so far."""
    answer = []
    for place, row in enumerate(rows):
        free = set(range(len(codes))) - excluded - set(rows[:place])
        answer.append(
            [
                {int(codes[i, level]) for i in free if list(codes[i, :level]) == list(codes[row, :level])}
                for level in range(NUM_LEVELS)
            ]
        )
    return answer


def slow_segments(choices: list[int], anchor: int, *, items: bool) -> list[tuple[int, int, bool]]:
    """Begin, end and validity of each segment, for the places of decisions in a list."""
    total = NUM_PLACES * PER_ITEM
    found, begin, valid = [], anchor, True
    for guess in range(UNROLL):
        if guess and items:
            end = begin + 1
            while end % PER_ITEM and end < total:
                end += 1
        else:
            end = min([place for place in choices if place > begin], default=total)
        valid = valid and end < total and end - begin <= PER_ITEM
        found.append((begin, end, valid))
        begin = end
    return found


@pytest.fixture(params=range(8))
def case(request):
    codes = catalogue_of(request.param)
    rows, excluded = lists_of(request.param, codes)
    free_until = np.full((len(rows), len(codes)), NUM_PLACES)
    for i in range(len(rows)):
        free_until[i, rows[i]] = np.arange(NUM_PLACES)
        free_until[i, list(excluded[i])] = -1
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(codes.T), NUM_CODES).float()
    allowed = allowed_codes(*map(torch.as_tensor, (free_until, rows, codes)), one_hot)
    return codes, rows, excluded, allowed


def test_allowed_codes_are_those_of_free_items_with_the_same_prefix(case) -> None:
    codes, rows, excluded, allowed = case
    for i in range(len(rows)):
        for place, levels in enumerate(slow_allowed(codes, rows[i].tolist(), excluded[i])):
            for level, expected in enumerate(levels):
                assert set(allowed[i, place, level].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("items", [False, True])
def test_segments_are_what_a_loop_finds(case, items: bool) -> None:
    codes, rows, excluded, allowed = case
    is_decision = decisions(allowed)
    for i in range(len(rows)):
        levels = [*slow_allowed(codes, rows[i].tolist(), excluded[i])]
        choices = [
            place * PER_ITEM + level
            for place in range(NUM_PLACES)
            for level in range(NUM_LEVELS)
            if len(levels[place][level]) > 1
        ]
        assert is_decision[i].nonzero().flatten().tolist() == choices
        anchors = torch.tensor([choices])
        got = segments(is_decision[i : i + 1], anchors, UNROLL, PER_ITEM, guesses_items=items)
        for number, anchor in enumerate(choices):
            expected = slow_segments(choices, anchor, items=items)
            for guess, (begin, end, valid) in enumerate(expected):
                assert bool(got.is_valid[0, number, guess]) == valid
                if valid:
                    assert (int(got.begin[0, number, guess]), int(got.end[0, number, guess])) == (begin, end)


def test_segments_longer_than_an_item_are_dropped() -> None:
    is_decision = torch.zeros(1, 24, dtype=torch.bool)
    is_decision[0, [0, 2, 9, 12]] = True
    got = segments(is_decision, torch.tensor([[0]]), 3, PER_ITEM, guesses_items=False)
    assert got.is_valid[0, 0].tolist() == [True, False, False]


def test_anchors_are_decisions_with_another_after_them() -> None:
    is_decision = torch.zeros(4, 12, dtype=torch.bool)
    is_decision[0, [0, 1, 4, 5, 8]] = True
    is_decision[1, [3, 7]] = True
    is_decision[2, 5] = True
    draws = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))
    anchors = pick_anchors(is_decision, draws, 4)
    assert sorted(anchors[0].tolist()) == [0, 1, 4, 5]
    assert anchors[1].tolist() == [3, 3, 3, 3]  # repeated, as there are fewer
    reached = segments(is_decision, anchors, 2, PER_ITEM, guesses_items=False).is_valid
    assert not reached[2:].any()
