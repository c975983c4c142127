"""Who comes: few users often, many seldom."""

import numpy as np


class Zipf:
    """Draws ranks from 0, the most frequent first: rank r as often as 1 / (r + 1) ** exponent says.

    Args:
        count: how many ranks there are, at least 1.
        exponent: 0: all equally often; about 1: as in the logs of most shops.
        seed: of the draws.

    Raises:
        ValueError: there is no rank, or the exponent is negative.
    """

    def __init__(self, count: int, exponent: float, seed: int) -> None:
        if count < 1 or exponent < 0:
            raise ValueError(f"no Zipf distribution of {count} ranks with exponent {exponent}")
        weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
        self._below = np.cumsum(weights / weights.sum())
        self._rng = np.random.default_rng(seed)

    def draw(self) -> int:
        """The next rank."""
        # The last sum may be a little less than 1.
        rank = np.searchsorted(self._below, self._rng.random(), side="right")
        return min(int(rank), len(self._below) - 1)
