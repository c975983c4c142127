"""Guessing ahead with the draft, pass by pass.

    pass 0     reads the tokens since the last round, then what is pending; its last state makes the first guesses
    pass k     reads the tokens of the best branches of pass k - 1, each under its own ancestors alone

Only the last token of a branch is asked for a guess, so only it runs through the whole layer; of the others, keys and
values are all that is needed. What a pass of guesses writes into the draft's cache is scratch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from service.catalog.layout import TokenLayout
from service.engine.branches import Branches, Lists
from service.engine.constraint import NOT_ALLOWED, TrieIndex
from service.engine.extensions import AnyToken, ByCode, ByItem, Extension
from service.engine.fusing import Fuse
from service.engine.kv_cache import KvCache
from service.engine.tree import Trees, TreeShape, grow
from service.errors import InputError
from service.model.draft import Draft


@dataclass(frozen=True, slots=True)
class News:
    """What lists bring to a round; n tokens, of which a list may have fewer.

    Attributes:
        tokens: verified since the draft's last round, then pending, then padding, int64 [batch, n].
        features: the target's, of the token before each; pending ones have the last there is, [batch, n, hidden].
        num_verified: of them, int64 [batch].
        num_tokens: both, int64 [batch].
        begin: tokens of prompt and list before the first of them, int64 [batch].
        num_places: of the cache, before those of guesses; no list has more tokens.
        node: of the trie, after the last of them, int64 [batch].
        slot: that is filled next, int64 [batch].
        most_wanted: items that any of the lists still needs, at most.
    """

    tokens: torch.Tensor
    features: torch.Tensor
    num_verified: torch.Tensor
    num_tokens: torch.Tensor
    begin: torch.Tensor
    num_places: int
    node: torch.Tensor
    slot: torch.Tensor
    most_wanted: int


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
        layout: how codes become tokens.
        index: the trie on the device.
        code_heads: rows of the target's head for each level's codes, [L, C, hidden].
        shapes: how much it may be asked to guess; all constrained, or none.
        fuse: makes its passes faster.

    Raises:
        InputError: they do without the constraint, and the draft knows nothing but items.
    """

    def __init__(
        self,
        draft: Draft,
        target: PreTrainedModel,
        layout: TokenLayout,
        index: TrieIndex,
        code_heads: torch.Tensor,
        shapes: Sequence[TreeShape],
        fuse: Fuse,
    ) -> None:
        config = draft.config
        self.draft = draft
        self._shapes = shapes
        self.cache = KvCache(1, config.num_kv_heads, config.head_dim, target.device, target.dtype)
        self._layout = layout
        self._embedding = target.get_input_embeddings()
        self.extension: Extension
        is_constrained = shapes[0].constrained
        if not is_constrained and config.guesses_items:
            raise InputError("a draft that guesses items needs the constraint")
        if not is_constrained:
            self.extension = AnyToken(index, target.get_output_embeddings().weight, draft)
        elif config.guesses_items:
            self.extension = ByItem(index, code_heads, draft)
        else:
            self.extension = ByCode(index, code_heads, draft)
        # Functions, not methods of this: an object that holds its own method, and its cache, is not freed at once.
        self._extend: Callable[..., Branches] = fuse(type(self.extension).__call__)
        self._join = fuse(grow)
        self._read_first, self._read_next = fuse(Drafter._read_news), fuse(Drafter._read_branches)

    def read_prompts(
        self,
        tokens: torch.Tensor,
        features: torch.Tensor,
        slots: torch.Tensor,
        rows: slice,
        positions: torch.Tensor,
        num_places: int,
    ) -> None:
        """Enter prompts, or what follows the part of them that it holds already, into the cache.

        Args:
            tokens: int64 [batch, n], padded on the right.
            features: the target's, of the token before each, [batch, n, hidden]; 0 before the first.
            slots: int64 [batch, n], filled after each token.
            rows: of the cache.
            positions: int64 [batch, n].
            num_places: of the cache that they reach to.
        """
        self.cache.reserve(rows.stop, num_places)
        u = self.draft.inputs(features, self._embedding(tokens), slots, 0)
        self.cache.begin_pass(rows, positions, num_places)
        self.cache.update(*self.draft.keys_and_values(u, positions), 0)

    def grow(self, shape: TreeShape, news: News, lists: Lists) -> Trees:
        """The tree of each list.

        Args:
            shape: how much to guess.
            news: what the lists bring.
            lists: their free rows and sampling.
        """
        return self._join(
            self.passes(shape, news, lists),
            root=(news.node, news.slot),
            num_places=shape.num_places,
            least_log_probability=math.log(shape.min_probability)
            if shape.min_probability
            else NOT_ALLOWED / 2,
            num_slots=self._layout.tokens_per_item,
        )

    def passes(self, shape: TreeShape, news: News, lists: Lists) -> list[Branches]:
        """The candidates of each pass, [batch, n], of which the first `width` were extended; arguments as `grow`."""
        end = news.begin + news.num_tokens
        branches = Branches.start(
            *(values.unsqueeze(1) for values in (news.node, news.slot, end)),
            most_written=shape.num_passes + 1,
            most_tokens=self.extension.most_tokens,
        )
        states, scratch = self._read_first(self, news)
        passes: list[Branches] = []
        # Each pass guesses a code at least; one past the last that a list still needs would be lost.
        per_item = 1 if self.draft.config.guesses_items else self._layout.tokens_per_item
        for step in range(min(shape.num_passes, per_item * news.most_wanted)):
            if step:
                branches = passes[-1].first(shape.width)
                states, scratch = self._read_next(self, step, branches, states, scratch)
            passes.append(
                self._extend(self.extension, step + 1, branches, states, lists, shape.num_candidates)
            )
        return passes

    def _read_news(self, news: News) -> tuple[torch.Tensor, _Scratch]:
        """Pass 0: the state after each list's last token, [batch, 1, hidden]."""
        batch, longest = news.tokens.shape
        device, num_slots = news.tokens.device, self._layout.tokens_per_item
        place = torch.arange(longest, device=device).expand(batch, -1)
        verified, last = news.num_verified.unsqueeze(1), (news.num_tokens - 1).clamp(min=0).unsqueeze(1)
        begin = news.begin.unsqueeze(1)
        slots = (news.slot.unsqueeze(1) - (last - place)) % num_slots
        u = self.draft.inputs(news.features, self._embedding(news.tokens), slots, 1, place >= verified)
        positions = begin + place
        base = news.num_places
        self.cache.reserve(batch, base + self.num_scratch_places)
        self.cache.begin_pass(slice(0, batch), positions, base)
        keys, values = self.cache.update(*self.draft.keys_and_values(u, positions), 0)
        context = (torch.arange(base, device=device) < begin + last + 1).unsqueeze(1)
        states = self.draft(at(u, last), positions.gather(1, last), keys, values, context)
        nothing = torch.zeros(batch, 1, 0, dtype=torch.bool, device=device)
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
    def most_places(self) -> int:
        """Tokens of a tree, at most."""
        most = self.extension.most_tokens
        return max(min(s.num_places, s.num_candidates * s.num_passes * most) for s in self._shapes)

    @property
    def most_depth(self) -> int:
        """Tokens of a path, at most."""
        return self.most_passes * self.extension.most_tokens

    @property
    def most_passes(self) -> int:
        """Passes of a round, at most."""
        return max(shape.num_passes for shape in self._shapes)

    @property
    def most_guesses(self) -> int:
        """Guesses on a path, at most: tokens of it that are not forced."""
        return self.most_passes * (self._layout.num_levels if self.draft.config.guesses_items else 1)

    @property
    def num_scratch_places(self) -> int:
        """Places of the cache that the branches of a round take."""
        return (
            max((shape.num_passes - 1) * shape.width for shape in self._shapes) * self.extension.most_tokens
        )


def at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Vectors [batch, n, hidden] of [batch, m, hidden] at `index` [batch, n]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[2]))
