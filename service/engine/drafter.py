"""Guessing ahead with the draft, pass by pass.

    pass 0     reads the tokens since the last round, then what is pending; its last state makes the first guesses
    pass k     reads the tokens of the best branches of pass k - 1, each under its own ancestors alone

Only the last token of a branch is asked for a guess, so only it runs through the whole layer; of the others, keys and
values are all that is needed. What a pass of guesses writes into the draft's cache is scratch.

All tokens of a round are codes or separators, so what the draft's projection makes of their embeddings is computed
once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.catalog.layout import TokenLayout
from service.engine.branches import Branches, Lists
from service.engine.constraint import TrieIndex
from service.engine.extensions import AnyToken, ByCode, ByItem, Extension
from service.engine.kv_cache import KvCache
from service.engine.tree import Trees, TreeShape, grow
from service.errors import InputError
from service.model.draft import Draft
from service.model.kernels import Spans, mask_for, rms_norm
from service.model.layers import at, layer_of_draft


@dataclass(frozen=True, slots=True)
class News:
    """What lists bring to a round: t tokens, those of all lists side by side.

    Attributes:
        tokens: of each list those verified since the draft's last round, then pending ones, int64 [t].
        features: the target's, of the token before each; pending ones have the last there is, [t, hidden].
        slots: int64 [t], filled after each token.
        is_guess: bool [t], which are pending.
        places: int64 [t], of each in prompt and list.
        spans: whose tokens are whose; each list ends with the last of them.
        num_places: of the cache, before those of guesses; no list has more tokens.
        node: of the trie, after the last of them, int64 [batch].
        slot: that is filled next, int64 [batch].
        most_wanted: items that any of the lists still needs, at most.
    """

    tokens: torch.Tensor
    features: torch.Tensor
    slots: torch.Tensor
    is_guess: torch.Tensor
    places: torch.Tensor
    spans: Spans
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


@dataclass(frozen=True, slots=True)
class Placed:
    """What a pass reads.

    Attributes:
        u: the draft's inputs, [batch, n, hidden]; with spans those of all lists side by side, [t, hidden].
        positions: int64 [batch, n], or [t].
        last: int64 [batch, m], which of a list's tokens, with spans of all, are asked for a guess.
        mask: bool [batch, m, places], what these may look at.
        spans: whose tokens are whose; None: row i is list i's.
    """

    u: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    mask: torch.Tensor
    spans: Spans | None = None


class TokenInputs:
    """The draft's inputs for tokens of lists, which are few: the embedding's part of each is computed once.

    Args:
        draft: in evaluation mode.
        embedding: the target's, [vocabulary, hidden].
        index: of the catalogue whose items are written.

    Attributes:
        of_feature: weight of the features' part, [hidden, hidden].
        norm: weight of the features' norm, and what is added to a variance.
        of_token: the tokens' part, [tokens, hidden].
        row: int64 [vocabulary], which of these is each token's; any where a token is no code and no separator.
    """

    def __init__(self, draft: Draft, embedding: torch.Tensor, index: TrieIndex) -> None:
        config, width = draft.config, draft.config.hidden_size
        self.of_feature = draft.project.weight[:, :width].contiguous()
        self.norm = draft.feature_norm.weight.detach(), config.rms_norm_eps
        tokens = torch.unique(torch.cat((index.token_of.flatten(), index.item_tokens[0, -1:])))
        self.row = torch.zeros(len(embedding), dtype=torch.int64, device=embedding.device)
        self.row[tokens] = torch.arange(len(tokens), device=embedding.device)
        self.of_token = F.linear(draft.embedding_norm(embedding[tokens]), draft.project.weight[:, width:])
        self._position = draft.position

    def of_features(self, features: torch.Tensor) -> torch.Tensor:
        """The part of features [..., hidden] in what the draft reads."""
        return F.linear(rms_norm(features.contiguous(), *self.norm), self.of_feature)

    def inputs(
        self,
        told: torch.Tensor,
        tokens: torch.Tensor,
        slot: torch.Tensor,
        step: int,
        is_guess: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `Draft.inputs`, given what `of_features` made of the features, [..., hidden]."""
        placed: torch.Tensor = self._position(told + self.of_token[self.row[tokens]], slot, step, is_guess)
        return placed


