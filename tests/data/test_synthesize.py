from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from service.data.dataset import Dataset
from service.data.split import LeaveOneOut
from service.data.synthesize import synthesize
from service.errors import InputError


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return synthesize(tmp_path_factory.mktemp("data") / "shop")


def test_shape_of_the_shop(shop: Dataset) -> None:
    assert (shop.num_items, shop.num_users, shop.has_codes) == (2_000, 4_000, False)
    items = shop.items()
    assert items["item_id"].to_pylist()[42] == "sku-00042"
    assert len(set(items["title"].to_pylist())) == 2_000
    attributes = items["attributes"].to_pylist()
    assert all(len(own["category"]) == 3 and own["price"] > 0 for own in attributes)
    assert len({own["brand"] for own in attributes}) > 40


def test_users_have_five_distinct_items_in_time_order(shop: Dataset) -> None:
    interactions = shop.interactions()
    for user in range(shop.num_users):
        history = interactions.history(user).tolist()
        assert len(history) >= 5
        assert len(set(history)) == len(history)
    table = pq.read_table(shop.path / "interactions.parquet")
    steps = np.diff(table["timestamp"].to_numpy())
    steps[interactions.offsets[1:-1] - 1] = 0
    assert (steps >= 0).all()


def test_users_repeat_brands_and_popularity_is_skewed(shop: Dataset) -> None:
    brands = [own["brand"] for own in shop.items()["attributes"].to_pylist()]
    interactions = shop.interactions()
    pairs = np.stack([interactions.items[:-1], interactions.items[1:]])
    pairs = np.delete(pairs, interactions.offsets[1:-1] - 1, axis=1)
    assert np.mean([brands[one] == brands[other] for one, other in pairs.T]) > 0.4
    counts = np.sort(np.bincount(interactions.items, minlength=shop.num_items))[::-1]
    assert counts[:200].sum() > 0.25 * counts.sum()


def test_sequence_tells_far_more_than_popularity(shop: Dataset) -> None:
    split = LeaveOneOut(shop.interactions())
    popular = np.argsort(-np.bincount(split.train.items, minlength=shop.num_items)).tolist()
    followers: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for user in range(split.train.num_users):
        history = split.train.history(user).tolist()
        for item, following in pairwise(history):
            followers[item][following] += 1
    hits = np.zeros(2)
    cases = split.cases("test")
    for _, history, target in cases:
        seen = set(history.tolist())
        after = [item for item, _ in followers[int(history[-1])].most_common()]
        for method, ranked in enumerate([popular, after]):
            hits[method] += target in [item for item in ranked if item not in seen][:10]
    by_popularity, by_sequence = hits / len(cases)
    assert by_popularity < 0.05
    assert by_sequence > 0.4


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in [("one", 7), ("two", 7), ("other", 8)]:
        synthesize(tmp_path / name, num_items=300, num_users=50, seed=seed)
    for table in ("items.parquet", "interactions.parquet"):
        content = [(tmp_path / name / table).read_bytes() for name in ("one", "two", "other")]
        assert content[0] == content[1] != content[2]


@pytest.mark.parametrize(("num_items", "num_users"), [(10, 3), (37, 1), (5_000, 20)])
def test_other_sizes(tmp_path: Path, num_items: int, num_users: int) -> None:
    dataset = synthesize(tmp_path / "out", num_items=num_items, num_users=num_users)
    assert (dataset.num_items, dataset.num_users) == (num_items, num_users)
    assert len(set(dataset.items()["title"].to_pylist())) == num_items


@pytest.mark.parametrize(("num_items", "num_users"), [(9, 10), (2_000, 0)])
def test_too_small(tmp_path: Path, num_items: int, num_users: int) -> None:
    with pytest.raises(InputError, match="must be at least"):
        synthesize(tmp_path / "out", num_items=num_items, num_users=num_users)
    assert list(tmp_path.iterdir()) == []
