"""A catalogue in which each item is followed by the next one: what there is to learn is known."""

from itertools import count

import numpy as np
import pytest
import torch

from service.data.dataset import Interactions
from service.training import sasrec
from service.training.micro_batches import rounded
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_loss_foresees_each_item_from_those_before_it_alone(device: str, monkeypatch) -> None:
    monkeypatch.setattr(
        sasrec, "rounded", lambda count, _, *grain: rounded(count, torch.device(device), *grain)
    )
    torch.manual_seed(0)
    model = SasRec(NUM_ITEMS, RECIPE).eval()
    histories = [np.array([3, 4, 5]), np.array([7, 1])]
    expected = []
    for history in histories:
        for end in range(1, len(history)):
            known, items = model(torch.as_tensor(history[None, :end]))
            expected.append(-torch.log_softmax(known[0, -1] @ items.T, dim=0)[history[end]])
    torch.testing.assert_close(model.loss(*model.foreseen(histories)), torch.stack(expected).mean())


def test_items_share_what_their_codes_say() -> None:
    codes = np.stack([np.arange(NUM_ITEMS) // 6, np.arange(NUM_ITEMS) % 6], axis=1).astype(np.int32)
    torch.manual_seed(0)
    model = SasRec(NUM_ITEMS, RECIPE, codes)
    first, second = model.items.of_codes
    expected = model.items.own + torch.stack([first[a] + second[b] for a, b in codes.tolist()])
    torch.testing.assert_close(model.items(), expected)

    histories = [np.array([0, 1]), np.array([2, 1])]
    model.loss(*model.foreseen(histories)).backward()
    untouched = SasRec(NUM_ITEMS, RECIPE).state_dict()
    assert set(model.state_dict()) - set(untouched) == {"items.of_codes.0", "items.of_codes.1"}
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in (first, second))


def test_what_goes_for_an_item_goes_for_one_of_its_kind() -> None:
    """Odd items follow even ones; an item that is never met is known by its code alone."""
    codes = np.stack([np.arange(NUM_ITEMS) % 2, np.arange(NUM_ITEMS) // 2], axis=1).astype(np.int32)
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, 14, 6) * 2 + np.arange(6) % 2 for _ in range(60)]
    train = Interactions(
        [str(n) for n in range(60)], np.arange(0, 361, 6), np.concatenate(histories).astype(np.int32)
    )
    recipe = SasRecRecipe(width=16, max_items=8, dropout=0.0, learning_rate=1e-2, batch_size=8, max_epochs=8)
    rising = count()  # the last epoch is kept
    model = train_sasrec(
        train, NUM_ITEMS, recipe, codes=codes, device=CPU, seed=0, metric=lambda _: next(rising)
    )
    scores = model.scores([np.array([4]), np.array([5])], exclude_seen=False)
    assert scores[0, 29] > scores[0, 28]
    assert scores[1, 28] > scores[1, 29]
