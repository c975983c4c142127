import numpy as np
import pytest

from service.data.dataset import Interactions
from service.data.split import Case
from service.evaluation.beyond_accuracy import list_figures
from service.evaluation.metrics import gains_of, interval_figures, ranking_metrics
from service.evaluation.quality import Popularity, quality_rows, ranked_lists
from service.training.teacher import ItemKnn


def test_baselines_count_the_training_part_and_exclude_on_request() -> None:
    items = np.array([0, 1, 0, 1, 0, 2], dtype=np.int32)
    train = Interactions(["u", "v", "w"], np.array([0, 2, 4, 6]), items)
    cases = [Case(0, np.array([0], dtype=np.int32), 1), Case(1, np.array([0], dtype=np.int32), 0)]
    codes = np.arange(20, dtype=np.int32)[:, None]

    def rows(exclude_seen: bool) -> list[dict]:
        rankers = {"popularity": Popularity(train, 20), "item-knn": ItemKnn(train, 20)}
        lists = {
            name: ranked_lists(ranker, cases, exclude_seen=exclude_seen) for name, ranker in rankers.items()
        }
        return quality_rows(lists, cases, train, codes, seed=0)

    popularity, knn = rows(exclude_seen=False)
    assert (popularity["method"], knn["method"]) == ("popularity", "item-knn")
    assert popularity["users"] == 2
    assert popularity["recall@5"] == 1.0
    assert popularity["ndcg@5"] == (1 + 1 / np.log2(3)) / 2
    popularity, knn = rows(exclude_seen=True)
    assert popularity["recall@10"] == knn["recall@10"] == 0.5
    assert popularity["ndcg@5"] == 0.5


def hits(share: float, num_users: int, seed: int) -> list[list[int]]:
    """Lists of one item, which is right for about this share of users, whose right answer is 0."""
    return [[int(miss)] for miss in np.random.default_rng(seed).random(num_users) >= share]


def test_intervals_hold_the_mean_and_shrink_with_the_number_of_users() -> None:
    for num_users in (100, 10_000):
        lists, targets = hits(0.2, num_users, seed=0), [0] * num_users
        [row] = interval_figures([gains_of(lists, targets)], seed=1)
        mean = ranking_metrics(lists, targets)["recall@10"]
        assert row["recall@10_low"] < mean < row["recall@10_high"]
        width = row["recall@10_high"] - row["recall@10_low"]
        # 1.96 standard errors of a share of a fifth to either side.
        assert width == pytest.approx(2 * 1.96 * np.sqrt(0.16 / num_users), rel=0.2)
        assert row["ndcg@10_p"] is None


def test_a_difference_is_told_from_none() -> None:
    targets = [0] * 2_000
    first, better, alike = (hits(share, 2_000, seed) for seed, share in enumerate((0.2, 0.3, 0.2)))
    gains = [gains_of(lists, targets) for lists in (first, better, alike, first)]
    p = [row["ndcg@10_p"] for row in interval_figures(gains, seed=0)]
    assert p[0] is None
    assert p[1] < 0.001
    assert p[2] > 0.05
    assert p[3] == 1.0


def test_users_for_whom_two_methods_are_alike_hide_no_difference() -> None:
    targets = [0] * 2_000
    first = hits(0.5, 2_000, seed=0)
    better = [[0] if user < 40 else items for user, items in enumerate(first)]
    same_share = hits(np.mean([items == [0] for items in better]), 2_000, seed=1)
    paired, unpaired = interval_figures(
        [gains_of(lists, targets) for lists in (first, better, same_share)], seed=0
    )[1:]
    assert paired["ndcg@10_p"] < 0.001
    assert unpaired["ndcg@10_p"] > 0.05


def test_what_lists_are_like() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    counts = np.array([4, 2, 2, 0])
    figures = list_figures([[0, 1], [0, 2]], counts, codes)
    assert figures["coverage"] == 0.75
    assert figures["novelty"] == pytest.approx(
        (1 + 2 + 1 + 2) / 4
    )  # met in a half, a quarter, … of all events
    assert figures["diversity"] == pytest.approx((0.5 + 1.0) / 2)  # the first two share one code of two
    assert list_figures([[3]], counts, codes) == {"coverage": 0.25, "novelty": 3.0, "diversity": None}
    assert list_figures([[]], counts, codes) == {"coverage": 0.0, "novelty": None, "diversity": None}
