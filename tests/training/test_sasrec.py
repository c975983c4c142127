"""A catalogue in which each item is followed by the next one: what there is to learn is known."""

import numpy as np
import pytest
import torch

from service.data.dataset import Interactions
from service.training.sasrec import SasRec, SasRecRecipe, train_sasrec

NUM_ITEMS = 30
RECIPE = SasRecRecipe(width=16, max_items=8, dropout=0.0, learning_rate=1e-2, batch_size=8, max_epochs=12)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def interactions() -> Interactions:
    rng = np.random.default_rng(0)
    histories = [(rng.integers(NUM_ITEMS) + np.arange(rng.integers(1, 13))) % NUM_ITEMS for _ in range(80)]
    offsets = np.append(0, np.cumsum([len(history) for history in histories]))
    return Interactions([str(n) for n in range(80)], offsets, np.concatenate(histories).astype(np.int32))


def followers(model: SasRec, **options) -> float:
    """The share of items that are ranked first after the item before them, asked for with a long history."""
    histories = [(item + np.arange(-11, 1)) % NUM_ITEMS for item in range(NUM_ITEMS)]
    ranked = model.rank(histories, 1, **options)
    return float(np.mean([rows[0] == (item + 1) % NUM_ITEMS for item, rows in enumerate(ranked)]))


def test_it_learns_what_follows_what(interactions: Interactions) -> None:
    values: list[float] = []
    model = train_sasrec(
        interactions,
        NUM_ITEMS,
        RECIPE,
        device=CPU,
        seed=0,
        metric=followers,
        on_epoch=lambda epoch, value: values.append(value),
    )
    assert followers(model) == max(values) > 0.9
    again = train_sasrec(interactions, NUM_ITEMS, RECIPE, device=CPU, seed=0, metric=followers)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))


def test_the_best_epoch_is_kept_and_patience_ends(interactions: Interactions) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([0.1, 0.5, 0.2, 0.5, 0.4, 0.9])

    def metric(model: SasRec) -> float:
        seen.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return next(scores)

    recipe = SasRecRecipe(width=8, max_items=4, batch_size=32, patience=3)
    model = train_sasrec(interactions, NUM_ITEMS, recipe, device=CPU, seed=0, metric=metric)
    assert len(seen) == 5
    assert all(torch.equal(weight, seen[1][name]) for name, weight in model.state_dict().items())
    assert not model.training


def test_ranking_excludes_on_request_and_knows_its_place() -> None:
    torch.manual_seed(0)
    model = SasRec(NUM_ITEMS, RECIPE)
    histories = [np.array([3]), np.array([5, 3, 9]), np.arange(25)]
    free, all_others = model.rank(histories, 30, exclude_seen=False), model.rank(histories, 30)
    for history, rows, others in zip(histories, free, all_others, strict=True):
        assert sorted(rows) == list(range(NUM_ITEMS))
        assert others.tolist() == [row for row in rows.tolist() if row not in history]
    # A history's rank depends on nothing else in the batch, and on its latest items alone.
    assert model.rank(histories[2:], 5)[0].tolist() == all_others[2][:5].tolist()
    assert model.rank([np.arange(17, 25)], 30, exclude_seen=False)[0].tolist() == free[2].tolist()


def test_the_loss_foresees_each_item_from_those_before_it_alone() -> None:
    torch.manual_seed(0)
    model = SasRec(NUM_ITEMS, RECIPE).eval()
    histories = [np.array([3, 4, 5]), np.array([7, 1])]
    expected = []
    for history in histories:
        for end in range(1, len(history)):
            known = model(torch.as_tensor(history[None, :end]))[0, -1]
            expected.append(-torch.log_softmax(known @ model.items.weight.T, dim=0)[history[end]])
    torch.testing.assert_close(model.loss(histories), torch.stack(expected).mean())
