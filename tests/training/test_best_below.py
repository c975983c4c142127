"""The best item below every code, told by looking at all items."""

import numpy as np
import torch

from service.catalog.trie import trie_order
from service.training.best_below import BestBelow


def best_below(codes: np.ndarray, scores: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    levels, num_codes = codes.shape[1], int(codes.max()) + 1
    best = torch.full((*lists.shape, levels, num_codes), -torch.inf)
    for row, items in enumerate(lists.tolist()):
        left = scores[row].clone()
        for slot, item in enumerate(items):
            for level in range(levels):
                below = (codes[:, :level] == codes[item, :level]).all(axis=1)
                for other in np.flatnonzero(below):
                    at = row, slot, level, codes[other, level]
                    best[at] = max(best[at], left[other])
            left[item] = -torch.inf
    return best


def sorted_codes(num_items: int, levels: int, num_codes: int) -> np.ndarray:
    codes = np.random.default_rng(levels).integers(num_codes, size=(num_items, levels)).astype(np.int32)
    return codes[trie_order(codes, np.zeros(num_items, dtype=np.int64))]


def test_it_is_what_looking_at_all_items_finds() -> None:
    rng = torch.Generator().manual_seed(0)
    for levels in (1, 2, 4):
        codes = sorted_codes(60, levels, 4)  # items that share an ID among them
        scores = torch.randn(5, 60, generator=rng)
        scores[torch.rand(5, 60, generator=rng) < 0.3] = -torch.inf
        lists = torch.stack([torch.randperm(60, generator=rng)[:6] for _ in range(5)])
        found = BestBelow(codes, torch.device("cpu"))(scores.clone(), lists)
        torch.testing.assert_close(found, best_below(codes, scores, lists))


def test_the_likeliest_codes_lead_to_the_best_item_that_is_left() -> None:
    codes = sorted_codes(200, 3, 6)
    scores = torch.randn(8, 200, generator=torch.Generator().manual_seed(1))
    ranking = scores.topk(10, dim=1).indices
    best = BestBelow(codes, torch.device("cpu"))(scores, ranking).argmax(dim=-1)
    np.testing.assert_array_equal(best.numpy(), codes[ranking.numpy()])