class Drafter:
    """Owns the draft and its cache.

    Args:
        draft: in evaluation mode on its device.
        target: whose embedding and head the draft shares.
        layout: how codes become tokens.
        index: the trie on the device.
        code_heads: rows of the target's head for each level's codes, [L, C, hidden].
        shapes: how much it may be asked to guess; all constrained, or none.

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
    ) -> None:
        config = draft.config
        self.draft = draft
        self._shapes = shapes
        self.cache = KvCache(1, config.num_kv_heads, config.head_dim, target.device, target.dtype)
        self._layout = layout
        self._embedding = target.get_input_embeddings()
        self._layer, self.tokens = layer_of_draft(draft), TokenInputs(draft, self._embedding.weight, index)
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

    def read_prompts(
        self,
        tokens: torch.Tensor,
        features: torch.Tensor,
        slots: torch.Tensor,
        places: torch.Tensor,
        spans: Spans,
        rows: slice,
        num_places: int,
    ) -> None:
        """Enter prompts, or what follows the part of them that it holds already, into the cache.

        Args:
            tokens: int64 [t].
            features: the target's, of the token before each, [t, hidden]; 0 before the first.
            slots: int64 [t], filled after each token.
            places: int64 [t], of each in its prompt.
            spans: whose tokens are whose.
            rows: of the cache.
            num_places: of the cache that they reach to.
        """
        self.cache.reserve(rows.stop, num_places)
        u = self.draft.inputs(features, self._embedding(tokens), slots, 0)
        self.cache.begin_pass(rows, places, num_places)
        self._layer.enter(u, places, self.cache.part(0), spans)

    def grow(self, shape: TreeShape, news: News, lists: Lists) -> Trees:
        """The tree of each list.

        Args:
            shape: how much to guess.
            news: what the lists bring.
            lists: their free rows and sampling.
        """
        passes = self.passes(shape, news, lists)
        least, num_slots = shape.least_log_probability, self._layout.tokens_per_item
        return grow(passes, (news.node, news.slot), shape.num_places, least, num_slots)

    def passes(self, shape: TreeShape, news: News, lists: Lists) -> list[Branches]:
        """The candidates of each pass, [batch, n], of which the first `width` were extended; arguments as `grow`."""
        branches = Branches.start(
            *(values.unsqueeze(1) for values in (news.node, news.slot, news.spans.ends)),
            most_written=shape.num_passes + 1,
            most_tokens=self.extension.most_tokens,
        )
        states, scratch = self._read_news(news)
        passes: list[Branches] = []
        # Each pass guesses a code at least; one past the last that a list still needs would be lost.
        per_item = 1 if self.draft.config.guesses_items else self._layout.tokens_per_item
        for step in range(min(shape.num_passes, per_item * news.most_wanted)):
            if step:
                branches = passes[-1].first(shape.width)
                states, scratch = self._read_branches(step, branches, states, scratch)
            passes.append(self.extension(step + 1, branches, states, lists, shape.num_candidates))
        return passes

    def _read_news(self, news: News) -> tuple[torch.Tensor, _Scratch]:
        """Pass 0: the state after each list's last token, [batch, 1, hidden]."""
        batch, device = len(news.node), news.tokens.device
        told = self.tokens.of_features(news.features)
        u = self.tokens.inputs(told, news.tokens, news.slots, 1, news.is_guess)
        last = (news.spans.begin[1:, None] - 1).clamp(min=0)
        # What is nobody's may have no token, but something to look at it has.
        end = news.spans.ends.clamp(min=1).unsqueeze(1)
        context = (torch.arange(news.num_places, device=device) < end).unsqueeze(1)
        self.cache.reserve(batch, news.num_places + self.num_scratch_places)
        self.cache.begin_pass(slice(0, batch), news.places, news.num_places)
        nothing = torch.zeros(batch, 1, 0, dtype=torch.bool, device=device)
        state = self.read(Placed(u, news.places, last, context, news.spans))
        return state, _Scratch(news.num_places, context, nothing, nothing[:, 0])

    def _read_branches(
        self, step: int, branches: Branches, states: torch.Tensor, scratch: _Scratch
    ) -> tuple[torch.Tensor, _Scratch]:
        """Pass `step`: the states after the branches' last tokens, [batch, n, hidden]."""
        batch, width, most = branches.tokens.shape
        written, end = scratch.real.shape[1], scratch.real.shape[1] + width * most
        placed, sees, real = self._branches_placed(step, branches, self.tokens.of_features(states), scratch)
        places = scratch.base + torch.arange(written, end, device=states.device).repeat(batch, 1)
        self.cache.begin_pass(slice(0, batch), places, scratch.base + end)
        return self.read(placed), _Scratch(scratch.base, scratch.context, sees, real)

    def read(self, placed: Placed) -> torch.Tensor:
        """norm(g) of the tokens that are asked for, [batch, m, hidden], in a pass of the cache that has begun."""
        config = self.draft.config
        mask = mask_for(placed.mask, config.num_heads, config.num_kv_heads, placed.u.dtype)
        g = self._layer.read(
            placed.u, placed.positions, self.cache.part(0), mask, last=placed.last, spans=placed.spans
        )
        return rms_norm(g, self.draft.norm.weight, config.rms_norm_eps)

    def _branches_placed(
        self, step: int, branches: Branches, told: torch.Tensor, scratch: _Scratch
    ) -> tuple[Placed, torch.Tensor, torch.Tensor]:
        """Branches as inputs; and which branches each one stands under, and which of their places hold a token."""
        batch, width, most = branches.tokens.shape
        place = torch.arange(most, device=told.device)
        last = branches.length - 1
        after = last.unsqueeze(-1) - place
        slots = (branches.slot.unsqueeze(-1) - after) % self._layout.tokens_per_item
        # Every token of a branch reads the guess of a feature that the branch grew from.
        of_parent = at(told, branches.parent).repeat_interleave(most, dim=1)
        u = self.tokens.inputs(of_parent, branches.tokens.flatten(1), slots.flatten(1), step + 1, None)
        positions = (branches.end - 1).unsqueeze(-1) - after
        # [batch, width, branches read so far]: what the parent stands under, and the branch itself.
        above = scratch.sees.gather(1, branches.parent.unsqueeze(-1).expand(-1, -1, scratch.sees.shape[2]))
        itself = torch.eye(width, dtype=torch.bool, device=told.device).expand(batch, -1, -1)
        sees = torch.cat((above, itself), dim=2)
        real = torch.cat((scratch.real, (after >= 0).flatten(1)), dim=1)
        mask = torch.cat(
            (
                scratch.context.expand(-1, width, -1),
                sees.repeat_interleave(most, dim=2) & real.unsqueeze(1),
            ),
            dim=2,
        )
        last = torch.arange(width, device=told.device) * most + last.clamp(min=0)
        return Placed(u, positions.flatten(1), last, mask), sees, real

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
