"""Trees of candidates that are given, two codes and a separator an item."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.engine.branches import Branches
from service.engine.constraint import NOT_ALLOWED
from service.engine.tree import ROOT, Trees, TreeShape, grow
from tests.engine.conftest import random_draft

SEPARATOR = 9


def branches(*candidates: tuple[list[int], float], parents=(), rows=(), forced=()) -> Branches:
    """Candidates of one list and pass: tokens and a probability, None for one that is none; nodes are the tokens."""
    n, s = len(candidates), 3
    tokens = torch.zeros(1, n, s, dtype=torch.int64)
    for i, (codes, _) in enumerate(candidates):
        tokens[0, i, : len(codes)] = torch.tensor(codes)
    log_p = [np.log(p) if p else NOT_ALLOWED for _, p in candidates]
    row = torch.tensor([list(rows) or [-1] * n])
    length = torch.tensor([[len(codes) for codes, _ in candidates]])
    return Branches(
        parent=torch.tensor([list(parents) or [0] * n]),
        log_probability=torch.tensor([log_p]).float(),
        node=tokens[:, :, 0],
        written=torch.stack((row, torch.full_like(row, -1)), dim=2),
        slot=length % 3,
        row=row,
        tokens=tokens,
        nodes=tokens,
        length=length,
        forced=torch.isin(tokens, torch.tensor([*forced, SEPARATOR])),
        end=length,
    )


def grown(passes: list[Branches], num_places: int) -> Trees:
    root = torch.zeros(1, dtype=torch.int64)
    return grow(passes, (root, root), num_places, NOT_ALLOWED / 2, 3)


def tokens_of(trees: Trees) -> list[list[int]]:
    """The path to every token."""
    paths: list[list[int]] = [[]]
    for place in range(1, int(trees.is_real.sum())):
        paths.append([*paths[trees.parent[0, place]], int(trees.token[0, place])])
    return sorted(paths[1:])


def test_the_most_probable_tokens_within_the_budget_form_the_tree() -> None:
    first = branches(([1], 0.6), ([2], 0.3), ([3], 0.05))
    second = branches(([4], 0.5), ([5], 0.2), parents=(0, 1))
    assert tokens_of(grown([first, second], 3)) == [[1], [1, 4], [2]]
    assert tokens_of(grown([first, second], 9)) == [[1], [1, 4], [2], [2, 5], [3]]


def test_candidates_that_begin_alike_share_tokens_and_their_probabilities_add_up() -> None:
    items = branches(([1, 4], 0.3), ([2, 6], 0.4), ([1, 5], 0.25))
    assert tokens_of(grown([items], 2)) == [[1], [2]]
    assert tokens_of(grown([items], 3)) == [[1], [2], [2, 6]]
    assert tokens_of(grown([items], 9)) == [[1], [1, 4], [1, 5], [2], [2, 6]]


def test_forced_tokens_follow_their_parent_and_are_no_guesses() -> None:
    items = branches(([1, 4, SEPARATOR], 0.5), ([2], 0.2), rows=(3, -1), forced=(4,))
    after = replace(branches(([8], 0.4)), written=torch.tensor([[[3, -1]]]))
    trees = grown([items, after], 4)
    assert tokens_of(trees) == [[1], [1, 4], [1, 4, 9], [1, 4, 9, 8]]
    assert trees.num_guesses().tolist() == [2]
    assert trees.step.tolist() == [[0, 1, 1, 1, 2]]
    assert trees.slot.tolist() == [[0, 0, 1, 2, 0]]
    assert trees.depth.tolist() == [[0, 1, 2, 3, 4]]
    assert trees.row.tolist() == [[-1, -1, 3, -1, -1]]
    assert trees.written[0, :, 0].tolist() == [-1, -1, -1, 3, 3]


def test_a_sum_that_rounding_lifts_above_its_parent_keeps_its_branch() -> None:
    """Under a forced first code the sums are the same, added in another order."""
    likely = np.random.default_rng(0).dirichlet(np.ones(200))
    items = [([1, 10 + n % 3, 50 + n], float(p)) for n, p in enumerate(likely)]
    assert int(grown([branches(*items, forced=(1,))], 1_000).is_real.sum()) == 1 + 1 + 3 + 200


def test_what_grew_from_no_candidate_is_none() -> None:
    first, second = branches(([1], 0.0), ([2], 0.4)), branches(([3], 0.0), parents=(0,))
    assert tokens_of(grown([first, second], 9)) == [[2]]


def test_tokens_see_their_ancestors_alone() -> None:
    first = branches(([1], 0.6), ([2], 0.4))
    second = branches(([3], 0.5), ([4], 0.3), parents=(0, 1))
    third = branches(([5, 6], 0.4), parents=(0,))
    trees = grown([first, second, third], 99)
    for place in range(trees.num_places):
        seen, at = {place}, place
        while at != ROOT:
            at = int(trees.parent[0, at])
            seen.add(at)
        assert set(torch.nonzero(trees.sees[0, place]).flatten().tolist()) == (
            seen if trees.is_real[0, place] else {ROOT, place}
        )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("num_passes", [1, 6])
def test_no_shape_stands_twice_on_the_menu(shop, device: str, num_passes: int) -> None:
    draft = replace(random_draft(shop, "both").config, max_steps=num_passes)
    menu = TreeShape.menu(draft, torch.device(device))
    assert menu[0] == TreeShape.default(draft, torch.device(device))
    assert len(set(menu)) == len(menu)
