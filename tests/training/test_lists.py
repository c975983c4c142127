import numpy as np

from service.catalog.layout import TokenLayout
from service.training.lists import ListBatch, ListSampler
from service.training.teacher import ItemKnn

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]], dtype=np.int32)
LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((4, 5, 6), (7, 8)))
HISTORIES = [[0, 1, 2, 3], [4, 5], [3]]


def sampler(make_interactions, **options) -> ListSampler:
    train = make_interactions(HISTORIES)
    values = {"max_history_items": 2, "list_items": 3, "history_loss": 0.5, "seed": 0}
    return ListSampler(train, CODES, LAYOUT, ItemKnn(train, 6), **{**values, **options})


def items(tokens: np.ndarray) -> list[int]:
    pairs = tokens.reshape(-1, 3)
    assert (pairs[:, 2] == LAYOUT.separator).all()
    codes = [(int(a) - 4, int(b) - 7) for a, b, _ in pairs]
    return [CODES.tolist().index(list(code)) for code in codes]


def parse(batch: ListBatch, row: int) -> tuple[list[int], list[int]]:
    tokens = batch.tokens[row][batch.attention[row]]
    assert tokens[0] == 1
    start = int(np.flatnonzero(tokens == 2)[0])
    return items(tokens[1:start]), items(tokens[start + 1 :])


def test_an_epoch_asks_for_every_item_that_has_a_history(make_interactions) -> None:
    drawn = sampler(make_interactions)
    assert len(drawn) == 4
    batch = drawn.batch(0, 4)
    examples = {tuple(parse(batch, row)[0]): parse(batch, row)[1] for row in range(4)}
    # The latest two items of the history, then the true next item and a ranking without repeats.
    assert set(examples) == {(0,), (0, 1), (1, 2), (4,)}
    for history, true in {(0,): 1, (0, 1): 2, (1, 2): 3, (4,): 5}.items():
        written = examples[history]
        assert written[0] == true
        assert len(written) == len(set(written)) == 3
        assert not set(history) & set(written)


def test_loss_weights_cover_history_and_list_and_nothing_else(make_interactions) -> None:
    batch = sampler(make_interactions).batch(0, 4)
    for row in range(4):
        tokens, weights = batch.tokens[row], batch.weights[row]
        start = int(np.flatnonzero(tokens == 2)[0])
        assert weights[0] == weights[start] == 0
        assert (weights[1:start] == 0.5).all()
        end = int(batch.attention[row].sum())
        assert (weights[start + 1 : end] == 1).all()
        assert (weights[end:] == 0).all()


def test_a_step_depends_on_seed_and_number_alone(make_interactions) -> None:
    one, two = (sampler(make_interactions, history_dropout=0.5) for _ in range(2))
    for step in (3, 0, 3):
        one.batch(step, 3)
    np.testing.assert_array_equal(one.batch(7, 3).tokens, two.batch(7, 3).tokens)
    other = sampler(make_interactions, history_dropout=0.5, seed=1)
    assert any(
        one.batch(step, 4).tokens.tolist() != other.batch(step, 4).tokens.tolist() for step in range(5)
    )
