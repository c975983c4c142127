"""What the trie costs at the size of a large catalogue."""

import time
from typing import Any

import numpy as np

from service.catalog.trie import Trie, trie_order

BATCH = 4_096


def measure_trie(num_items: int, num_levels: int, codebook_size: int, seed: int) -> list[dict[str, Any]]:
    """One row: seconds to sort and build, bytes, and microseconds per node to list children of a batch.

    Codes are skewed, as learned ones are: the code at each level is the smaller of two uniform draws.
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
    nodes = rng.integers(trie.num_nodes, size=BATCH)
    trie.children(nodes)
    asked_at = time.perf_counter()
    repeats = 20
    for _ in range(repeats):
        trie.children(nodes)
    seconds_per_node = (time.perf_counter() - asked_at) / (repeats * BATCH)
    return [
        {
            "items": num_items,
            "levels": num_levels,
            "nodes": trie.num_nodes,
            "sort_seconds": sorted_at - started,
            "build_seconds": built_at - sorted_at,
            "megabytes": trie.nbytes / 1e6,
            "children_us_per_node": seconds_per_node * 1e6,
        }
    ]
