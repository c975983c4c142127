"""How a draft that guesses items ranks them for a list that is drawn: code by code, as the target draws."""

import math

import pytest
import torch

from service.engine.branches import Branches, Lists
from service.engine.constraint import NOT_ALLOWED, ROOT_NODE, FreeRows, TrieIndex
from service.engine.extensions import ByItem
from service.engine.sampling import Sampling
from tests.engine.conftest import Setting, random_draft

CPU = torch.device("cpu")


def slow_log_probability(
    shares: dict[tuple[int, ...], float], path: tuple[int, ...], slot: int, temperature: float, noise
) -> float:
    """Of a path's codes from `slot` on, each among the codes that are allowed after those before it."""
    total = 0.0
    for level in range(slot, len(path)):
        mass: dict[int, float] = {}
        for other, share in shares.items():
            if other[:level] == path[:level]:
                mass[other[level]] = mass.get(other[level], 0.0) + share
        whole = sum(mass.values())
        values = {
            code: math.log(part / whole) / temperature + float(noise[level, code])
            for code, part in mass.items()
        }
        total += values[path[level]] - math.log(sum(math.exp(value) for value in values.values()))
    return total


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("slot", [0, 1])
@torch.inference_mode()
def test_items_are_ranked_code_by_code(shop: Setting, temperature: float, slot: int) -> None:
    draft = random_draft(shop, "slots")
    index = TrieIndex(shop.catalogue, shop.layout, CPU)
    heads = shop.model.get_output_embeddings().weight[index.token_of]
    free = torch.rand(1, len(shop.catalogue), generator=torch.Generator().manual_seed(1)) < 0.5
    torch.manual_seed(2)
    # One of two lists is always drawn, so that the other, greedy, goes the same way.
    noise = torch.randn(2, 12, index.num_codes)
    noise[0] *= temperature > 0
    sampling = Sampling(torch.tensor([temperature, 1.0]), torch.ones(2), noise)
    rows, items = FreeRows.of(free.expand(2, -1).contiguous()), torch.tensor([1, 1])
    lists = Lists(rows, sampling, items, torch.tensor([3, 3]))
    first = int(free[0].nonzero()[0])
    node = ROOT_NODE if slot == 0 else int(index.path[first, 1])
    start = Branches.start(
        torch.full((2, 1), node),
        torch.full((2, 1), slot),
        torch.full((2, 1), 9),
        most_written=3,
        most_tokens=4,
    )
    # So small that no code is out of the question: what has hardly a share is known to few digits.
    states = 0.1 * torch.randn(1, 1, draft.config.hidden_size).expand(2, -1, -1)
    extend = ByItem(index, heads, draft)
    found = extend(1, start, states, lists, len(shop.catalogue))

    begin, end = int(index.node_begin[node]), int(index.node_end[node])
    allowed = {}  # of items that share an ID the first free one stands for all
    for row in range(begin, end):
        if free[0, row]:
            allowed.setdefault(tuple(index.codes[row].tolist()), row)
    scores = draft.item_scores(states[:1], draft.item_vectors(heads, index.codes))[0, 0]
    if temperature == 0:
        scores = scores * float(draft.sharpness(1, torch.tensor(slot)))
    weights = torch.softmax(scores[list(allowed.values())].double(), dim=0).tolist()
    shares = dict(zip(allowed, weights, strict=True))
    of_item = noise[0, 3:6]  # the second item of the list
    expected = {
        allowed[path]: slow_log_probability(shares, path, slot, temperature or 1.0, of_item)
        for path in allowed
    }
    possible = found.log_probability[0] > NOT_ALLOWED
    got = dict(zip(found.row[0][possible].tolist(), found.log_probability[0][possible].tolist(), strict=True))
    assert got == pytest.approx(expected, abs=2e-3)
