"""Decoder layers as few kernels: the draft's, and those of targets whose layers are Llama's but for norms and biases.

The weights are the model's own: those that read the same input are laid side by side, and the model's parameters
become views of them, so that one matrix product does for three. What a layer adds to its input is added by the product
itself. All other targets go the way of `transformers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.model.draft import Draft
from service.model.kernels import CachePart, HeadNorms, Spans, attend, rms_norm, rotate, silu_times

Norm = tuple[torch.Tensor, float]  # a weight, and what is added to a variance

_KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
_STATIC_ROTATIONS = ("default", "linear", "llama3", "yarn")  # the others' depend on the longest position


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rotary embedding of all layers: frequencies float32 [head_dim / 2], and what is rotated is scaled so."""

    frequencies: torch.Tensor
    scaling: float


class Layer:
    """One decoder layer.

    Args:
        heads: weight and bias of queries, keys and values side by side.
        head_dim: of each head.
        num_heads: of queries.
        scale: of the scores.
        out: weight of what the heads found.
        gate_up: weights of both, side by side.
        down: weight of what they make.
        norms: before the heads, and before the gate; weights, and what is added to a variance.
        head_norms: of each head of queries and of keys, where there are any.
        rotation: of queries and keys.
    """

    def __init__(
        self,
        *,
        heads: tuple[torch.Tensor, torch.Tensor | None],
        head_dim: int,
        num_heads: int,
        scale: float,
        out: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        norms: tuple[Norm, Norm],
        head_norms: HeadNorms | None,
        rotation: Rotation,
    ) -> None:
        self._heads, self._head_dim, self._num_heads, self._scale = heads, head_dim, num_heads, scale
        self._out, self._gate_up, self._down = out, gate_up, down
        self._norms, self._head_norms, self._rotation = norms, head_norms, rotation

    def enter(self, hidden: torch.Tensor, positions: torch.Tensor, cache: CachePart, spans: Spans) -> None:
        """Enter tokens into the cache of which nothing else is asked; arguments as `read`."""
        weight, bias = self._heads
        begin = self._num_heads * self._head_dim
        joined = F.linear(
            rms_norm(hidden, *self._norms[0]), weight[begin:], None if bias is None else bias[begin:]
        )
        self._rotate(joined, positions, 0, cache, spans)

    def read(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        cache: CachePart,
        mask: torch.Tensor,
        *,
        last: torch.Tensor | None = None,
        spans: Spans | None = None,
    ) -> torch.Tensor:
        """What the layer makes of its input, [batch, n, width], which it may overwrite; [t, width] with spans.

        Args:
            hidden: what the layer before it made, likewise.
            positions: int64 [batch, n], or [t].
            cache: this layer's.
            mask: from `kernels.mask_for`.
            last: int64 [batch, m], the only tokens of each list that are asked for, with spans among all of them; what
                is made is of these, [batch, m, width], and so is the mask, which knows of no spans.
            spans: whose tokens are whose; None: row i is list i's.
        """
        joined = F.linear(rms_norm(hidden, *self._norms[0]), *self._heads)
        queries = self._rotate(joined, positions, self._num_heads, cache, spans)
        if last is not None and spans is None:
            queries = at(queries.flatten(2), last).view(*last.shape, self._num_heads, self._head_dim)
            hidden = at(hidden, last)
        elif last is not None:
            queries, hidden, spans = queries[last], hidden[last], None
        found = attend(queries, cache[0], cache[1], mask, self._scale, spans)
        flat = hidden.view(-1, hidden.shape[-1])
        flat.addmm_(found.reshape(len(flat), -1), self._out.T)
        gated = silu_times(F.linear(rms_norm(flat, *self._norms[1]), self._gate_up))
        return flat.addmm_(gated, self._down.T).view_as(hidden)

    def _rotate(
        self,
        joined: torch.Tensor,
        positions: torch.Tensor,
        num_heads: int,
        cache: CachePart,
        spans: Spans | None,
    ) -> torch.Tensor:
        return rotate(
            joined.view(*positions.shape, -1, self._head_dim),
            positions,
            self._rotation.frequencies,
            self._rotation.scaling,
            num_heads,
            self._head_norms,
            cache,
            spans,
        )


