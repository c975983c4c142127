"""Training examples: a history, a list for it, and how a teacher would have gone on at every code of that list.

Lists are drawn from the teacher's probabilities, so that a target meets lists that are not quite the best ones, as its
own will not be; what it learns at each code is the same whatever was drawn: the best item that is left.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.data.dataset import Interactions
from service.training.best_below import BestBelow
from service.training.teacher import Teacher, excludes_seen

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ListBatch:
    """Tokens are padded on the right with token 0.

    Attributes:
        tokens: [batch, length], prompt then list.
        lengths: [batch], of the tokens without padding.
        prompt_lengths: [batch], of the prompts in tokens.
        weights: float32 [batch, length], weight of the loss *on predicting* each token: those that are known for sure.
        is_listed: bool [batch, K], whether a list has so many items.
        worth: float32 [batch, K, L, codes], on the teacher's device: what `BestBelow` says of the lists' codes.
    """

    tokens: IntArray
    lengths: IntArray
    prompt_lengths: IntArray
    weights: npt.NDArray[np.float32]
    is_listed: npt.NDArray[np.bool_]
    worth: torch.Tensor


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
        train: histories of training users, at least one item; items are rows.
        codes: [num_items, L], in trie order.
        layout: how items become tokens.
        teacher: says how good items are.
        device: the teacher's.
        max_history_items: the latest items that a prompt holds.
        list_items: length of the list; shorter in catalogues that do not have as many items.
        temperature: at which lists are drawn.
        history_dropout: chance that an item of a history, the last one aside, is left out: the mean over histories,
            each of which has its own.
        history_substitution: chance that an item of a history gives its place to one of those near to it, likewise
            (CoSeRec, arXiv 2108.06479): a history that nobody had, so new to the target however often it learned.
        near: rows that may stand in for each item, [num_items, n]; not needed where none is asked to.
        history_loss: weight of the loss on the prompt's items, beside 1 for the list's.
        seed: of all randomness.
    """

    def __init__(
        self,
        train: Interactions,
        codes: Int32Array,
        layout: TokenLayout,
        teacher: Teacher,
        *,
        device: torch.device,
        max_history_items: int,
        list_items: int,
        temperature: float,
        history_dropout: float = 0.0,
        history_substitution: float = 0.0,
        near: IntArray | None = None,
        history_loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        if layout.between is not None:
            raise ValueError("targets are trained on prompts of items alone")
        if history_substitution > 0 and near is None:
            raise ValueError("nothing is said to be near to items that are to give their places")
        self.layout = layout
        self._rows = train.items.astype(np.int64)
        self._teacher = teacher
        self._best_below = BestBelow(codes, device)
        self._item_tokens = layout.item_tokens(codes)
        self._max_history = max_history_items
        self._list_items = min(list_items, len(codes))
        self._temperature = temperature
        self._dropout = history_dropout
        self._substitution = history_substitution
        self._near = near if history_substitution > 0 else None
        self._history_loss = history_loss
        self._seed = seed
        self._excludes_seen = excludes_seen(train)
        # An example is a position in the flat array of rows: the last item of a history.
        self._user_begin = np.repeat(train.offsets[:-1], np.diff(train.offsets))
        self._epochs = Epochs(len(self._rows), seed)

    def batch(self, step: int, size: int) -> ListBatch:
        """The examples of one step."""
        rng = np.random.default_rng([self._seed, 1, step])
        histories, lengths = self._histories(self._epochs.batch(step, size), rng)
        rows = [history[:length] for history, length in zip(histories, lengths, strict=True)]
        scores = self._teacher.scores(rows, exclude_seen=self._excludes_seen)
        lists = self._lists(scores, int(rng.integers(2**62)))
        is_listed = scores.gather(1, lists) > -torch.inf
        worth = self._best_below(scores, lists)
        return self._batch(histories, lengths, lists.cpu().numpy(), is_listed.cpu().numpy(), worth)

    def _histories(self, last: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Those that end at `last` [batch], as they are shown, padded on the right by any item, and their lengths."""
        lengths = np.minimum(last + 1 - self._user_begin[last], self._max_history)
        column = np.arange(lengths.max())
        is_last = column == lengths[:, None] - 1
        chance = 2 * self._dropout * rng.random((len(last), 1))
        kept = (column < lengths[:, None]) & (is_last | (rng.random(is_last.shape) >= chance))
        rows = self._rows[np.minimum(last[:, None] + 1 - lengths[:, None] + column, len(self._rows) - 1)]
        if self._near is not None:
            gives_way = rng.random(rows.shape) < 2 * self._substitution * rng.random((len(last), 1))
            stand_in = self._near[rows, rng.integers(self._near.shape[1], size=rows.shape)]
            rows = np.where(gives_way, stand_in, rows)
        kept_first = np.argsort(~kept, axis=1, kind="stable")
        return np.take_along_axis(rows, kept_first, axis=1), kept.sum(axis=1)

    def _lists(self, scores: torch.Tensor, seed: int) -> torch.Tensor:
        """Items one by one, each by its probability among those that are left (Plackett and Luce), int64 [batch, K]."""
        generator = torch.Generator(scores.device).manual_seed(seed)
        # The largest of sums with Gumbel noise are such a draw (arXiv 1903.06059).
        noise = torch.empty_like(scores).exponential_(generator=generator).log()
        return (scores / self._temperature - noise).topk(self._list_items, dim=1).indices

    def _batch(
        self,
        histories: IntArray,
        lengths: IntArray,
        lists: IntArray,
        is_listed: npt.NDArray[np.bool_],
        worth: torch.Tensor,
    ) -> ListBatch:
        prefix, list_start = self.layout.prefix, self.layout.list_start
        per_item = self.layout.tokens_per_item
        batch = np.arange(len(lists))[:, None]
        history_ends = len(prefix) + lengths * per_item
        prompt_lengths = history_ends + len(list_start)
        ends = prompt_lengths + is_listed.sum(axis=1) * per_item

        listed = np.where(is_listed[:, :, None], self._item_tokens[lists], 0).reshape(len(lists), -1)
        list_part = np.concatenate([np.tile(list_start, (len(lists), 1)), listed], axis=1).astype(np.int64)
        width = len(prefix) + histories.shape[1] * per_item + list_part.shape[1]
        place = np.arange(width)
        tokens = np.zeros((len(lists), width), dtype=np.int64)
        tokens[:, : len(prefix)] = prefix
        tokens[:, len(prefix) : width - list_part.shape[1]] = self._item_tokens[histories].reshape(
            len(lists), -1
        )
        tokens[place >= history_ends[:, None]] = 0
        tokens[batch, history_ends[:, None] + np.arange(list_part.shape[1])] = list_part

        in_list = place - prompt_lengths[:, None]
        is_separator = (in_list >= 0) & (in_list % per_item == per_item - 1) & (place < ends[:, None])
        in_history = (place >= max(1, len(prefix))) & (
            place < history_ends[:, None]
        )  # nothing predicts the first
        weights = is_separator + self._history_loss * in_history
        longest = ends.max()
        return ListBatch(
            tokens[:, :longest],
            ends,
            prompt_lengths,
            weights[:, :longest].astype(np.float32),
            is_listed,
            worth,
        )
