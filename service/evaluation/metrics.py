"""Recall and NDCG of ranked lists that have one right answer each, with intervals over users."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

CUTOFFS = (5, 10)
NUM_RESAMPLES = 2_000
CONFIDENCE = 0.95

Gains = Mapping[str, npt.NDArray[np.float64]]  # of each user, by the metric that is their mean

_LARGEST = max(CUTOFFS)
_WITH_INTERVAL = (f"recall@{_LARGEST}", f"ndcg@{_LARGEST}")
_COMPARED = f"ndcg@{_LARGEST}"


def gains_of(lists: Sequence[Sequence[int]], targets: Sequence[int]) -> Gains:
    """What each user adds to Recall@k and NDCG@k, k of `CUTOFFS`.

    With a single right answer Recall@k counts the lists that hold it in their first k places, and NDCG@k adds 1 /
    log2(1 + rank) for each of them.

    Args:
        lists: for each user items, best first.
        targets: for each user the right answer.
    """
    ranks = np.array(
        [
            items.index(target) if target in items else np.inf
            for items, target in zip(lists, targets, strict=True)
        ]
    )
    discounted = 1.0 / np.log2(ranks + 2.0)
    gains = {f"recall@{k}": (ranks < k).astype(np.float64) for k in CUTOFFS}
    return gains | {f"ndcg@{k}": np.where(ranks < k, discounted, 0.0) for k in CUTOFFS}


def mean_figures(gains: Gains) -> dict[str, float]:
    """The metrics."""
    return {name: float(of_users.mean()) for name, of_users in gains.items()}


def ranking_metrics(lists: Sequence[Sequence[int]], targets: Sequence[int]) -> dict[str, float]:
    """Recall@k and NDCG@k, means over users; arguments as `gains_of`."""
    return mean_figures(gains_of(lists, targets))


def interval_figures(methods: Sequence[Gains], seed: int) -> list[dict[str, float | None]]:
    """Percentile intervals of Recall@10 and NDCG@10 when users are drawn anew, and whether methods differ.

    Args:
        methods: gains of the same users by each method.
        seed: the same users are drawn for all methods.

    Returns:
        For each method `…_low` and `…_high`, and `ndcg@10_p`: how probable a difference to the first method's as large
        as this one is where there is none, by the paired bootstrap, two-sided; None for the first.
    """
    gains = np.stack([[of_method[name] for name in _WITH_INTERVAL] for of_method in methods])
    num_users = gains.shape[2]
    rng = np.random.default_rng(seed)
    means = np.empty((NUM_RESAMPLES, *gains.shape[:2]))
    for resample in means:
        times = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)
        resample[:] = gains @ times / num_users
    tail = (1 - CONFIDENCE) / 2
    figures: list[dict[str, float | None]] = []
    compared = _WITH_INTERVAL.index(_COMPARED)
    for number in range(len(methods)):
        row: dict[str, float | None] = {}
        for name, of_metric in zip(_WITH_INTERVAL, means[:, number].T, strict=True):
            row[f"{name}_low"], row[f"{name}_high"] = map(float, np.quantile(of_metric, [tail, 1 - tail]))
        lead = means[:, number, compared] - means[:, 0, compared]
        # One more of each, as no resample proves that there is none.
        above, below = (int((side >= 0).sum()) + 1 for side in (lead, -lead))
        row[f"{_COMPARED}_p"] = None if number == 0 else min(1.0, 2 * min(above, below) / (NUM_RESAMPLES + 1))
        figures.append(row)
    return figures
