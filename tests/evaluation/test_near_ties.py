"""Lists that differ from the reference's, against a search that spells everything out."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.engine.reference import write_list
from service.evaluation import near_ties
from service.evaluation.near_ties import (
    Fork,
    Gap,
    agreement_figures,
    find_fork,
    is_allowed,
    measure_gap,
)
from service.types import DecodedItem, DecodeRequest


def naive_lists(codes: np.ndarray, excluded: tuple[int, ...], num_items: int) -> set[tuple[int, ...]]:
    """Every list that some target could write, spelled out."""
    left = [row for row in range(len(codes)) if row not in excluded]
    lists = set()
    for rows in itertools.permutations(left, min(num_items, len(left))):
        twins = [[r for r in left if tuple(codes[r]) == tuple(codes[row])] for row in rows]
        # An item with a twin before it in the catalogue comes only after that twin.
        if all(
            all(twin in rows[:place] for twin in same if twin < row)
            for place, (row, same) in enumerate(zip(rows, twins, strict=True))
        ):
            lists.add(rows)
    return lists


def rows_of(done) -> list[int]:
    return [item.row for item in done.items]


def with_rows(done, rows):
    return replace(done, items=tuple(DecodedItem(row, 0.5) for row in rows))


def test_lists_are_allowed_that_some_target_could_write() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.int32)
    for excluded, num_items in (((), 3), ((2,), 3), ((0, 3, 3), 2), ((0, 1, 5), 4), (tuple(range(6)), 1)):
        request = DecodeRequest("a", (0,), num_items, excluded)
        allowed = naive_lists(codes, excluded, num_items)
        for length in range(5):
            for rows in itertools.product(range(6), repeat=length):
                assert is_allowed(codes, request, rows) == (rows in allowed)


def test_the_first_difference_of_two_lists_as_strings_of_codes() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.int32)
    for one, other in itertools.permutations(naive_lists(codes, (), 4), 2):
        strings = (codes[list(rows)].ravel().tolist() for rows in (one, other))
        place, pair = next((i, pair) for i, pair in enumerate(zip(*strings, strict=True)) if len({*pair}) > 1)
        assert find_fork(codes, one, other) == Fork(place // 2, place % 2, *pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gap_is_that_of_the_logits_after_the_common_prefix(shop, dtype: torch.dtype) -> None:
    model = copy.deepcopy(shop.model).to(dtype)
    codes, layout = shop.catalogue.codes, shop.layout
    rows, fork = [3, 50, 7], Fork(item=2, level=1, expected=4, written=6)
    context = [*layout.prompt(codes[[1, 2]])]
    for row in rows[:2]:
        context += [layout.code_tokens[level][codes[row, level]] for level in range(2)] + [layout.separator]
    context.append(layout.code_tokens[0][codes[7, 0]])
    logits = model(input_ids=torch.tensor([context])).logits[0, -1]
    one, other = (float(logits[layout.code_tokens[1][code]]) for code in (4, 6))
    gap = measure_gap(model, codes, layout, (1, 2), rows, fork)
    tolerance = 1e-4 if dtype == torch.float32 else 4 * gap.unit
    assert gap.gap == pytest.approx(abs(one - other), abs=tolerance)
    eps = 2**-23 if dtype == torch.float32 else 2**-7
    assert gap.unit == pytest.approx(eps * max(abs(one), abs(other)), rel=0.05)


def test_equal_lists_near_ties_and_wrong_lists_are_told_apart(shop) -> None:
    codes, layout, model = shop.catalogue.codes, shop.layout, shop.model
    requests = shop.requests[:4]
    expected = [write_list(model, codes, layout, request) for request in requests]

    def figures(written, requests=requests):
        return agreement_figures(model, codes, layout, requests, expected, written)

    assert figures(expected) == {
        "equal_to_reference": 1.0,
        "num_different": 0,
        "largest_gap": None,
        "gap_unit": None,
        "num_wide": 0,
        "not_allowed": 0,
    }

    rows = rows_of(expected[1])
    swapped = next(
        row
        for row in range(80)
        if codes[row, 0] != codes[rows[3], 0] and is_allowed(codes, requests[1], [*rows[:3], row])
    )
    other = with_rows(expected[1], [*rows[:3], swapped])
    found = figures([expected[0], other, *expected[2:]])
    fork = Fork(3, 0, int(codes[rows[3], 0]), int(codes[swapped, 0]))
    gap = measure_gap(model, codes, layout, requests[1].history, rows, fork)
    assert found == {
        "equal_to_reference": 0.75,
        "num_different": 1,
        "largest_gap": gap.gap,
        "gap_unit": gap.unit,
        "num_wide": 1,
        "not_allowed": 0,
    }
    assert gap.num_units > 2  # a choice that this target would not have made

    # A sampled list has been decided by a draw as well.
    sampled = [replace(request, temperature=1.0) for request in requests]
    assert figures([expected[0], other, *expected[2:]], sampled)["largest_gap"] is None

    short = with_rows(expected[2], rows_of(expected[2])[:3])
    repeated = with_rows(expected[3], [rows_of(expected[3])[0]] * 4)
    assert figures([expected[0], expected[1], short, repeated]) == {
        "equal_to_reference": 0.5,
        "num_different": 2,
        "largest_gap": None,
        "gap_unit": None,
        "num_wide": 0,
        "not_allowed": 2,
    }


def test_the_gap_of_the_most_units_is_told(shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the widest: between large logits it may be a single step of the format."""
    gaps = [Gap(0.5, 0.5), Gap(0.3, 0.1), Gap(0.2, 0.1), Gap(0.0, 0.0)]
    given = iter(gaps)
    monkeypatch.setattr(near_ties, "measure_gap", lambda *_: next(given))
    requests = [replace(shop.requests[0], excluded=())] * 5
    expected = [write_list(shop.model, shop.catalogue.codes, shop.layout, requests[0])] * 5
    codes, rows = shop.catalogue.codes, rows_of(expected[0])
    other = next(
        row for row in range(80) if row != rows[3] and is_allowed(codes, requests[0], [*rows[:3], row])
    )
    written = [with_rows(expected[0], [*rows[:3], other])] * 4 + expected[:1]
    found = agreement_figures(shop.model, codes, shop.layout, requests, expected, written)
    assert found == {
        "equal_to_reference": 0.2,
        "num_different": 4,
        "largest_gap": 0.3,
        "gap_unit": 0.1,
        "num_wide": 1,
        "not_allowed": 0,
    }
