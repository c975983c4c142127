"""Guessing ahead with the draft: pass by pass on the device, one copy out at the end.

    pass 0     reads the tokens since the last round, then what is pending; its last state makes the first guesses
    pass k     reads the tokens of the best branches of pass k - 1, each under its own ancestors alone

Only the last token of a branch is asked for a guess, so only it runs through the whole layer; of the others, keys and
values are all that is needed. What a pass of guesses writes into the draft's cache is scratch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Trie
from service.engine.branches import AnyToken, Branches, ByCode, ByItem, Extension, Lists
from service.engine.constraint import NOT_ALLOWED, TrieIndex
from service.engine.cursor import Cursor
from service.engine.kv_cache import KvCache, grain_of
from service.engine.tree import DEAD, Candidate, GuessTree, TreeShape, grow
from service.errors import InputError
from service.model.draft import Draft


@dataclass(frozen=True, slots=True)
class News:
    """What a list brings to a round.

    Attributes:
        tokens: verified since the last round, then pending.
        num_verified: of them.
        begin: tokens of prompt and list before the first of them.
        slot: that is filled after the last of them.
        num_wanted: items that the list still needs.
    """

    tokens: list[int]
    num_verified: int
    begin: int
    slot: int
    num_wanted: int

    @property
    def end(self) -> int:
        """Tokens of prompt and list up to the first guess."""
        return self.begin + len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Where the branches of a round keep their keys and values.

    Attributes:
        base: the first place of scratch, the same in all lists.
        context: bool [batch, 1, base], which places before it hold the list's own tokens.
        sees: bool [batch, n, m], which of the m branches read so far each of the n last ones stands under.
        real: bool [batch, m * s], which of their places hold a token.
    """

    base: int
    context: torch.Tensor
    sees: torch.Tensor
    real: torch.Tensor


