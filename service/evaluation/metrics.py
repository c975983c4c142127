"""Recall and NDCG of ranked lists that have one right answer each, with intervals over users."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from service.evaluation.bootstrap import percentile_interval, resamples

CUTOFFS = (5, 10)

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
    drawn = (np.bincount(users, minlength=num_users) for users in resamples(num_users, seed))
    means = np.stack([gains @ times / num_users for times in drawn])
    compared = means[:, :, _WITH_INTERVAL.index(_COMPARED)]
    figures: list[dict[str, float | None]] = []
    for number in range(len(methods)):
        row: dict[str, float | None] = {}
        for name, of_metric in zip(_WITH_INTERVAL, means[:, number].T, strict=True):
            row[f"{name}_low"], row[f"{name}_high"] = percentile_interval(of_metric)
        row[f"{_COMPARED}_p"] = None if number == 0 else _two_sided(compared[:, number] - compared[:, 0])
        figures.append(row)
    return figures


def _two_sided(leads: npt.NDArray[np.float64]) -> float:
    """How probable a lead as large as these is by chance; one more on either side, as no resample rules it out."""
    above, below = (int((side >= 0).sum()) + 1 for side in (leads, -leads))
    return min(1.0, 2 * min(above, below) / (len(leads) + 1))
