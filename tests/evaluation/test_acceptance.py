"""Figures of speculation against sums by hand and `scipy`."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from service.evaluation.acceptance import (
    acceptance_figures,
    accepted_length,
    bootstrap_ratio,
    guess_figures,
    latency_figures,
    sum_ragged,
)
from service.types import DecodedList, SpeculationCounts


def list_of(
    rounds: int, tokens: int, forced: int = 0, counts: SpeculationCounts | None = None
) -> DecodedList:
    return DecodedList(
        request_id="a",
        items=(),
        exhausted=False,
        num_rounds=rounds,
        num_forced_tokens=forced,
        prefill_seconds=0.0,
        decode_seconds=0.0,
        num_round_tokens=tokens,
        num_round_forced_tokens=forced,
        speculation=counts or SpeculationCounts(),
    )


def test_lengths_are_totals_over_totals() -> None:
    figures = acceptance_figures([list_of(10, 40, 12), list_of(2, 20, 4)], seed=0)
    assert figures["accepted_length"] == accepted_length([list_of(10, 40, 12), list_of(2, 20, 4)]) == 60 / 12
    assert figures["accepted_length_without_forced"] == 44 / 12
    assert (figures["rounds_per_list"], figures["passes_per_list"]) == (6, 7)
    assert 4 <= figures["accepted_length_low"] <= 5 <= figures["accepted_length_high"] <= 10


def test_lists_without_rounds_have_no_length() -> None:
    figures = acceptance_figures([list_of(0, 0)], seed=0)
    assert figures["accepted_length"] is figures["accepted_length_low"] is None
    assert figures["passes_per_list"] == 1
    assert set(guess_figures([list_of(0, 0)]).values()) == {None}


def test_one_user_with_rounds_among_many_without_still_has_an_interval() -> None:
    low, high = bootstrap_ratio(np.array([0, 0, 12]), np.array([0, 0, 3]), seed=0)
    assert (low, high) == (4.0, 4.0)


def test_the_interval_is_scipy_s() -> None:
    rng = np.random.default_rng(1)
    rounds = rng.integers(5, 20, size=150)
    tokens = (rounds * rng.uniform(2, 5, size=150)).astype(int)

    def length(tokens, rounds, axis):
        return tokens.sum(axis=axis) / rounds.sum(axis=axis)

    theirs = bootstrap(
        (tokens, rounds),
        length,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    low, high = bootstrap_ratio(tokens, rounds, seed=3)
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.08 * width)
    assert high == pytest.approx(theirs.high, abs=0.08 * width)
    assert bootstrap_ratio(tokens, rounds, seed=3) == (low, high)


def test_guesses_are_counted_per_draft() -> None:
    lists = [
        list_of(5, 20, counts=SpeculationCounts(4, 16, (4, 2, 1), (3, 4))),
        list_of(3, 3),
        list_of(2, 9, counts=SpeculationCounts(1, 4, (0,), (0, 0, 2))),
    ]
    assert guess_figures(lists) == {
        "accepted_by_slot": [3 / 5, 4 / 5, 2 / 5],
        "accepted_by_step": [4 / 5, 2 / 5, 1 / 5],
        "draft_tokens_per_round": 2.0,
    }


def test_ragged_sums_equal_those_of_padded_rows() -> None:
    rng = np.random.default_rng(4)
    rows = [rng.integers(9, size=rng.integers(0, 6)).tolist() for _ in range(40)]
    padded = np.array([row + [0] * (6 - len(row)) for row in rows]).sum(axis=0)
    longest = max(map(len, rows))
    assert sum_ragged(rows) == padded[:longest].tolist()
    assert sum_ragged([]) == []


def test_latency_is_the_batch_s() -> None:
    seconds = [0.001 * ms for ms in range(1, 102)]
    figures = latency_figures(seconds, batch=8)
    assert figures["lists_per_second"] == pytest.approx(8 * 101 / sum(seconds))
    assert figures["ms_per_list_p50"] == pytest.approx(51)
    assert figures["ms_per_list_p99"] == pytest.approx(100)
