"""Training examples: a history, and the list that the target shall write for it.

A list may begin with what the user really met next and goes on with a teacher's ranking, no item twice. Greedy decoding
asks the target 'what else, if not these?' at every item after the first, and this is where it learns the answer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.data.dataset import Interactions
from service.training.teacher import Teacher

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ListBatch:
    """Padded on the right with token 0.

    Attributes:
        tokens: [batch, length], prompt then list.
        attention: bool [batch, length], False on padding.
        weights: float32 [batch, length], weight of the loss *on predicting* each token.
    """

    tokens: IntArray
    attention: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]


class Epochs:
    """Draws each of `num_examples` once per epoch, in an order of that epoch's own; any step can be drawn at any time.

    Args:
        num_examples: at least one, if anything is to be drawn.
        seed: of the orders.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        self._num_examples = num_examples
        self._seed = seed
        self._epoch = -1  # whose order `_order` is; filled by `_example`
        self._order = np.empty(0, dtype=np.int64)

    def batch(self, step: int, size: int) -> IntArray:
        """The examples of one step, [size]."""
        return np.array([self._example(index) for index in range(step * size, (step + 1) * size)])

    def _example(self, index: int) -> int:
        epoch, offset = divmod(index, self._num_examples)
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, 0, epoch]).permutation(self._num_examples)
        return int(self._order[offset])


class ListSampler:
    """Draws batches; the batch of a step depends on the seed and the step alone, so training can resume anywhere.

    Args:
        train: histories of training users; items are rows.
        codes: [num_items, L].
        layout: how items become tokens.
        teacher: ranks what follows the true next items, if any stand first.
        max_history_items: the latest items that a prompt holds.
        list_items: length of the list; shorter in catalogues that do not have as many items.
        num_true: how many of the user's true next items stand first in the list.
        history_dropout: chance that an item of the history, the last one aside, is left out.
        history_loss: weight of the loss on the prompt's items.
        seed: of all randomness.
    """

    def __init__(
        self,
        train: Interactions,
        codes: Int32Array,
        layout: TokenLayout,
        teacher: Teacher,
        *,
        max_history_items: int,
        list_items: int,
        num_true: int = 1,
        history_dropout: float = 0.0,
        history_loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._rows = train.items.astype(np.int64)
        self._teacher = teacher
        self._layout = layout
        self._item_tokens = layout.item_tokens(codes)
        self._max_history = max_history_items
        self._list_items = min(list_items, len(codes))
        self._num_true = num_true
        self._dropout = history_dropout
        self._history_loss = history_loss
        self._seed = seed
        # An example is a position in the flat array of rows that has a history before it in its user's part.
        user = np.repeat(np.arange(len(train.offsets) - 1), np.diff(train.offsets))
        self._user_begin = train.offsets[:-1][user]
        self._user_end = train.offsets[1:][user]
        self._positions = np.flatnonzero(np.arange(len(self._rows)) > self._user_begin)
        self._epochs = Epochs(len(self._positions), seed)

    def __len__(self) -> int:
        """Number of distinct examples, before dropout."""
        return len(self._positions)

    def batch(self, step: int, size: int) -> ListBatch:
        """The examples of one step."""
        rng = np.random.default_rng([self._seed, 1, step])
        drawn = self._positions[self._epochs.batch(step, size)].tolist()
        histories = [self._history(position, rng) for position in drawn]
        ranked = self._teacher.draw(histories, self._list_items, int(rng.integers(2**62)))
        lists = [self._list(position, row) for position, row in zip(drawn, ranked, strict=True)]
        return self._pad(histories, lists)

    def _history(self, position: int, rng: np.random.Generator) -> IntArray:
        history = self._rows[self._user_begin[position] : position]
        if self._dropout:
            keep = rng.random(len(history)) >= self._dropout
            keep[-1] = True
            history = history[keep]
        return history[-self._max_history :]

    def _list(self, position: int, ranked: IntArray) -> IntArray:
        true = self._rows[position : min(position + self._num_true, self._user_end[position])]
        rows = np.concatenate([true, ranked])
        _, first = np.unique(rows, return_index=True)
        return rows[np.sort(first)][: self._list_items]

    def _pad(self, histories: list[IntArray], lists: list[IntArray]) -> ListBatch:
        prefix, list_start = self._layout.prefix, self._layout.list_start
        per_item = self._layout.tokens_per_item
        starts = [self._layout.prompt_length(len(history)) for history in histories]
        ends = [start + len(rows) * per_item for start, rows in zip(starts, lists, strict=True)]
        shape = (len(histories), max(ends))
        tokens = np.zeros(shape, dtype=np.int64)
        attention = np.zeros(shape, dtype=bool)
        weights = np.zeros(shape, dtype=np.float32)
        for i, (history, rows, start, end) in enumerate(zip(histories, lists, starts, ends, strict=True)):
            history_tokens, list_tokens = self._item_tokens[history].ravel(), self._item_tokens[rows].ravel()
            tokens[i, :end] = np.concatenate([prefix, history_tokens, list_start, list_tokens])
            attention[i, :end] = True
            weights[i, len(prefix) : start - len(list_start)] = self._history_loss
            weights[i, start:end] = 1.0
        weights[:, 0] = 0.0  # nothing predicts the first token
        return ListBatch(tokens, attention, weights)
