"""The draft: one decoder layer in EAGLE's manner that guesses ahead of the target, and knows where it stands.

EAGLE (arXiv 2401.15077) drafts with the target's own features; the norms, and the feeding back, are EAGLE-3's (arXiv
2503.01840). Position i of the draft reads

    u_i = W [norm(f_{i-1}) ; norm(e(x_i))] + position

f_{i-1} the target's feature of the token before, e(x_i) its embedding of the token that followed. With `features:
last`, f is the target's last hidden state as its head reads it, after the target's own norm; with `fused`, a projection
of its low, middle and last ones. A decoder layer, whose residual starts at u_i, makes g_i of it. norm(g_i) is what the
heads read, and what takes the place of f_i from a guess on, in training as in service. Nothing asks g to be like f:
EAGLE-1's regression of features is absent, as in EAGLE-3.

All tokens of a branch, which are a decision and the tokens forced after it or the rest of an item, read one feature,
that of the pass that guessed them: there is no later one yet.

PAD-Rec (arXiv 2604.27747) adds what a plain draft does not know,

    position = alpha * item_slot[s_i] + gate(u) * step[k],     gate(u) = sigmoid(w . u + b)

u without it, s_i the slot that is filled next, alpha a learned scalar, k the pass of the draft, from 1; what is certain
and has its feature adds no step. Where a pass guesses one code, k is the paper's step. Either term can be switched off.

The token head guesses the next code: softmax over the codes that the trie allows, of E . norm(g), E the target's own
head. The `slots` variant guesses all codes that are left of an item at once. A slot head B_l scores the codes of each
level l; only real items are candidates, so the scores are summed along each item's path in the trie,

    score(item) = (P norm(g)) . v_item,     v_item = sum_l B_l E[code_l(item)] + r_item

with r_item a learned rest, which starts at 0. The sum is linear in the codes, so v_item is computed once, and a pass
scores the whole catalogue in one matrix product.

Two cross-entropies are summed. One is soft: the scores shall be the target's log-probabilities of what is allowed. But
what a greedy target writes is surer than its probabilities, so the other is that of what it wrote, for scores times a
learned *sharpness*, about 2 at first; a tree for a greedy list grows by these. A plain draft has one sharpness; `slots`
has one for each pass and each slot that it starts from.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig

from service.errors import InputError, first_line
from service.files import write_json
from service.model.attention import for_groups, grouped_attention, rotated
from service.model.copies import for_inference
from service.model.draft_config import DraftConfig

CONFIG, WEIGHTS = "config.json", "draft.safetensors"
KeysAndValues = tuple[torch.Tensor, torch.Tensor]


class PositionModule(nn.Module):
    """alpha * item_slot[slot] + gate(u) * step[k]: where in an item, and how far ahead."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.knows_slot = config.variant in ("item", "both", "slots")
        self.knows_step = config.variant in ("step", "both", "slots")
        if self.knows_slot:
            self.alpha = nn.Parameter(torch.tensor(0.1))
            self.item_slot = nn.Parameter(torch.randn(config.num_levels + 1, width) * width**-0.5)
        if self.knows_step:
            self.step = nn.Parameter(torch.randn(config.max_steps, width) * width**-0.5)
            self.gate = nn.Linear(width, 1)

    def forward(
        self, u: torch.Tensor, slot: torch.Tensor, step: int, is_guess: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`u` [..., hidden] with its position added, for the slots [...] filled next.

        Args:
            u: the draft's input.
            slot: 0 to L.
            step: of the guess, from 1; 0 for context, which is no guess. Beyond the trained steps the last one counts.
            is_guess: bool [...], False where an input is context after all; None: `step` holds for all.
        """
        placed = u
        if self.knows_slot:
            placed = placed + F.embedding(slot, self.alpha * self.item_slot)
        if self.knows_step and step:
            gate = torch.sigmoid(self.gate(u))
            if is_guess is not None:
                gate = gate * is_guess.unsqueeze(-1)
            placed = torch.addcmul(placed, gate, self.step[min(step, len(self.step)) - 1])
        return placed


class _Norm(nn.RMSNorm):
    """In the type of its weight, whatever autocast made of the input: torch has no fast kernel for a mixture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.type_as(self.weight))