def layers_of(model: PreTrainedModel) -> list[Layer] | None:
    """The layers of a model; None where they are of another kind."""
    base: Any = model.base_model
    rotary: Any = getattr(base, "rotary_emb", None)
    if getattr(rotary, "rope_type", None) not in _STATIC_ROTATIONS:
        return None
    if not all(_is_known(layer) for layer in base.layers):
        return None
    rotation = Rotation(rotary.inv_freq.float(), float(rotary.attention_scaling))
    return [_of_target(layer, rotation) for layer in base.layers]


def norm_of(model: PreTrainedModel) -> Norm:
    """The norm after all layers."""
    return _norm(model.base_model.norm)


def layer_of_draft(draft: Draft) -> Layer:
    """The draft's only layer."""
    config = draft.config
    heads = side_by_side([draft.q_proj.weight, draft.kv_proj.weight])
    eps = config.rms_norm_eps
    return Layer(
        heads=(heads, None),
        head_dim=config.head_dim,
        num_heads=config.num_heads,
        scale=config.head_dim**-0.5,
        out=draft.o_proj.weight.detach(),
        gate_up=draft.gate_up_proj.weight.detach(),
        down=draft.down_proj.weight.detach(),
        norms=((draft.attention_norm.weight.detach(), eps), (draft.mlp_norm.weight.detach(), eps)),
        head_norms=None,
        rotation=Rotation(draft.frequencies, 1.0),
    )


def side_by_side(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parameters that share all dimensions but the first as one tensor, of which they become views."""
    first, end = parts[0], parts[0].data_ptr()
    lie_so = True
    for part in parts:
        lie_so &= part.data_ptr() == end and part.is_contiguous()
        lie_so &= part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        end += part.numel() * part.element_size()
    if lie_so:
        shape = (sum(len(part) for part in parts), *first.shape[1:])
        return first.detach().as_strided(shape, first.stride())
    # Of the same kind as before: an optimizer cannot go on with what inference mode has made.
    with torch.inference_mode(first.is_inference()), torch.no_grad():
        whole = torch.cat([part.detach() for part in parts])
        begin = 0
        for part in parts:
            part.data = whole[begin : begin + len(part)]
            begin += len(part)
    return whole


def _of_target(layer: Any, rotation: Rotation) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    sources = [attention.q_proj, attention.k_proj, attention.v_proj]
    has_bias = attention.q_proj.bias is not None
    head_norms = None
    if hasattr(attention, "q_norm"):
        head_norms = (_norm(attention.q_norm)[0], *_norm(attention.k_norm))
    return Layer(
        heads=(
            side_by_side([source.weight for source in sources]),
            side_by_side([source.bias for source in sources]) if has_bias else None,
        ),
        head_dim=attention.head_dim,
        num_heads=attention.q_proj.out_features // attention.head_dim,
        scale=attention.scaling,
        out=attention.o_proj.weight.detach(),
        gate_up=side_by_side([mlp.gate_proj.weight, mlp.up_proj.weight]),
        down=mlp.down_proj.weight.detach(),
        norms=(_norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)),
        head_norms=head_norms,
        rotation=rotation,
    )


def _is_known(layer: nn.Module) -> bool:
    if type(layer).__name__ not in _KINDS:
        return False
    attention: Any = layer.self_attn
    mlp: Any = layer.mlp
    without_bias = attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj
    is_silu = isinstance(mlp.act_fn, nn.SiLU) or type(mlp.act_fn).__name__ == "SiLUActivation"
    return is_silu and all(module.bias is None for module in without_bias)


def _norm(norm: Any) -> Norm:
    return norm.weight.detach(), float(norm.variance_epsilon)


def at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Vectors [batch, n, width] of [batch, m, width] at `index` [batch, n]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[2]))
