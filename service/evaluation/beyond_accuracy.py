"""What lists are like, whether or not they are right."""

from collections.abc import Sequence

import numpy as np

from service.catalog.trie import Int32Array, Int64Array


def list_figures(
    lists: Sequence[Sequence[int]], counts: Int64Array, codes: Int32Array
) -> dict[str, float | None]:
    """The part of a row of `padrec evaluate` that asks for no right answer.

    Args:
        lists: for each user items, best first.
        counts: how often each item was met in training, [num_items].
        codes: of all items, [num_items, L].

    Returns:
        `coverage`: the share of the catalogue that is in any list. `novelty`: bits of surprise that an item of a list
        is met, mean over lists' items; an item that was never met counts as met once; None where no list has an item.
        `diversity`: of two items of a
        list, the share of their codes that come after they part, mean over pairs, then over lists; None where no list
        has two items.
    """
    every = np.concatenate([np.asarray(items, dtype=np.int64) for items in lists])
    probability = np.maximum(counts, 1) / max(1, counts.sum())
    diversities = [_diversity(codes[np.asarray(items)]) for items in lists if len(items) > 1]
    return {
        "coverage": len(np.unique(every)) / len(counts),
        "novelty": float(-np.log2(probability[every]).mean()) if len(every) else None,
        "diversity": float(np.mean(diversities)) if diversities else None,
    }


def _diversity(codes: Int32Array) -> float:
    """Of one list's items, [n, L]."""
    first, second = np.triu_indices(len(codes), k=1)
    shared = (codes[first] == codes[second]).cumprod(axis=1).mean(axis=1)
    return float(1 - shared.mean())
