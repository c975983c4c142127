"""Recall and NDCG of ranked lists that have one right answer each."""

from collections.abc import Sequence

import numpy as np

CUTOFFS = (5, 10)


def ranking_metrics(lists: Sequence[Sequence[int]], targets: Sequence[int]) -> dict[str, float]:
    """Recall@k and NDCG@k, k of `CUTOFFS`, means over users.

    With a single right answer Recall@k is the share of lists that hold it in their first k places, and NDCG@k the
    mean of 1 / log2(1 + rank) over all lists, 0 where it is missing.

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
    gains = 1.0 / np.log2(ranks + 2.0)
    metrics = {f"recall@{k}": float((ranks < k).mean()) for k in CUTOFFS}
    metrics |= {f"ndcg@{k}": float(np.where(ranks < k, gains, 0.0).mean()) for k in CUTOFFS}
    return metrics
