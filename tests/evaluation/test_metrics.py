"""Our four figures against `ranx`."""

import warnings

import numpy as np
import pytest

from service.evaluation.metrics import ranking_metrics


def test_equals_ranx() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies
        from ranx import Qrels, Run, evaluate

        rng = np.random.default_rng(0)
        lists = [rng.permutation(30)[: rng.integers(3, 15)].tolist() for _ in range(500)]
        targets = rng.integers(30, size=500).tolist()
        qrels = Qrels({f"q{i}": {f"d{target}": 1} for i, target in enumerate(targets)})
        run = Run(
            {
                f"q{i}": {f"d{item}": 1.0 / (rank + 1) for rank, item in enumerate(items)}
                for i, items in enumerate(lists)
            }
        )
        theirs = evaluate(qrels, run, ["recall@5", "recall@10", "ndcg@5", "ndcg@10"])
    ours = ranking_metrics(lists, targets)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value), name


def test_by_hand() -> None:
    metrics = ranking_metrics([[7, 8, 9], [1, 2], [1, 2, 3, 4, 5, 6]], [8, 5, 6])
    assert metrics["recall@5"] == pytest.approx(1 / 3)
    assert metrics["recall@10"] == pytest.approx(2 / 3)
    assert metrics["ndcg@5"] == pytest.approx(1 / np.log2(3) / 3)
    assert metrics["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(7)) / 3)
