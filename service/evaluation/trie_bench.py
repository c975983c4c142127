"""What the trie costs at the size of a large catalogue."""

import time
from typing import Any

import numpy as np
import torch

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Trie, trie_order
from service.engine.constraint import FreeRows, TrieIndex, allowed_children
from service.evaluation.timing import median_seconds

LISTS, PLACES = 8, 64  # as a round asks: each list at the places of its tree
WRITTEN = 3  # items on the way to a place


def measure_trie(num_items: int, num_levels: int, codebook_size: int, seed: int) -> list[dict[str, Any]]:
    """One row: seconds to sort and build, bytes, and what a round pays to know what may come next.

    That is `free_ms_per_list`, to count the free rows of a list, and `allowed_us_per_place`, to find which children of
    a place's node still lead to one. Codes are skewed, as learned ones are: the code at each level is the smaller of
    two uniform draws.
    """
    rng = np.random.default_rng(seed)
    shape = (num_items, num_levels)
    codes = np.minimum(rng.integers(codebook_size, size=shape), rng.integers(codebook_size, size=shape))
    codes = codes.astype(np.int32)
    started = time.perf_counter()
    ordered = codes[trie_order(codes, np.zeros(num_items, dtype=np.int64))]
    sorted_at = time.perf_counter()
    trie = Trie.build(ordered)
    built_at = time.perf_counter()

    catalogue = Catalogue.build([str(row) for row in range(num_items)], ordered, [""] * num_items)
    tokens = np.arange(num_levels * codebook_size).reshape(num_levels, codebook_size)
    layout = TokenLayout((), (), tokens.size, tuple(map(tuple, tokens.tolist())))
    index = TrieIndex(catalogue, layout, torch.device("cpu"))
    free = torch.as_tensor(rng.random((LISTS, num_items)) < 0.99)
    rows = FreeRows.of(free)
    inner = int(np.count_nonzero(np.diff(trie.child_begin)))  # leaves come last
    nodes = torch.as_tensor(rng.integers(inner, size=(LISTS, PLACES)))
    written = torch.as_tensor(rng.integers(num_items, size=(LISTS, PLACES, WRITTEN)))
    free_seconds = median_seconds(lambda: FreeRows.of(free), free.device, repeats=20)
    allowed_seconds = median_seconds(
        lambda: allowed_children(index, rows, nodes, written), free.device, repeats=20
    )
    return [
        {
            "items": num_items,
            "levels": num_levels,
            "nodes": trie.num_nodes,
            "sort_seconds": sorted_at - started,
            "build_seconds": built_at - sorted_at,
            "megabytes": trie.nbytes / 1e6,
            "free_ms_per_list": free_seconds / LISTS * 1e3,
            "allowed_us_per_place": allowed_seconds / (LISTS * PLACES) * 1e6,
        }
    ]
