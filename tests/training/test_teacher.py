import numpy as np

from service.training.teacher import ItemKnn, cooccurrence


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