class Drafter:
    """Owns the draft and its cache.

    Args:
        draft: in evaluation mode on its device.
        target: whose embedding and head the draft shares.
        catalogue: of the same bundle.
        layout: how codes become tokens.
        index: the trie on the device.
        code_heads: rows of the target's head for each level's codes, [L, C, hidden].
        shape: how much to guess.

    Raises:
        InputError: the shape does without the constraint, and the draft knows nothing but items.
    """

    def __init__(
        self,
        draft: Draft,
        target: PreTrainedModel,
        catalogue: Catalogue,
        layout: TokenLayout,
        index: TrieIndex,
        code_heads: torch.Tensor,
        shape: TreeShape,
    ) -> None:
        config = draft.config
        self.draft = draft
        self.shape = shape
        self.cache = KvCache(1, config.num_kv_heads, config.head_dim, target.device, target.dtype)
        self._trie, self._layout, self._index = catalogue.trie, layout, index
        self._embedding = target.get_input_embeddings()
        self.extension: Extension
        if not shape.constrained and config.guesses_items:
            raise InputError("a draft that guesses items needs the constraint")
        if not shape.constrained:
            self.extension = AnyToken(index, target.get_output_embeddings().weight, draft)
        elif config.guesses_items:
            self.extension = ByItem(index, code_heads, draft)
        else:
            self.extension = ByCode(index, code_heads, draft)
        self._grain = grain_of(target.device)
        self._least = math.log(shape.min_probability) if shape.min_probability else NOT_ALLOWED / 2

    def read_prompts(
        self, tokens: torch.Tensor, features: torch.Tensor, slots: torch.Tensor, rows: slice
    ) -> None:
        """Enter prompts into the cache.

        Args:
            tokens: int64 [batch, n], padded on the right.
            features: the target's, of the same tokens, [batch, n, hidden].
            slots: int64 [batch, n], filled after each token.
            rows: of the cache.
        """
        length = tokens.shape[1]
        self.cache.reserve(rows.stop, length)
        shifted = torch.nn.functional.pad(features[:, :-1], (0, 0, 1, 0))
        u = self.draft.inputs(shifted, self._embedding(tokens), slots, 0)
        positions = torch.arange(length, device=tokens.device).expand(len(tokens), -1)
        self.cache.begin_pass(rows, positions, length)
        self.cache.update(*self.draft.keys_and_values(u, positions), 0)

    def grow(
        self, news: Sequence[News], features: torch.Tensor, lists: Lists, cursors: Sequence[Cursor]
    ) -> list[GuessTree]:
        """The tree of each list.

        Args:
            news: what each brings.
            features: the target's, of the token before the first one of `tokens` and of the verified ones,
                [batch, at least 1 + num_verified, hidden].
            lists: their free rows and sampling, on the device.
            cursors: where they stand; the same free rows.
        """
        passes = self.passes(news, features, lists, cursors)
        return [
            grow(
                candidates if self.shape.constrained else self._placed(candidates, cursor),
                node=cursor.node,
                slot=cursor.depth,
                num_levels=self._layout.num_levels,
                num_items=new.num_wanted,
                num_guesses=self.shape.num_guesses,
            )
            for candidates, new, cursor in zip(self._to_host(passes), news, cursors, strict=True)
        ]

    def passes(
        self, news: Sequence[News], features: torch.Tensor, lists: Lists, cursors: Sequence[Cursor]
    ) -> list[Branches]:
        """The candidates of each pass, [batch, n], of which the first `width` were extended; arguments as `grow`."""
        branches = self._start(news, cursors, features.device)
        states, scratch = self._read_news(news, features)
        passes: list[Branches] = []
        # Each pass guesses a code at least; one past the last that a list still needs would be lost.
        per_item = 1 if self.draft.config.guesses_items else self._layout.tokens_per_item
        most_useful = per_item * max(new.num_wanted for new in news)
        for step in range(min(self.shape.num_passes, most_useful)):
            if step:
                branches = passes[-1].first(self.shape.width)
                states, scratch = self._read_branches(step, branches, states, scratch)
            passes.append(self.extension(step + 1, branches, states, lists, self.shape.num_candidates))
        return passes

    def _start(self, news: Sequence[News], cursors: Sequence[Cursor], device: torch.device) -> Branches:
        rows = [int(self._trie.item_begin[cursor.node]) for cursor in cursors]
        values = np.array([rows, [cursor.depth for cursor in cursors], [new.end for new in news]])
        row, depth, end = torch.as_tensor(values, device=device).unsqueeze(-1)
        return Branches.start(
            row, depth, end, most_written=self.shape.num_passes + 1, most_tokens=self.extension.most_tokens
        )

    def _read_news(self, news: Sequence[News], features: torch.Tensor) -> tuple[torch.Tensor, _Scratch]:
        """Pass 0: the state after each list's last token, [batch, 1, hidden]."""
        device, num_slots = features.device, self._layout.tokens_per_item
        longest = self._grain.tokens_for(max(len(new.tokens) for new in news))
        place = np.arange(longest)
        tokens = np.zeros((len(news), longest), dtype=np.int64)
        for i, new in enumerate(news):
            tokens[i, : len(new.tokens)] = new.tokens
        lengths, verified, begin, slot = (
            np.array([[value] for value in values])
            for values in zip(
                *((len(new.tokens), new.num_verified, new.begin, new.slot) for new in news), strict=True
            )
        )
        # Pending tokens have no features before them yet; all of them read the last one there is.
        source = np.minimum(place, verified)
        packed = np.stack([tokens, (slot - (lengths - 1 - place)) % num_slots, source, begin + place])
        token, slots, index, positions = torch.as_tensor(packed, device=device)
        last = torch.as_tensor(lengths - 1, device=device)
        is_pending = torch.as_tensor(place >= verified, device=device)
        u = self.draft.inputs(at(features, index), self._embedding(token), slots, 1, is_pending)
        base = self._grain.places_for(max(new.begin for new in news) + longest)
        self.cache.reserve(len(news), base + self.num_scratch_places)
        self.cache.begin_pass(slice(0, len(news)), positions, base)
        keys, values = self.cache.update(*self.draft.keys_and_values(u, positions), 0)
        end = torch.as_tensor(begin + lengths, device=device)
        context = (torch.arange(base, device=device) < end).unsqueeze(1)
        states = self.draft(at(u, last), positions.gather(1, last), keys, values, context)
        nothing = torch.zeros(len(news), 1, 0, dtype=torch.bool, device=device)
        return states, _Scratch(base, context, nothing, nothing[:, 0])

    def _read_branches(
        self, step: int, branches: Branches, states: torch.Tensor, scratch: _Scratch
    ) -> tuple[torch.Tensor, _Scratch]:
        """Pass `step`: the states after the branches' last tokens, [batch, n, hidden]."""
        batch, width, most = branches.tokens.shape
        device = states.device
        place = torch.arange(most, device=device)
        # Every token of a branch reads the guess of a feature that the branch grew from.
        features = at(states, branches.parent).unsqueeze(2).expand(-1, -1, most, -1)
        last = branches.length - 1
        after = last.unsqueeze(-1) - place
        slots = (branches.slot.unsqueeze(-1) - after) % self._layout.tokens_per_item
        u = self.draft.inputs(features, self._embedding(branches.tokens), slots, step + 1)
        positions = (branches.end - 1).unsqueeze(-1) - after
        real = after >= 0

        written = scratch.real.shape[1]
        places = scratch.base + written + torch.arange(width * most, device=device).expand(batch, -1)
        self.cache.begin_pass(slice(0, batch), places, scratch.base + written + width * most)
        flat = positions.flatten(1)
        keys, values = self.cache.update(*self.draft.keys_and_values(u.flatten(1, 2), flat), 0)

        # [batch, width, branches read so far]: what the parent stands under, and the branch itself.
        above = scratch.sees.gather(1, branches.parent.unsqueeze(-1).expand(-1, -1, scratch.sees.shape[2]))
        itself = torch.eye(width, dtype=torch.bool, device=device).expand(batch, -1, -1)
        sees = torch.cat((above, itself), dim=2)
        all_real = torch.cat((scratch.real, real.flatten(1)), dim=1)
        mask = torch.cat(
            (
                scratch.context.expand(-1, width, -1),
                sees.repeat_interleave(most, dim=2) & all_real.unsqueeze(1),
            ),
            dim=2,
        )
        index = last.clamp(min=0)[..., None, None].expand(-1, -1, 1, u.shape[-1])
        states = self.draft(
            u.gather(2, index).squeeze(2),
            positions.gather(2, last.clamp(min=0).unsqueeze(-1)).squeeze(2),
            keys,
            values,
            mask,
        )
        return states, _Scratch(scratch.base, scratch.context, sees, all_real)

    @property
    def num_scratch_places(self) -> int:
        """Places of the cache that the branches of a round take."""
        return (self.shape.num_passes - 1) * self.shape.width * self.extension.most_tokens

    def _to_host(self, passes: Sequence[Branches]) -> list[list[list[Candidate | None]]]:
        """The candidates of each list, pass by pass, in two copies."""
        counts = [found.parent.shape[1] for found in passes]
        whole = torch.cat(
            [
                torch.cat(
                    (
                        torch.stack((found.parent, found.row, found.depth, found.length), dim=-1),
                        self._index.path[found.row],
                        found.tokens,
                        found.forced,
                    ),
                    dim=-1,
                )
                for found in passes
            ],
            dim=1,
        ).tolist()
        log_probabilities = torch.cat([found.log_probability for found in passes], dim=1).tolist()
        ends = np.cumsum(counts).tolist()
        return [
            [
                [
                    self._candidate(*pair)
                    for pair in zip(rows[end - n : end], logs[end - n : end], strict=True)
                ]
                for n, end in zip(counts, ends, strict=True)
            ]
            for rows, logs in zip(whole, log_probabilities, strict=True)
        ]

    def _candidate(self, values: list[int], log_probability: float) -> Candidate | None:
        """A branch on the host; the unconstrained ones do not know their nodes yet."""
        if log_probability < self._least:
            return None
        parent, row, depth, length = values[:4]
        num_levels, most = self._layout.num_levels, self.extension.most_tokens
        tokens = 5 + num_levels
        forced = tokens + most
        if not self.shape.constrained:
            return Candidate(parent, values[tokens:forced], [DEAD], [False], -1, log_probability)
        complete = depth == 0
        end = num_levels if complete else depth
        begin = end + complete - length
        return Candidate(
            parent,
            tokens=values[tokens : tokens + length],
            nodes=values[5 + begin : 5 + end] + [Trie.ROOT] * complete,
            forced=[bool(value) for value in values[forced : forced + length]],
            row=row if complete else -1,
            log_probability=log_probability,
        )

    def _placed(self, passes: list[list[Candidate | None]], cursor: Cursor) -> list[list[Candidate | None]]:
        """Unconstrained candidates, each with the node of the trie that its token leads to, if there is one."""
        # Of each branch of the pass before: its node, the slot it fills next, and the items completed on the way.
        states: list[tuple[int, int, tuple[int, ...]]] = [(cursor.node, cursor.depth, ())]
        placed: list[list[Candidate | None]] = []
        for candidates in passes:
            next_states: list[tuple[int, int, tuple[int, ...]]] = []
            with_nodes: list[Candidate | None] = []
            for candidate in candidates:
                if candidate is None:
                    with_nodes.append(None)
                    next_states.append((DEAD, 0, ()))
                    continue
                node, slot, written = states[candidate.parent]
                node, row = self._follow(cursor, node, slot, candidate.tokens[0], written)
                with_nodes.append(candidate._replace(nodes=[node], row=row))
                next_slot = (slot + 1) % self._layout.tokens_per_item
                next_states.append((node, next_slot, written if row < 0 else (*written, row)))
            placed.append(with_nodes)
            states = next_states
        return placed

    def _follow(
        self, cursor: Cursor, node: int, slot: int, token: int, written: tuple[int, ...]
    ) -> tuple[int, int]:
        """The node after any token, DEAD where no item goes that way, and the row it completes, else -1."""
        if node == DEAD or slot == self._layout.num_levels:
            is_separator = node != DEAD and token == self._layout.separator
            return (Trie.ROOT if is_separator else DEAD), -1
        begin, end = self._trie.child_begin[node : node + 2].tolist()
        tokens = self._layout.table[slot, self._trie.code[begin:end]]
        [places] = np.nonzero(tokens == token)
        if not len(places):
            return DEAD, -1
        child = begin + int(places[0])
        if slot < self._layout.num_levels - 1:
            return child, -1
        rows = range(int(self._trie.item_begin[child]), int(self._trie.item_end[child]))
        row = next((row for row in rows if cursor.free[row] and row not in written), DEAD)
        return (child if row != DEAD else DEAD), row


def at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Vectors [batch, n, hidden] of [batch, m, hidden] at `index` [batch, n]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[2]))
