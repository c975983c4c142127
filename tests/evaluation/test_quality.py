import numpy as np

from service.data.dataset import Interactions
from service.data.split import Case
from service.evaluation.quality import evaluate_baselines


def test_baselines_count_the_training_part_and_exclude_on_request() -> None:
    items = np.array([0, 1, 0, 1, 0, 2], dtype=np.int32)
    train = Interactions(["u", "v", "w"], np.array([0, 2, 4, 6]), items)
    cases = [Case(0, np.array([0], dtype=np.int32), 1), Case(1, np.array([0], dtype=np.int32), 0)]
    popularity, knn = evaluate_baselines(train, 20, cases)
    assert (popularity["method"], knn["method"]) == ("popularity", "item-knn")
    assert popularity["recall@5"] == 1.0
    assert popularity["ndcg@5"] == (1 + 1 / np.log2(3)) / 2
    popularity, knn = evaluate_baselines(train, 20, cases, exclude_seen=True)
    assert popularity["recall@10"] == knn["recall@10"] == 0.5
    assert popularity["ndcg@5"] == 0.5
