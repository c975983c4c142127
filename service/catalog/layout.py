"""How semantic IDs become tokens of the target's vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenLayout:
    """The prompt is `prefix`, then each item of the history (codes, separator), then `list_start`.

    Attributes:
        prefix: token IDs before the history.
        list_start: token IDs between the history and the list; what follows them is the list.
        separator: the token ID that ends an item.
        code_tokens: for each level, the token ID of each code.
        between: token IDs between two items of the history, which no separator ends then; None: as above.
    """

    prefix: tuple[int, ...]
    list_start: tuple[int, ...]
    separator: int
    code_tokens: tuple[tuple[int, ...], ...]
    between: tuple[int, ...] | None = None

    @property
    def num_levels(self) -> int:
        """Codes per semantic ID, L."""
        return len(self.code_tokens)

    @property
    def tokens_per_item(self) -> int:
        """L codes and a separator."""
        return self.num_levels + 1

    @cached_property
    def table(self) -> npt.NDArray[np.int64]:
        """Token IDs [L, largest code + 1], -1 where a level has no such code."""
        table = np.full((self.num_levels, max(map(len, self.code_tokens))), -1, dtype=np.int64)
        for level, tokens in enumerate(self.code_tokens):
            table[level, : len(tokens)] = tokens
        return table

    def item_tokens(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Tokens [num_items, L + 1] of items with `codes` [num_items, L]."""
        tokens = np.full((len(codes), self.tokens_per_item), self.separator, dtype=np.int64)
        tokens[:, :-1] = self.table[np.arange(self.num_levels), codes]
        return tokens

    def prompt(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The prompt's tokens, [length], for a history with `codes` [num_items, L], oldest first."""
        items = self.item_tokens(codes)
        if self.between is None:
            history = items.ravel()
        else:
            after = np.tile(np.array(self.between, dtype=np.int64), (len(codes), 1))
            joined = np.concatenate([items[:, :-1], after], axis=1).ravel()
            history = joined[: self.history_length(len(codes))]
        return np.concatenate([self.prefix, history, self.list_start]).astype(np.int64)

    def next_slots(self, length: int) -> npt.NDArray[np.int64]:
        """The slot that is filled after each token of a prompt of `length` tokens, [length]; 0 where an item begins."""
        place = np.arange(length) - len(self.prefix)
        in_items = (place >= 0) & (place < length - len(self.prefix) - len(self.list_start))
        within = place % self._tokens_of_history_item + 1
        # Whatever stands between items has the separator's slot.
        slots = np.where(within == self._tokens_of_history_item, 0, np.minimum(within, self.num_levels))
        return np.where(in_items, slots, 0)

    def history_length(self, num_items: int) -> int:
        """Length in tokens of a history of `num_items` in a prompt."""
        last = 0 if self.between is None or num_items == 0 else len(self.between)
        return num_items * self._tokens_of_history_item - last

    def prompt_length(self, num_items: int) -> int:
        """Length in tokens of the prompt for a history of `num_items`."""
        return len(self.prefix) + self.history_length(num_items) + len(self.list_start)

    @property
    def _tokens_of_history_item(self) -> int:
        return self.num_levels + (1 if self.between is None else len(self.between))


def code_token_names(code_sizes: Sequence[int]) -> list[list[str]]:
    """The names of code tokens as the public generative-recommendation code writes them: `<a_0>`, `<b_7>`."""
    return [[f"<{chr(ord('a') + level)}_{code}>" for code in range(n)] for level, n in enumerate(code_sizes)]


def shared_code_token_names(code_sizes: Sequence[int]) -> list[list[str]]:
    """The names of code tokens that mean the same code number at every level: `<code_0>`, `<code_7>`."""
    return [[f"<code_{code}>" for code in range(n)] for n in code_sizes]
