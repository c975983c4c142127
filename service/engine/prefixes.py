"""Prompts that were read before: a user who comes back with a longer history pays for what is new of it.

A prompt is its prefix, the history item by item, and the start of the list. What the target and the draft made of
prefix and history is kept, under the history, in rows of caches of their own; what was not used for longest goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from service.engine.kv_cache import KvCache
from service.model.transfer import sent_together

History = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """A kept history.

    Attributes:
        history: rows of the items.
        row: of the caches that keep it.
    """

    history: History
    row: int


class Prefixes:
    """Keeps the latest histories, up to a number.

    Args:
        num_rows: how many, at least one.
        caches: whose entries are kept; each is kept in a cache of its own.
        hidden_size: of a feature.

    Attributes:
        num_queries: histories that were asked for.
        num_hits: those of them of which at least one item was known.
    """

    def __init__(self, num_rows: int, caches: Sequence[KvCache], hidden_size: int) -> None:
        self.num_queries = self.num_hits = 0
        self._num_rows = num_rows
        self._caches = [(cache, cache.like()) for cache in caches]
        device, dtype = caches[0].device, caches[0].dtype
        # Of the last token that is kept.
        self._features = torch.zeros(num_rows, hidden_size, device=device, dtype=dtype)
        self._kept: OrderedDict[tuple[int, int], Prefix] = OrderedDict()  # the one used last at the end

    def num_bytes(self, num_tokens: int) -> int:
        """What prompts of so many tokens take."""
        return sum(kept.num_bytes(self._num_rows, num_tokens) for _, kept in self._caches)

    def reserve(self, num_tokens: int) -> None:
        """Take memory for prompts of so many tokens."""
        for _, kept in self._caches:
            kept.reserve(self._num_rows, num_tokens)

    def find(self, history: History) -> Prefix | None:
        """The longest kept beginning of a history, and from now on the last to go."""
        self.num_queries += 1
        keys = _keys(history)
        for count in range(len(history), 0, -1):
            kept = self._kept.get(keys[count - 1])
            if kept is not None and kept.history == history[:count]:
                self._kept.move_to_end(keys[count - 1])
                self.num_hits += 1
                return kept
        return None

    def still_has(self, prefix: Prefix) -> bool:
        """Whether what was found has been kept since."""
        return self._kept.get(_keys(prefix.history)[-1]) == prefix

    def load(
        self,
        prefixes: Sequence[Prefix],
        rows: Sequence[int],
        num_tokens: int,
        places: Sequence[int],
        before: torch.Tensor,
    ) -> None:
        """Copy kept entries into these rows, and beyond them what means nothing, up to `num_tokens`.

        Args:
            prefixes: what was found.
            rows: of the caches.
            num_tokens: of the longest.
            places: in `before`.
            before: of each one's last token, the feature, [n, hidden]; filled at `places`.
        """
        kept_rows, target, place = sent_together(
            [prefix.row for prefix in prefixes], rows, places, device=before.device
        )
        for cache, kept in self._caches:
            cache.copy_rows(kept, kept_rows, target, num_tokens)
        before[place] = self._features[kept_rows]

    def keep(
        self,
        histories: Sequence[History],
        rows: Sequence[int],
        num_tokens: int,
        places: Sequence[int],
        features: torch.Tensor,
    ) -> None:
        """Keep the beginnings of rows.

        Args:
            histories: what they hold.
            rows: of the caches.
            num_tokens: of the longest.
            places: in `features`.
            features: of each one's last token that is kept, [n, hidden].
        """
        holds: dict[int, int] = {}  # a later history may take the row of an earlier one
        for number, history in enumerate(histories):
            key = _keys(history)[-1]
            known = self._kept.pop(key, None)
            if known is not None:
                row = known.row
            elif len(self._kept) < self._num_rows:
                row = len(self._kept)  # given out in their order, and from then on only changing hands
            else:
                row = self._kept.popitem(last=False)[1].row
            self._kept[key] = Prefix(history, row)
            holds[row] = number
        numbers = list(holds.values())
        target, source, place = sent_together(
            list(holds),
            [rows[number] for number in numbers],
            [places[number] for number in numbers],
            device=features.device,
        )
        self.reserve(num_tokens)
        for cache, kept in self._caches:
            kept.copy_rows(cache, source, target, num_tokens)
        self._features[target] = features[place]


def _keys(history: History) -> list[tuple[int, int]]:
    """Of each beginning of a history, its length and a hash that continues that of the one before."""
    keys, value = [], 0
    for count, row in enumerate(history, start=1):
        value = hash((value, row))
        keys.append((count, value))
    return keys
