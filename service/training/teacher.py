"""Who says how good items are, for a target to learn from; here item-kNN over co-occurrence in sessions.

Two items are near when one follows the other closely in many histories; an old item of a history counts less than
a fresh one. It is closed-form, sparse, and strong on catalogues with few interactions per item.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from service.data.dataset import Interactions
from service.model.transfer import sent

IntArray = npt.NDArray[np.int64]
Histories = Sequence[npt.NDArray[np.integer]]

# How near a history is to any item at all, on average over items; what is popular is nearer.
_NEAR_ANYTHING = 1e-3

# Where so few of the items that users meet are ones they have met before, lists need none of them.
_FEW_REPEATS = 0.01


class Teacher(Protocol):
    """Scores items for histories."""

    def scores(self, histories: Histories, *, exclude_seen: bool) -> torch.Tensor:
        """How probable each item is to come next: logs, up to a number of each history's own.

        Args:
            histories: rows, oldest first, one array per user.
            exclude_seen: no item of the history itself, which then has -inf.

        Returns:
            float32 [batch, num_items].
        """
        ...


@dataclass(frozen=True, slots=True)
class LogLinearPool:
    """Several teachers' opinion: the weighted geometric mean of their probabilities.

    Attributes:
        weighted: teachers and their weights, positive, of sum 1 for a mean.
    """

    weighted: Sequence[tuple[float, Teacher]]

    def scores(self, histories: Histories, *, exclude_seen: bool) -> torch.Tensor:
        """See `Teacher`."""
        parts = [
            weight * torch.log_softmax(teacher.scores(histories, exclude_seen=exclude_seen), dim=1)
            for weight, teacher in self.weighted
        ]
        return torch.stack(parts).sum(dim=0)


def excludes_seen(train: Interactions) -> bool:
    """Whether lists should do without the items of a history, as users so rarely meet an item twice."""
    user = np.repeat(np.arange(train.num_users), np.diff(train.offsets))
    pairs = user * (train.items.max(initial=0) + np.int64(1)) + train.items
    return len(pairs) - len(np.unique(pairs)) <= _FEW_REPEATS * len(pairs)


def without_seen(scores: torch.Tensor, histories: Histories) -> torch.Tensor:
    """`scores` [batch, num_items], changed in place: -inf for the items of each history."""
    row = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    seen = np.stack((row, np.concatenate(histories)))
    scores[tuple(sent(seen, scores.device))] = -torch.inf
    return scores


class ItemKnn:
    """Ranks items for a history.

    Args:
        train: histories of training users; items are rows.
        num_items: size of the catalogue.
        window: items further apart than this do not count as co-occurring.
        backward: weight of 'was followed by' beside 'follows'.
        decay: weight of a history's item per step of age.
        smoothing: added to an item's count when its row is normalised, so that rare items speak softly.
        device: of `scores`.
    """

    def __init__(
        self,
        train: Interactions,
        num_items: int,
        *,
        window: int = 10,
        backward: float = 0.5,
        decay: float = 0.8,
        smoothing: float = 5.0,
        device: torch.device | None = None,
    ) -> None:
        self.num_items = num_items
        self._device = device
        self.counts = np.bincount(train.items, minlength=num_items)
        self._decay = decay
        near = cooccurrence(train, num_items, window=window, backward=backward)
        self._near = (sparse.diags(1.0 / np.sqrt(self.counts + smoothing)) @ near).tocsr()
        self._near_to = _on_device(self._near.T.tocsr(), device)
        popularity = (self.counts + 1.0) / np.mean(self.counts + 1.0)
        self._anything = torch.as_tensor(_NEAR_ANYTHING * popularity, device=device).float()
        self._by_popularity = np.argsort(-self.counts, kind="stable")

    def scores(self, histories: Histories, *, exclude_seen: bool) -> torch.Tensor:
        """See `Teacher`; nearness is taken for probability, and a little of it is everywhere, by popularity."""
        weights, users, rows = self._weighted(histories)
        profiles = torch.zeros(self.num_items, len(histories), device=self._device)
        where = tuple(sent(np.stack((rows, users)).astype(np.int64), profiles.device))
        profiles.index_put_(where, sent(weights.astype(np.float32), profiles.device), accumulate=True)
        scores = (self._anything + (self._near_to @ profiles).T).log()
        return without_seen(scores, histories) if exclude_seen else scores

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = True) -> list[IntArray]:
        """The k best rows for each history, best first; popular rows fill what is left.

        Args:
            histories: rows, oldest first, one array per user.
            k: length of the rankings; one is shorter where the catalogue has no more items.
            exclude_seen: rank no item of the history itself.
        """
        scores = self._profiles(histories) @ self._near
        ranked = []
        for user, history in enumerate(histories):
            begin, end = scores.indptr[user], scores.indptr[user + 1]
            rows, values = scores.indices[begin:end], scores.data[begin:end]
            barred = history if exclude_seen else history[:0]
            keep = ~np.isin(rows, barred)
            rows, values = rows[keep], values[keep]
            if len(values) > k:  # only what reaches the k-th best value needs an order
                enough = values >= np.partition(values, len(values) - k)[len(values) - k]
                rows, values = rows[enough], values[enough]
            # Ties go to the more popular item, then to the smaller row, whatever the sparse product's order.
            best = rows[np.lexsort((rows, -self.counts[rows], -values))][:k]
            ranked.append(self._fill(best, barred, k))
        return ranked

    def nearest(self, count: int) -> IntArray:
        """The rows nearest to each item, nearest first, [num_items, count].

        Where there are fewer they come again, and what is near to nothing is near to itself.
        """
        begin, rows = self._near.indptr.astype(np.int64), np.arange(self.num_items)
        of_row = np.repeat(rows, np.diff(begin))
        nearest_first = self._near.indices[np.lexsort((-self._near.data, of_row))].astype(np.int64)
        lengths = np.diff(begin)[:, None]
        places = begin[:-1, None] + np.arange(count) % np.maximum(lengths, 1)
        padded = np.append(nearest_first, 0)  # an item without any may be the last one
        return np.where(lengths > 0, padded[places], rows[:, None])

    def _fill(self, best: IntArray, barred: npt.NDArray[np.integer], k: int) -> IntArray:
        if len(best) == k:
            return best
        taken = np.concatenate([best, barred])
        popular = self._by_popularity[: k + len(taken)]
        return np.concatenate([best, popular[~np.isin(popular, taken)][: k - len(best)]])

    def _profiles(self, histories: Histories) -> sparse.csr_matrix:
        weights, users, rows = self._weighted(histories)
        return sparse.csr_matrix((weights, (users, rows)), shape=(len(histories), self.num_items))

    def _weighted(self, histories: Histories) -> tuple[npt.NDArray[np.float64], IntArray, IntArray]:
        """Of each item of histories, one after the other: its weight, the less the older, whose it is, and its row."""
        lengths = [len(history) for history in histories]
        weights = np.concatenate([self._decay ** np.arange(n - 1, -1, -1.0) for n in lengths])
        return weights, np.repeat(np.arange(len(histories)), lengths), np.concatenate(histories)


def _on_device(matrix: sparse.csr_matrix, device: torch.device | None) -> torch.Tensor:
    """The same in float32."""
    with warnings.catch_warnings():
        # It is checked: what torch warns of are its other sparse tensors.
        warnings.filterwarnings(
            "ignore", "Sparse (CSR tensor support is in beta|invariant checks are implicitly)"
        )
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr.astype(np.int64)),
            torch.as_tensor(matrix.indices.astype(np.int64)),
            torch.as_tensor(matrix.data.astype(np.float32)),
            size=matrix.shape,
            device=device,
            check_invariants=True,
        )


def cooccurrence(train: Interactions, num_items: int, *, window: int, backward: float) -> sparse.csr_matrix:
    """How strongly item i is followed by item j, the closer the more, summed over histories, [num_items, num_items].

    Args:
        train: histories; items are rows.
        num_items: size of the catalogue.
        window: items further apart than this do not count.
        backward: weight of 'j was followed by i' beside 'i was followed by j'.
    """
    user = np.repeat(np.arange(train.num_users), np.diff(train.offsets))
    near = sparse.csr_matrix((num_items, num_items))
    for distance in range(1, window + 1):
        first, second = train.items[:-distance], train.items[distance:]
        keep = (user[:-distance] == user[distance:]) & (first != second)
        weight = np.full(int(keep.sum()), 1.0 / distance)
        pairs = sparse.csr_matrix((weight, (first[keep], second[keep])), shape=near.shape)
        near = near + pairs + backward * pairs.T
    return near.tocsr()