class Draft(nn.Module):
    """One decoder layer over features and embeddings; see the module. The target's embedding and head are arguments.

    Args:
        config: its shape.
    """

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.hidden_size, config.num_kv_heads * config.head_dim
        q_width = config.num_heads * config.head_dim

        def norm() -> _Norm:
            return _Norm(width, eps=config.rms_norm_eps)

        if config.features == "fused":
            self.fuse = nn.Linear(3 * width, width, bias=False)
        self.embedding_norm, self.feature_norm = norm(), norm()
        self.project = nn.Linear(2 * width, width, bias=False)
        self.position = PositionModule(config)
        self.attention_norm, self.mlp_norm, self.norm = norm(), norm(), norm()
        self.q_proj = nn.Linear(width, q_width, bias=False)
        self.kv_proj = nn.Linear(width, 2 * kv_width, bias=False)
        self.o_proj = nn.Linear(q_width, width, bias=False)
        self.gate_up_proj = nn.Linear(width, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, width, bias=False)
        by_position = (config.max_steps, config.num_levels) if config.guesses_items else (1, 1)
        self.log_sharpness = nn.Parameter(torch.full(by_position, 0.7))
        if config.guesses_items:
            self.item_query = nn.Linear(width, config.item_rank, bias=False)
            # At first every slot head is the target's own, seen through the same projection as the state.
            nn.init.orthogonal_(self.item_query.weight)
            own = self.item_query.weight.detach().T
            self.slot_heads = nn.Parameter(own.repeat(config.num_levels, 1, 1))
            self.item_rest = nn.Parameter(torch.zeros(config.num_items, config.item_rank))
        frequencies = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def features_of(self, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """The features f [..., hidden] from the target's hidden states: the last alone, or low, middle and last."""
        if self.config.features == "last":
            return hidden_states[-1]
        fused: torch.Tensor = self.fuse(torch.cat(tuple(hidden_states), dim=-1))
        return fused

    def inputs(
        self,
        features: torch.Tensor,
        embeddings: torch.Tensor,
        slot: torch.Tensor,
        step: int,
        is_guess: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The input u [..., hidden], position module included.

        Args:
            features: f_{i-1}, or g of the guess before, [..., hidden].
            embeddings: the target's, of the tokens x_i, [..., hidden].
            slot: int64 [...], the slot that is filled after x_i.
            step: 0 for context, else the step of the guess that follows.
            is_guess: bool [...], where `step` holds; None: everywhere.
        """
        joined = torch.cat((self.feature_norm(features), self.embedding_norm(embeddings)), dim=-1)
        u = self.project(joined)
        placed: torch.Tensor = self.position(u, slot, step, is_guess)
        return placed

    def keys_and_values(self, u: torch.Tensor, positions: torch.Tensor) -> KeysAndValues:
        """Keys and values, each [batch, kv_heads, n, head_dim], of inputs [batch, n, hidden] at positions [batch, n].

        Context that is only attended to needs nothing else of the layer.
        """
        config = self.config
        joined: torch.Tensor = self.kv_proj(self.attention_norm(u))
        heads = joined.view(*u.shape[:2], 2, config.num_kv_heads, config.head_dim).permute(2, 0, 3, 1, 4)
        return self._rotate(heads[0], positions), heads[1]

    def forward(
        self,
        u: torch.Tensor,
        positions: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """norm(g), [batch, n, hidden]: what the heads read, and the next guess's features.

        Args:
            u: inputs, [batch, n, hidden].
            positions: int64 [batch, n].
            keys: of all that may be attended to, u's own included, [batch, kv_heads, m, head_dim].
            values: likewise.
            mask: bool [batch, n, m], True where an input may look.
        """
        grouped = for_groups(mask.unsqueeze(1), self.config.num_heads, self.config.num_kv_heads)
        attended = grouped_attention(self._queries(u, positions), keys, values, grouped)
        return self._after_attention(u, attended)

    def forward_shared(
        self,
        u: torch.Tensor,
        positions: torch.Tensor,
        shared: KeysAndValues,
        own: KeysAndValues,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """As `forward`, [batch * copies, n, hidden], where the copies of a list share its context.

        For training: the keys of a context that eight anchors guess from are not held eight times.

        Args:
            u: inputs, [batch * copies, n, hidden].
            positions: int64 [batch * copies, n].
            shared: keys and values that all copies of a list may attend to, each [batch, kv_heads, m, head_dim].
            own: those of a copy alone, each [batch * copies, kv_heads, k, head_dim].
            mask: bool [batch * copies, n, m + k], True where an input may look, which is somewhere.
        """
        config = self.config
        (batch, groups, num_shared, width), n = shared[0].shape, u.shape[1]
        repeats = config.num_heads // groups

        def by_list(heads: torch.Tensor) -> torch.Tensor:
            """[batch * copies, groups * x, y, width] to [batch, groups, copies, x * y, width]."""
            return heads.reshape(
                batch, -1, groups, heads.shape[1] // groups * heads.shape[2], width
            ).transpose(1, 2)

        queries = by_list(self._queries(u, positions)) * width**-0.5
        own_keys, own_values = map(by_list, own)
        scores = torch.cat(
            (
                (queries.flatten(2, 3) @ shared[0].mT).view(*queries.shape[:4], num_shared),
                queries @ own_keys.mT,
            ),
            dim=-1,
        )
        may_look = (
            mask.view(batch, 1, -1, 1, n, mask.shape[2]).expand(-1, -1, -1, repeats, -1, -1).flatten(3, 4)
        )
        weights = scores.masked_fill(~may_look, -torch.inf).softmax(dim=-1).to(shared[1].dtype)
        attended = (weights[..., :num_shared].flatten(2, 3) @ shared[1]).view_as(queries)
        attended = (attended + weights[..., num_shared:] @ own_values).transpose(1, 2)
        return self._after_attention(u, attended.reshape(len(u), config.num_heads, n, width))

    def _queries(self, u: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[batch, heads, n, head_dim] of inputs [batch, n, hidden]."""
        queries = self.q_proj(self.attention_norm(u)).unflatten(
            -1, (self.config.num_heads, self.config.head_dim)
        )
        return self._rotate(queries.transpose(1, 2), positions)

    def _after_attention(self, u: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """norm(g), [batch, n, hidden], from inputs and what their heads found, [batch, heads, n, head_dim]."""
        g = u + self.o_proj(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up_proj(self.mlp_norm(g)).chunk(2, dim=-1)
        normed: torch.Tensor = self.norm(g + self.down_proj(F.silu(gate) * up))
        return normed

    def sharpness(self, step: int | torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        """What to multiply scores with for a greedy list, [...].

        Args:
            step: of the guess, from 1; or of each its own, int64 [...].
            slot: int64 [...], the slot that the guess begins with, 0 to L - 1.
        """
        steps, slots = self.log_sharpness.shape
        at_step = min(step, steps) if isinstance(step, int) else step.clamp(max=steps)
        return self.log_sharpness[at_step - 1, slot.clamp(max=slots - 1)].exp()

    def log_sharpness_of(self, step: int) -> torch.Tensor:
        """Logarithms of what to multiply scores with, by the slot that a guess begins with, or the last of them."""
        return self.log_sharpness[min(step, len(self.log_sharpness)) - 1]

    def item_vectors(self, code_embeddings: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """v_item of all items, [num_items, rank].

        Args:
            code_embeddings: rows of the target's head for each level's codes, [L, num_codes, hidden].
            codes: int64 [num_items, L].
        """
        by_code = torch.einsum("lch,lhr->lcr", code_embeddings, self.slot_heads)
        vectors: torch.Tensor = self.item_rest
        for level in range(self.config.num_levels):
            # Unlike an index's, an embedding's gradient is the same every time, on a CPU.
            vectors = vectors + F.embedding(codes[:, level], by_code[level])
        return vectors

    def item_scores(self, normed: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Scores of all items, float32 [..., num_items], for states norm(g) [..., hidden]."""
        scores: torch.Tensor = (self.item_query(normed) @ vectors.T).float()
        return scores

    def _rotate(self, heads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding of [batch, heads, n, head_dim] at positions [batch, n]."""
        angles = positions.unsqueeze(1).unsqueeze(-1) * self.frequencies
        cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
        return rotated(heads, cos, sin)

    def num_parameters(self) -> int:
        """All of its own; the target's embedding and head are not."""
        return sum(parameter.numel() for parameter in self.parameters())

    def num_position_parameters(self) -> int:
        """Those of the position module."""
        return sum(parameter.numel() for parameter in self.position.parameters())


def save_draft(draft: Draft, folder: Path) -> None:
    """Write `config.json` and `draft.safetensors` into an existing folder."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in draft.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, asdict(draft.config))


def load_draft(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Draft:
    """Load a draft for inference.

    Raises:
        InputError: the folder holds no draft, or one that cannot be read.
    """
    try:
        values = json.loads((folder / CONFIG).read_bytes())
        draft = Draft(DraftConfig(**values))
        draft.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"draft {folder}: {first_line(error)}") from error
    return for_inference(draft.to(device), dtype)


def check_draft(
    config: DraftConfig, target: PretrainedConfig, num_levels: int, num_items: int, target_digest: str = ""
) -> None:
    """Check that a draft belongs to a target and a catalogue.

    Args:
        config: the draft's.
        target: the target's.
        num_levels: of the catalogue.
        num_items: of the catalogue.
        target_digest: of the target; empty where it is not known.

    Raises:
        InputError: a size differs, or the draft was trained for another target.
    """
    sizes = [
        ("hidden size", config.hidden_size, target.hidden_size),
        ("number of code levels", config.num_levels, num_levels),
    ]
    if config.guesses_items:
        sizes.append(("number of items", config.num_items, num_items))
    for name, ours, theirs in sizes:
        if ours != theirs:
            raise InputError(f"draft: its {name} is {ours}, the target's or catalogue's is {theirs}")
    if config.target and target_digest and config.target != target_digest:
        raise InputError(f"draft: it was trained for target {config.target}, this one is {target_digest}")
