"""One list being written: where it stands, what it has, and what its rounds were worth."""

import time
from collections.abc import Sequence

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.cursor import Cursor
from service.engine.tree import ROOT, GuessTree
from service.types import DecodedItem, DecodedList, DecodeRequest, SpeculationCounts


class Flight:
    """A list in flight.

    Args:
        request: what is asked for.
        catalogue: all items.
        layout: how codes become tokens.

    Attributes:
        items: written so far.
        cursor: where the list stands in the trie.
        pending: tokens that are certain and not yet in the target's cache; filled by `accept`.
        verified: tokens that the last pass put into it; filled by `accept`.
        length: tokens in the target's cache; filled by the engine.
        last_feature: the place of the last token's feature among those the engine keeps; filled by the engine.
        new_rows: of the items completed since the engine last looked; emptied by it.
    """

    def __init__(self, request: DecodeRequest, catalogue: Catalogue, layout: TokenLayout) -> None:
        self.request = request
        self.items: list[DecodedItem] = []
        self.cursor = Cursor(catalogue, request.excluded)
        self.pending: list[int] = []
        self.verified: list[int] = []
        self.length = self.last_feature = 0
        self.new_rows: list[int] = []
        self._layout = layout
        self._node_code = catalogue.trie.code
        self._began = time.perf_counter()
        self._prefill_seconds = self._decoding_since = 0.0
        self._score = 1.0  # of the item being written
        self._num_tokens = self._num_forced = 0
        self._num_rounds = self._num_round_tokens = self._num_round_forced = 0
        self._num_drafts = self._num_draft_tokens = 0
        self._by_step: list[int] = []
        self._by_slot = [0] * layout.num_levels

    @property
    def is_finished(self) -> bool:
        """Nothing is left to write, or nothing is allowed any more."""
        return len(self.items) == self.request.num_items or self.cursor.num_free == 0

    @property
    def num_wanted(self) -> int:
        """Items that are still to be written."""
        return self.request.num_items - len(self.items)

    def start(self, node: int, probability: float) -> None:
        """Take the first code, which the prefill decided, and all that is forced after it."""
        self._advance(GuessTree(), [node], [probability])
        self._decoding_since = time.perf_counter()
        self._prefill_seconds = self._decoding_since - self._began

    def accept(self, tree: GuessTree, nodes: Sequence[int], probabilities: Sequence[float]) -> list[int]:
        """Follow the target through a tree; the places of the tokens accepted, in their order.

        What the target chose where the guesses end, and all that is forced after it, is pending then.

        Args:
            tree: that was verified.
            nodes: of the trie, the target's choice after each place of the tree.
            probabilities: of those choices.
        """
        tokens, forced = self._num_tokens, self._num_forced
        read = self.pending
        path = self._advance(tree, nodes, probabilities)
        self.verified = read + [tree.token[place] for place in path]
        self._num_rounds += 1
        self._num_round_tokens += self._num_tokens - tokens
        self._num_round_forced += self._num_forced - forced
        self._num_drafts += len(tree) > 1
        self._num_draft_tokens += tree.num_guesses
        for place in path:
            if not tree.forced[place]:
                self._count_accepted(tree.step[place], tree.slot[place])
        return path

    def result(self) -> DecodedList:
        """The list, once it is finished."""
        return DecodedList(
            request_id=self.request.request_id,
            items=tuple(self.items),
            exhausted=len(self.items) < self.request.num_items,
            num_rounds=self._num_rounds,
            num_forced_tokens=self._num_forced,
            prefill_seconds=self._prefill_seconds,
            decode_seconds=time.perf_counter() - self._decoding_since,
            num_round_tokens=self._num_round_tokens,
            num_round_forced_tokens=self._num_round_forced,
            speculation=SpeculationCounts(
                num_drafts=self._num_drafts,
                num_draft_tokens=self._num_draft_tokens,
                accepted_per_position=tuple(self._by_step),
                accepted_per_slot=tuple(self._by_slot),
            ),
        )

    def _advance(self, tree: GuessTree, nodes: Sequence[int], probabilities: Sequence[float]) -> list[int]:
        self.pending = []
        path: list[int] = []
        place: int | None = ROOT
        while not self.is_finished:
            node, probability = self.cursor.forced(), 1.0
            if node is not None:
                self._num_forced += 1
            elif place is not None:
                node, probability = nodes[place], probabilities[place]
            else:
                break
            level = self.cursor.depth
            row = self.cursor.append(node)
            self._score *= probability
            self._num_tokens += 1
            place = self._follow(tree, place, self._layout.code_tokens[level][self._node_code[node]], path)
            if row is not None:
                self._complete(row)
                if not self.is_finished:
                    place = self._follow(tree, place, self._layout.separator, path)
        return path

    def _follow(self, tree: GuessTree, place: int | None, token: int, path: list[int]) -> int | None:
        """The place of a token that is certain now; None, and the token is pending, where nobody guessed it."""
        child = None if place is None else tree.child(place, token)
        if child is None:
            self.pending.append(token)
        else:
            path.append(child)
        return child

    def _complete(self, row: int) -> None:
        """An item is written, and so is its separator, which is forced."""
        self.items.append(DecodedItem(row, self._score))
        self.new_rows.append(row)
        self._score = 1.0
        self._num_forced += 1
        self._num_tokens += 1

    def _count_accepted(self, step: int, slot: int) -> None:
        self._by_step += [0] * (step - len(self._by_step))
        self._by_step[step - 1] += 1
        if slot < len(self._by_slot):  # an unconstrained draft guesses separators too
            self._by_slot[slot] += 1
