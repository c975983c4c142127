import numpy as np
import pytest
import torch

from service.training.teacher import ItemKnn, LogLinearPool, cooccurrence, excludes_seen


def test_cooccurrence_counts_near_pairs_within_a_user_alone(make_interactions) -> None:
    near = cooccurrence(make_interactions([[0, 1, 2], [2, 0], [3]]), 4, window=2, backward=0.5).toarray()
    assert near[0].tolist() == [0, 1.0, 0.5 + 0.5, 0]  # 0 before 1, before 2 at distance 2, after 2
    assert near[2].tolist() == [1.0 + 0.25, 0.5, 0, 0]
    assert near[3].sum() == 0
    assert near[:, 3].sum() == 0


def test_what_followed_comes_first_and_popular_items_fill_up(make_interactions) -> None:
    histories = [[0, 1], [0, 1], [0, 2], [5, 4], [5, 4], [5, 4], [5, 3]]
    knn = ItemKnn(make_interactions(histories), 6)
    [ranked] = knn.rank([np.array([0])], 5)
    assert ranked.tolist() == [1, 2, 5, 4, 3]


def test_a_ranking_holds_no_item_of_the_history_and_ends_with_the_catalogue(make_interactions) -> None:
    knn = ItemKnn(make_interactions([[0, 1, 2], [2, 1]]), 4)
    rankings = knn.rank([np.array([1, 2, 1]), np.array([3])], 10)
    assert [sorted(ranked.tolist()) for ranked in rankings] == [[0, 3], [0, 1, 2]]


def test_seen_items_are_ranked_on_request(make_interactions) -> None:
    knn = ItemKnn(make_interactions([[0, 1], [0, 1], [1, 0]]), 3)
    [ranked] = knn.rank([np.array([0, 1])], 3, exclude_seen=False)
    assert sorted(ranked.tolist()) == [0, 1, 2]


def test_scores_rank_as_rankings_do_and_no_item_is_impossible(make_interactions) -> None:
    histories = [[0, 1, 2], [0, 1], [2, 4], [5, 4], [5, 3, 0]]
    knn = ItemKnn(make_interactions(histories), 7)
    asked = [np.array([0]), np.array([5, 2])]
    for exclude_seen in (True, False):
        scores = knn.scores(asked, exclude_seen=exclude_seen)
        for row, ranked, history in zip(
            scores, knn.rank(asked, 7, exclude_seen=exclude_seen), asked, strict=True
        ):
            assert torch.isneginf(row[torch.as_tensor(history)]).all() == exclude_seen
            assert torch.isfinite(row).sum() == len(ranked)
            in_order = row[torch.as_tensor(ranked)]
            assert (in_order[:-1] >= in_order[1:]).all()


def test_a_pool_is_the_geometric_mean_of_probabilities(make_interactions) -> None:
    one, two = ItemKnn(make_interactions([[0, 1], [2, 1]]), 4), ItemKnn(make_interactions([[0, 2, 3]]), 4)
    asked = [np.array([0]), np.array([2, 1])]
    pooled = LogLinearPool([(0.3, one), (0.7, two)]).scores(asked, exclude_seen=True)
    parts = [torch.softmax(part.scores(asked, exclude_seen=True), dim=1) for part in (one, two)]
    torch.testing.assert_close(pooled.exp(), parts[0] ** 0.3 * parts[1] ** 0.7)


@pytest.mark.parametrize(
    ("histories", "excludes"), [([[0, 1, 2], [0, 1]], True), ([[0, 1, 0], [2]], False), ([[1]] * 300, True)]
)
def test_seen_items_are_left_out_where_nobody_comes_back_to_them(
    make_interactions, histories: list[list[int]], excludes: bool
) -> None:
    assert excludes_seen(make_interactions(histories)) == excludes


def test_what_is_nearest_to_each_item(make_interactions) -> None:
    knn = ItemKnn(make_interactions([[0, 1, 2], [0, 1], [3]]), 5)
    assert knn.nearest(3).tolist() == [[1, 2, 1], [2, 0, 2], [1, 0, 1], [3, 3, 3], [4, 4, 4]]
    assert ItemKnn(make_interactions([[3]]), 5).nearest(1).tolist() == [[0], [1], [2], [3], [4]]
