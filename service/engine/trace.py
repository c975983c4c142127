"""What rounds looked at, for lists that are to be explained: guesses, what became of them, what the target added.

On the device a round copies its trees into a buffer, in a shape of its own, so that rounds without such a list cost
nothing more. The host turns them into `TracedToken`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array
from service.engine.states import ListStates, Result, Widths
from service.engine.tree import ROOT, Trees
from service.engine.verify import Accepted
from service.model.transfer import sent
from service.types import Round, TracedToken

_GUESS, _REAL = 1, 2  # bits of what kind a place is
_NO_TREE = np.zeros((5, 0), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A list's round, on the host.

    Attributes:
        before: int64 [m], tokens that were certain when it began and not yet in the cache.
        forced_before: tokens so far that were forced.
        trees: int64 [5, n], token, parent, slot, row and kind of each place.
        path: int64 [p], accepted places of the tree, in their order.
        own: int64 [m], the target's own choice and what is forced after it.
        num_forced: tokens that the round made certain and that were forced, one for each separator.
    """

    before: Int64Array
    forced_before: int
    trees: Int64Array
    path: Int64Array
    own: Int64Array
    num_forced: int


class Tracer:
    """Keeps the latest round of each row.

    Args:
        num_rows: of everything.
        most_places: of any tree, the root included.
        widths: how much room a list has.
        device: where rounds are.
    """

    def __init__(self, num_rows: int, most_places: int, widths: Widths, device: torch.device) -> None:
        self._widths = [widths.pending, *[most_places] * 5, max(1, widths.guessed), widths.pending, 5]
        self._rounds = torch.zeros(num_rows, sum(self._widths), dtype=torch.int64, device=device)

    def put(self, states: ListStates, trees: Trees, done: Accepted) -> None:
        """Keep a round of the first rows; before the states move on."""
        kind = _REAL * trees.is_real.long() + _GUESS * trees.is_guess.long()
        numbers = states.num_pending, states.counts[:, 0], done.num_path, done.num_pending, done.num_forced
        parts = [
            states.pending,
            trees.token,
            trees.parent,
            trees.slot,
            trees.row,
            kind,
            done.path,
            done.pending,
        ]
        parts.append(torch.stack(numbers, dim=1))
        padded = [
            F.pad(part, (0, width - part.shape[1])) for part, width in zip(parts, self._widths, strict=True)
        ]
        self._rounds[: len(trees.token)] = torch.cat(padded, dim=1)

    def take(self, which: Sequence[int]) -> list[RoundRecord]:
        """The latest round of these rows; waits for it."""
        rounds = self._rounds[sent(which, self._rounds.device)].cpu().numpy()
        return [self._record(row) for row in rounds]

    def _record(self, row: Int64Array) -> RoundRecord:
        before, *trees, path, own, numbers = np.split(row, np.cumsum(self._widths)[:-1])
        num_before, forced_before, num_path, num_own, num_forced = numbers.tolist()
        return RoundRecord(
            before[:num_before], forced_before, np.stack(trees), path[:num_path], own[:num_own], num_forced
        )


class Trace:
    """The rounds of one list.

    Args:
        layout: how codes become tokens.
    """

    def __init__(self, layout: TokenLayout) -> None:
        self._layout = layout
        self._records: list[RoundRecord] = []

    def add(self, record: RoundRecord) -> None:
        """A round is over."""
        self._records.append(record)

    def rounds(self, written: Result, catalogue: Catalogue) -> tuple[Round, ...]:
        """What the prefill decided, then every round, once the list is finished."""
        rows = [item.row for item in written.items]
        if self._records:
            first, num_forced = self._records[0].before, self._records[0].forced_before
        else:
            # The list was certain with its first token, whatever that was; its last item has no separator.
            first, num_forced = (
                self._layout.item_tokens(catalogue.codes[rows]).flatten()[:-1],
                written.tally.num_forced,
            )
        story = _Story(self._layout, rows)
        return (story.told(_NO_TREE, [], first, num_forced), *map(story.told_of, self._records))


class _Story:
    """Tells a list's rounds in their order.

    Args:
        layout: how codes become tokens.
        rows: of the items of the whole list.
    """

    def __init__(self, layout: TokenLayout, rows: Sequence[int]) -> None:
        self._num_levels = layout.num_levels
        self._codes = [{token: code for code, token in enumerate(tokens)} for tokens in layout.code_tokens]
        self._rows = iter(rows)
        self._slot = 0  # of the next token that becomes certain

    def told_of(self, record: RoundRecord) -> Round:
        """The next round."""
        return self.told(record.trees, record.path.tolist(), record.own, record.num_forced)

    def told(self, trees: Int64Array, path: Sequence[int], own: Int64Array, num_forced: int) -> Round:
        """The next round, of what its record holds."""
        tokens: list[TracedToken] = []
        index_of = {ROOT: -1}
        for place, (token, parent, slot, row, kind) in enumerate(trees.T.tolist()):
            if place == ROOT or not kind & _REAL:
                continue
            index_of[place] = len(tokens)
            tokens.append(
                TracedToken(
                    slot=slot,
                    code=self._code(slot, token),
                    parent=index_of[parent],
                    is_drafted=True,
                    is_forced=not kind & _GUESS,
                    is_accepted=False,
                    row=None if row < 0 else row,
                )
            )
        last = -1
        for last in (index_of[place] for place in path):
            tokens[last] = replace(tokens[last], is_accepted=True, row=self._completed(tokens[last].slot))
            self._slot = (tokens[last].slot + 1) % (self._num_levels + 1)
        accepted = [token for token in tokens if token.is_accepted]
        own_slots = [(self._slot + i) % (self._num_levels + 1) for i in range(len(own))]
        is_choice = self._is_choice(accepted, own_slots, num_forced)
        for i, (slot, token) in enumerate(zip(own_slots, own.tolist(), strict=True)):
            tokens.append(
                TracedToken(
                    slot=slot,
                    code=self._code(slot, token),
                    parent=last,
                    is_drafted=False,
                    is_forced=i > 0 or not is_choice,
                    is_accepted=True,
                    row=self._completed(slot),
                )
            )
            last = len(tokens) - 1
            self._slot = (slot + 1) % (self._num_levels + 1)
        return tuple(tokens)

    def _is_choice(self, accepted: Sequence[TracedToken], own_slots: Sequence[int], num_forced: int) -> bool:
        """Whether the target had a choice where the path ended: then one token fewer was forced."""
        slots = [*(token.slot for token in accepted), *own_slots]
        num_separators = slots.count(self._num_levels - 1)  # a list's last item counts as if it had one
        num_codes = sum(slot < self._num_levels for slot in own_slots)
        of_path = sum(token.is_forced and token.slot < self._num_levels for token in accepted)
        return num_codes > 0 and num_forced == of_path + num_codes - 1 + num_separators

    def _completed(self, slot: int) -> int | None:
        """The item that a token which is certain completes."""
        return next(self._rows) if slot == self._num_levels - 1 else None

    def _code(self, slot: int, token: int) -> int | None:
        return self._codes[slot].get(token) if slot < self._num_levels else None
