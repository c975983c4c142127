"""What a target is shown: histories, lists drawn from a teacher's scores, and what each code of them is worth."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from service.catalog.layout import TokenLayout
from service.training.lists import ListBatch, ListSampler

CPU = torch.device("cpu")
CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]], dtype=np.int32)
LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((4, 5, 6), (7, 8)))
HISTORIES = [[0, 1, 2, 3], [4, 5], [3]]


class ByRow:
    """A teacher to whom an item is worth its row."""

    def scores(self, histories, *, exclude_seen: bool) -> torch.Tensor:
        scores = torch.arange(6.0).repeat(len(histories), 1)
        if exclude_seen:
            for row, history in zip(scores, histories, strict=True):
                row[torch.as_tensor(history)] = -torch.inf
        return scores


def sampler(make_interactions, histories=HISTORIES, **options) -> ListSampler:
    values = {"max_history_items": 2, "list_items": 3, "temperature": 1.0, "history_loss": 0.5, "seed": 0}
    return ListSampler(
        make_interactions(histories), CODES, LAYOUT, ByRow(), device=CPU, **{**values, **options}
    )


def items(tokens: np.ndarray) -> list[int]:
    pairs = tokens.reshape(-1, 3)
    assert (pairs[:, 2] == LAYOUT.separator).all()
    codes = [(int(a) - 4, int(b) - 7) for a, b, _ in pairs]
    return [CODES.tolist().index(list(code)) for code in codes]


def parse(batch: ListBatch, row: int) -> tuple[list[int], list[int]]:
    tokens = batch.tokens[row][: batch.lengths[row]]
    assert tokens[0] == 1
    start = batch.prompt_lengths[row]
    assert tokens[start - 1] == 2
    assert (batch.tokens[row][batch.lengths[row] :] == 0).all()
    return items(tokens[1 : start - 1]), items(tokens[start:])


def test_an_epoch_asks_for_what_follows_every_item(make_interactions) -> None:
    batch = sampler(make_interactions, temperature=1e-6).batch(0, 7)
    examples = sorted(parse(batch, row) for row in range(7))
    # The latest two items of each history, then the best others.
    assert examples == [
        ([0], [5, 4, 3]),
        ([0, 1], [5, 4, 3]),
        ([1, 2], [5, 4, 3]),
        ([2, 3], [5, 4, 1]),
        ([3], [5, 4, 2]),
        ([4], [5, 3, 2]),
        ([4, 5], [3, 2, 1]),
    ]


def test_items_of_a_history_give_their_places_to_near_ones(make_interactions) -> None:
    near = np.array([[5, 4], [5, 5], [4, 4], [0, 0], [1, 1], [2, 2]])
    substituting = sampler(make_interactions, history_substitution=0.3, near=near, max_history_items=4)
    plain = sampler(make_interactions, max_history_items=4)
    changed = total = 0
    for step in range(60):
        before, after = plain.batch(step, 7), substituting.batch(step, 7)
        for row in range(7):
            pairs = list(zip(parse(before, row)[0], parse(after, row)[0], strict=True))
            assert all(new == old or new in near[old] for old, new in pairs)
            changed += sum(new != old for old, new in pairs)
            total += len(pairs)
    assert changed / total == pytest.approx(0.3, abs=0.06)


def test_items_come_back_where_users_meet_them_again(make_interactions) -> None:
    batch = sampler(make_interactions, [[5, 5, 5], [5, 4]], temperature=1e-6).batch(0, 5)
    assert {tuple(parse(batch, row)[1]) for row in range(5)} == {(5, 4, 3)}


def test_each_code_is_worth_the_best_item_that_is_left_below(make_interactions) -> None:
    batch = sampler(make_interactions, [[3]], temperature=1e-6).batch(0, 1)
    assert parse(batch, 0) == ([3], [5, 4, 2])
    none = -torch.inf
    assert batch.worth[0].tolist() == [
        [[1, 2, 5], [4, 5, none]],
        [[1, 2, 4], [4, none, none]],
        [[1, 2, none], [2, none, none]],
    ]


def test_losses_on_tokens_cover_history_and_separators(make_interactions) -> None:
    batch = sampler(make_interactions).batch(0, 7)
    for row in range(7):
        weights, start, end = batch.weights[row], batch.prompt_lengths[row], batch.lengths[row]
        assert weights[0] == weights[start - 1] == 0
        assert (weights[1 : start - 1] == 0.5).all()
        assert weights[start:end].tolist() == [0, 0, 1] * 3
        assert (weights[end:] == 0).all()


def test_a_list_ends_with_the_catalogue(make_interactions) -> None:
    batch = sampler(make_interactions, [[0, 1, 2, 3]], max_history_items=4, list_items=10).batch(0, 4)
    lists = {len(history): sorted(listed) for history, listed in (parse(batch, row) for row in range(4))}
    assert lists == {1: [1, 2, 3, 4, 5], 2: [2, 3, 4, 5], 3: [3, 4, 5], 4: [4, 5]}
    assert batch.is_listed.sum(axis=1).tolist() == (6 - (batch.prompt_lengths - 2) // 3).tolist()


def test_lists_are_drawn_as_often_as_the_teachers_probabilities_say(make_interactions) -> None:
    drawn = sampler(make_interactions, [[0, 5]], list_items=2, temperature=1.5, max_history_items=1)
    scores = torch.arange(6, dtype=torch.float64) / 1.5
    scores[5] = -torch.inf
    first = torch.softmax(scores, dim=0)
    pairs = {}
    for a in range(5):
        left = scores.clone()
        left[a] = -torch.inf
        pairs |= {(a, b): float(first[a] * p) for b, p in enumerate(torch.softmax(left, dim=0)) if p}
    assert sum(pairs.values()) == pytest.approx(1)

    batch = drawn.batch(0, 40_000)
    lists = (parse(batch, row) for row in range(40_000))
    found = Counter(tuple(listed) for history, listed in lists if history == [5])
    assert set(found) <= set(pairs)
    square = sum((found[pair] - 20_000 * p) ** 2 / (20_000 * p) for pair, p in pairs.items())
    assert chi2.sf(square, len(pairs) - 1) > 1e-3


def test_dropout_leaves_the_last_item_and_the_order(make_interactions) -> None:
    drawn = sampler(make_interactions, [[0, 1, 2, 3]], max_history_items=4, history_dropout=0.4)
    batches = [drawn.batch(step, 4) for step in range(50)]
    histories = [parse(batch, row)[0] for batch in batches for row in range(4)]
    assert {history[-1] for history in histories} == {0, 1, 2, 3}
    assert all(history == sorted(history) for history in histories)
    longest = [history for history in histories if history[-1] == 3]
    assert len({tuple(history) for history in longest}) > 4
    assert 4 - np.mean([len(history) for history in longest]) == pytest.approx(3 * 0.4, abs=0.4)


def test_a_step_depends_on_seed_and_number_alone(make_interactions) -> None:
    one, two = (sampler(make_interactions, history_dropout=0.5) for _ in range(2))
    for step in (3, 0, 3):
        one.batch(step, 3)
    for name in ("tokens", "lengths", "weights", "is_listed", "worth"):
        np.testing.assert_array_equal(*(getattr(drawn.batch(7, 3), name) for drawn in (one, two)))
    other = sampler(make_interactions, history_dropout=0.5, seed=1)
    assert any(
        one.batch(step, 4).tokens.tolist() != other.batch(step, 4).tokens.tolist() for step in range(5)
    )
