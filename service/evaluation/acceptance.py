"""What speculation saved: tokens per round over many lists, with an interval, and which guesses were accepted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.evaluation.bootstrap import percentile_interval, resamples
from service.types import DecodedList


def acceptance_figures(lists: Sequence[DecodedList], seed: int) -> dict[str, Any]:
    """The part of a row of `padrec bench decode` that is counted rather than timed.

    Lengths are ratios of totals, so that a long list weighs more than a short one: tokens over rounds.

    Args:
        lists: one for each user, at least one.
        seed: of the bootstrap.
    """
    rounds = np.array([done.num_rounds for done in lists])
    tokens = np.array([done.num_round_tokens for done in lists])
    forced = np.array([done.num_round_forced_tokens for done in lists])
    low, high = bootstrap_ratio(tokens, rounds, seed)
    return {
        "accepted_length": accepted_length(lists),
        "accepted_length_low": low,
        "accepted_length_high": high,
        "accepted_length_without_forced": ratio(tokens - forced, rounds),
        "rounds_per_list": float(rounds.mean()),
        "passes_per_list": float(rounds.mean()) + 1,  # the prefill
    }


def guess_figures(lists: Sequence[DecodedList]) -> dict[str, Any]:
    """What became of the guesses, for lists that were written with a draft.

    `accepted_by_slot` and `accepted_by_step` are accepted guesses per round with guesses, whether or not there was a
    guess of that slot, or one so far ahead; None where no round had any.
    """
    drafts = sum(done.speculation.num_drafts for done in lists)
    rounds = sum(done.num_rounds for done in lists)
    guessed = sum(done.speculation.num_draft_tokens for done in lists)
    by_slot = sum_ragged([done.speculation.accepted_per_slot for done in lists])
    by_step = sum_ragged([done.speculation.accepted_per_position for done in lists])
    return {
        "accepted_by_slot": [count / drafts for count in by_slot] if drafts else None,
        "accepted_by_step": [count / drafts for count in by_step] if drafts else None,
        "draft_tokens_per_round": guessed / rounds if rounds else None,
    }


def accepted_length(lists: Sequence[DecodedList]) -> float | None:
    """Tokens per round over all lists; None where there is no round."""
    return ratio(
        np.array([done.num_round_tokens for done in lists]), np.array([done.num_rounds for done in lists])
    )


def ratio(numerators: npt.NDArray[np.integer], denominators: npt.NDArray[np.integer]) -> float | None:
    """Total over total; None where there is nothing below the line."""
    total = int(denominators.sum())
    return int(numerators.sum()) / total if total else None


def bootstrap_ratio(
    numerators: npt.NDArray[np.integer], denominators: npt.NDArray[np.integer], seed: int
) -> tuple[float | None, float | None]:
    """The percentile interval of `ratio` when users are drawn anew, with replacement.

    Args:
        numerators: one for each user, [users].
        denominators: likewise; users without any count for nothing.
        seed: the same seed draws the same users, whatever is measured on them.
    """
    if not denominators.any():
        return None, None
    ratios = []
    for users in resamples(len(denominators), seed):
        below = denominators[users].sum()
        if below:
            ratios.append(numerators[users].sum() / below)
    return percentile_interval(ratios)


def sum_ragged(rows: Sequence[Sequence[int]]) -> list[int]:
    """Sums of columns; a row that ends early counts as zeros after its end."""
    sums = [0] * max(map(len, rows), default=0)
    for row in rows:
        for column, value in enumerate(row):
            sums[column] += value
    return sums


def latency_figures(seconds: Sequence[float], batch: int) -> dict[str, float]:
    """Lists per second and percentiles of a list's latency.

    Args:
        seconds: from add to finish of each batch; all its lists wait that long.
        batch: lists in each.
    """
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {
        "lists_per_second": batch * len(seconds) / sum(seconds),
        "ms_per_list_p50": float(p50),
        "ms_per_list_p99": float(p99),
    }
