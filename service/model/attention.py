"""Grouped-query attention under a mask, keys and values read as they are.

`torch` has no fast kernel for grouped heads under a mask that is not causal, so that others repeat keys and values for
each head of a group: with the `base` preset, for 256 lists of 500 tokens, a gigabyte in every layer. Here the heads of
a group ask side by side, as if they were further tokens, which is the same arithmetic.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "padrec"


def grouped_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    """What each head finds, [batch, heads, n, head_dim].

    Args:
        queries: [batch, heads, n, head_dim]; heads that share keys stand together.
        keys: [batch, kv_heads, m, head_dim].
        values: likewise.
        mask: [batch, 1, heads / kv_heads * n, m], `for_groups` of one for n tokens, bool or `additive`.
        scale: of the scores; None: 1 / sqrt(head_dim).
    """
    batch, num_heads, n, width = queries.shape
    together = queries.reshape(batch, keys.shape[1], num_heads // keys.shape[1] * n, width)
    found = F.scaled_dot_product_attention(together, keys, values, attn_mask=mask, scale=scale)
    return found.reshape(batch, num_heads, n, width)


def for_groups(mask: torch.Tensor, num_heads: int, num_kv_heads: int) -> torch.Tensor:
    """A mask [batch, 1, n, m] for all heads of a group, [batch, 1, num_heads / num_kv_heads * n, m]."""
    return mask.repeat(1, 1, num_heads // num_kv_heads, 1)


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores: 0 where a token may look, else -inf. Made once, where each layer would make its own."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def mask_of_groups(mask: torch.Tensor, num_heads: int, num_kv_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """A mask, bool [batch, n, m], `additive` and `for_groups`."""
    return additive(for_groups(mask.unsqueeze(1), num_heads, num_kv_heads), dtype)


def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Heads [..., head_dim] under the rotary position embedding, given cosines and sines of half as many angles."""
    low, high = heads.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Have a model of any family attend so where it is given a mask `for_groups`; else it does as ever."""
    AttentionInterface.register(_NAME, _forward)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def _forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """See `transformers.AttentionInterface`; returns [batch, n, heads, head_dim]."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1 or attention_mask is None or attention_mask.shape[2] != groups * query.shape[2]:
        found, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return found, None
    found = grouped_attention(query, key, value, attention_mask, scaling)
    return found.transpose(1, 2).contiguous(), None
