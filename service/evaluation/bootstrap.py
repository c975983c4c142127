"""The bootstrap over users: what a figure would have been with other users, as far as these can tell."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from service.catalog.trie import Int64Array

NUM_RESAMPLES = 2_000
CONFIDENCE = 0.95


def resamples(num_users: int, seed: int) -> Iterator[Int64Array]:
    """Users drawn anew, with replacement, again and again; the same ones for the same seed, whatever is measured."""
    rng = np.random.default_rng(seed)
    for _ in range(NUM_RESAMPLES):
        yield rng.integers(num_users, size=num_users)


def percentile_interval(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """Where the middle of a figure's resampled values lies."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
