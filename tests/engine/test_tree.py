import numpy as np

from service.engine.tree import ROOT, Candidate, GuessTree, PackedTrees, grow


def candidate(tokens: list[int], log_p: float, parent: int = ROOT, row: int = -1, forced=()) -> Candidate:
    """Nodes are the tokens; all are guesses but those named in `forced`."""
    return Candidate(parent, tokens, tokens, [token in forced for token in tokens], row, log_p)


def tokens_of(tree: GuessTree) -> list[list[int]]:
    """The path to every token."""
    paths: list[list[int]] = [[]]
    for place in range(1, len(tree)):
        paths.append([*paths[tree.parent[place]], tree.token[place]])
    return sorted(paths[1:])


def grown(passes, num_guesses: int, num_items: int = 9) -> GuessTree:
    return grow(passes, node=7, slot=0, num_levels=2, num_items=num_items, num_guesses=num_guesses)


def test_the_most_probable_tokens_within_the_budget_form_the_tree() -> None:
    first = [candidate([1], np.log(0.6)), candidate([2], np.log(0.3)), candidate([3], np.log(0.05))]
    second = [candidate([4], np.log(0.5), parent=0), candidate([5], np.log(0.2), parent=1)]
    assert tokens_of(grown([first, second], 3)) == [[1], [1, 4], [2]]
    assert tokens_of(grown([first, second], 9)) == [[1], [1, 4], [2], [2, 5], [3]]


def test_candidates_that_begin_alike_share_tokens_and_their_probabilities_add_up() -> None:
    items = [candidate([1, 4], np.log(0.3)), candidate([1, 5], np.log(0.25)), candidate([2, 6], np.log(0.4))]
    assert tokens_of(grown([items], 2)) == [[1], [2]]
    assert tokens_of(grown([items], 3)) == [[1], [2], [2, 6]]


def test_forced_tokens_are_free() -> None:
    items = [candidate([1, 4, 9], np.log(0.5), row=3, forced=(4, 9)), candidate([2], np.log(0.2))]
    tree = grown([items, [candidate([8], np.log(0.4))]], 2)
    assert tokens_of(tree) == [[1], [1, 4], [1, 4, 9], [1, 4, 9, 8]]
    assert (tree.num_guesses, tree.step[-1], tree.slot) == (2, 2, [0, 0, 1, 2, 0])
    assert tree.written[-1] == (3,)


def test_a_sum_that_rounding_lifts_above_its_parent_keeps_its_branch() -> None:
    """Under a forced first code the sums are the same, added in another order."""
    likely = np.log(np.random.default_rng(0).dirichlet(np.ones(200)))
    items = [candidate([1, 10 + n % 3, 50 + n], p, forced=(1,)) for n, p in enumerate(likely)]
    assert len(grown([items], 1_000)) == 1 + 1 + 3 + 200


def test_nothing_is_guessed_after_the_last_item() -> None:
    first = [candidate([1, 2, 9], -0.1, row=4)]
    second = [candidate([3, 4, 9], -0.2, row=5)]
    assert tokens_of(grown([first, second], 99, num_items=1)) == [[1], [1, 2], [1, 2, 9]]


def test_what_grew_from_no_candidate_is_none() -> None:
    assert tokens_of(grown([[None, candidate([2], -1.0)], [candidate([3], -0.1)]], 9)) == [[2]]


def test_packed_trees_see_their_ancestors_alone() -> None:
    small = grown([[candidate([1], -0.5, row=8)]], 9)
    large = grown(
        [[candidate([1], -0.5), candidate([2], -0.9)], [candidate([3], -0.6), candidate([4], -1.0, 1)]], 9
    )
    packed = PackedTrees.of([small, large])
    assert packed.token.shape == (2, 5)
    assert packed.written[0].max() == 8
    assert packed.sees[0].tolist() == np.eye(4, dtype=bool).tolist()
    parents = {place: large.parent[place] for place in range(1, 5)}
    for place in range(1, 5):
        seen, at = set(), place
        while at != ROOT:
            seen.add(at)
            at = parents[at]
        assert {int(n) + 1 for n in np.flatnonzero(packed.sees[1, place - 1])} == seen
