"""The oracle against an even slower one: no KV cache, every allowed item spelled out in full."""

import numpy as np
import torch

from service.engine.reference import write_list
from service.types import DecodeRequest


def naive_greedy(shop, history: list[int], excluded: set[int], num_items: int) -> list[int]:
    """The whole context is read again for every token; items are compared as tuples."""
    codes, layout = shop.catalogue.codes, shop.layout
    context = list(layout.prompt(codes[history]))
    rows: list[int] = []
    while len(rows) < num_items:
        left = [row for row in range(len(codes)) if row not in excluded and row not in rows]
        if not left:
            break
        prefix: tuple[int, ...] = ()
        for level in range(layout.num_levels):
            fitting = [row for row in left if tuple(codes[row][:level]) == prefix]
            options = sorted({int(codes[row][level]) for row in fitting})
            logits = shop.model(input_ids=torch.tensor([context])).logits[0, -1]
            best = max(options, key=lambda code: float(logits[layout.code_tokens[level][code]]))
            prefix += (best,)
            context.append(layout.code_tokens[level][best])
        context.append(layout.separator)
        rows.append(next(row for row in left if tuple(codes[row]) == prefix))
    return rows


def test_greedy_equals_the_naive_search(shop) -> None:
    rng = np.random.default_rng(1)
    for trial in range(6):
        history = rng.integers(200, size=rng.integers(1, 8)).tolist()
        excluded = set(rng.integers(200, size=rng.integers(0, 150)).tolist())
        done = write_list(
            shop.model,
            shop.catalogue.codes,
            shop.layout,
            DecodeRequest(str(trial), tuple(history), 6, tuple(excluded)),
        )
        assert [item.row for item in done.items] == naive_greedy(shop, history, excluded, 6)


def test_a_list_of_everything_is_exhausted(shop) -> None:
    excluded = tuple(range(5, 200))
    done = write_list(shop.model, shop.catalogue.codes, shop.layout, DecodeRequest("all", (0,), 10, excluded))
    assert sorted(item.row for item in done.items) == [0, 1, 2, 3, 4]
    assert done.exhausted


def test_nothing_allowed_is_an_empty_list(shop) -> None:
    done = write_list(
        shop.model, shop.catalogue.codes, shop.layout, DecodeRequest("none", (0,), 3, tuple(range(200)))
    )
    assert done.items == ()
    assert done.exhausted


def test_scores_are_probabilities_and_forced_items_are_certain(shop) -> None:
    only_one_left = tuple(row for row in range(200) if row != 7)
    done = write_list(
        shop.model, shop.catalogue.codes, shop.layout, DecodeRequest("one", (0,), 1, only_one_left)
    )
    assert [item.row for item in done.items] == [7]
    assert done.items[0].score == 1.0
    assert done.num_forced_tokens == 4
    free = write_list(shop.model, shop.catalogue.codes, shop.layout, DecodeRequest("free", (0,), 5))
    assert all(0 < item.score <= 1 for item in free.items)


def test_a_seed_makes_a_sampled_list_reproducible(shop) -> None:
    def write(seed: int) -> list[int]:
        request = DecodeRequest("s", (1, 2, 3), 8, temperature=1.0, top_p=0.95, seed=seed)
        done = write_list(shop.model, shop.catalogue.codes, shop.layout, request)
        return [item.row for item in done.items]

    assert write(5) == write(5)
    assert len({tuple(write(seed)) for seed in range(5)}) > 1
