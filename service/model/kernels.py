"""What a layer does between its matrix products, each as one kernel where the device has one.

`torch` takes some thirty kernels for the rest of a layer, and for a few tokens a kernel's start is most of its time. On
a GPU these are Triton's (`service.model.triton_kernels`); elsewhere what `torch` has, which says what they compute.
"""

import torch
from torch.nn import functional as F

from service.model.attention import grouped_attention, mask_of_groups, rotated

try:
    from service.model import triton_kernels

    HAS_TRITON = True
except ImportError:  # torch comes without it where it comes without CUDA
    HAS_TRITON = False

# Weights of queries and keys, each [head_dim], and what is added to a variance.
HeadNorms = tuple[torch.Tensor, torch.Tensor, float]
# Keys and values of a batch's lists, [batch, kv_heads, m, head_dim] each and laid out alike, and where the pass's
# tokens go, int64 [batch, n]; what would go past the last place goes there.
CachePart = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def runs_triton(where: torch.Tensor) -> bool:
    """Whether kernels of ours are there for tensors of this one's device."""
    return HAS_TRITON and where.is_cuda


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm over the last dimension, rounded once."""
    if runs_triton(x):
        return triton_kernels.rms_norm(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


def silu_times(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, [..., width], of both side by side, [..., 2 * width]."""
    if runs_triton(gate_up):
        return triton_kernels.silu_times(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate(
    joined: torch.Tensor,
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    scaling: float,
    num_heads: int,
    norms: HeadNorms | None,
    cache: CachePart | None,
) -> torch.Tensor:
    """Rotated queries, [batch, n, num_heads, head_dim]; rotated keys, and values, go into the cache.

    Args:
        joined: queries, keys and values of each token, [batch, n, num_heads + 2 * kv_heads, head_dim].
        positions: int64 [batch, n].
        frequencies: of the rotary embedding, float32 [head_dim / 2].
        scaling: of what is rotated.
        num_heads: of queries, which may be 0.
        norms: of each head before it is rotated, where a family has them.
        cache: None where there are queries alone.
    """
    if runs_triton(joined):
        return triton_kernels.rotate(joined, positions, frequencies, scaling, num_heads, norms, cache)
    queries = joined[:, :, :num_heads]
    keys, values = joined[:, :, num_heads:].chunk(2, dim=2)
    if norms is not None:
        queries = F.rms_norm(queries, norms[0].shape, norms[0], norms[2])
        keys = F.rms_norm(keys, norms[1].shape, norms[1], norms[2])
    angles = (positions.unsqueeze(-1) * frequencies).unsqueeze(2)
    cos, sin = (angles.cos() * scaling).to(joined.dtype), (angles.sin() * scaling).to(joined.dtype)
    if cache is not None:
        enter(cache, rotated(keys, cos, sin).transpose(1, 2), values.transpose(1, 2))
    return rotated(queries, cos, sin)


def enter(cache: CachePart, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Write the keys and values, each [batch, kv_heads, n, head_dim], of a pass's tokens into the cache."""
    all_keys, all_values, places = cache
    index = places.clamp(max=all_keys.shape[2] - 1)[:, None, :, None].expand_as(keys)
    all_keys.scatter_(2, index, keys)
    all_values.scatter_(2, index, values)


def mask_for(mask: torch.Tensor, num_heads: int, kv_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """A mask, bool [batch, n, m], as `attend` wants it on its device: made once, for all layers."""
    if runs_triton(mask):
        return mask
    return mask_of_groups(mask, num_heads, kv_heads, dtype)


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    ends: torch.Tensor | None = None,
) -> torch.Tensor:
    """What each head finds, [batch, n, heads, head_dim].

    Args:
        queries: [batch, n, heads, head_dim]; heads that share keys stand together.
        keys: [batch, kv_heads, m, head_dim].
        values: likewise, and laid out alike.
        mask: from `mask_for`.
        scale: of the scores.
        ends: int64 [batch], no token of a list may look at this place or past it; None: nobody knows.
    """
    if runs_triton(queries):
        return triton_kernels.attend(queries, keys, values, mask, scale, ends)
    return grouped_attention(queries.transpose(1, 2), keys, values, mask, scale).transpose(1, 2)
