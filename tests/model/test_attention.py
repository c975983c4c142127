"""Grouped heads that ask side by side find what repeated keys and values would give them."""

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from service.model.attention import additive, for_groups, grouped_attention, use_grouped_attention


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_attention_with_repeated_keys_and_values(
    heads: int, kv_heads: int, scale: float | None
) -> None:
    torch.manual_seed(0)
    queries = torch.randn(3, heads, 5, 8)
    keys, values = torch.randn(2, 3, kv_heads, 7, 8)
    mask = torch.rand(3, 1, 5, 7) < 0.6
    mask[..., 0] = True
    grouped = for_groups(mask, heads, kv_heads)
    found = grouped_attention(queries, keys, values, grouped, scale)
    torch.testing.assert_close(
        grouped_attention(queries, keys, values, additive(grouped, queries.dtype), scale), found
    )
    repeated = [part.repeat_interleave(heads // kv_heads, dim=1) for part in (keys, values)]
    expected = F.scaled_dot_product_attention(queries, *repeated, attn_mask=mask, scale=scale)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_model_takes_both_kinds_of_mask_and_none(kv_heads: int) -> None:
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    tokens = torch.randint(20, (2, 6))
    expected = model(tokens).logits
    padded = model(tokens, attention_mask=torch.tensor([[1] * 6, [1] * 4 + [0] * 2])).logits
    use_grouped_attention(model)
    causal = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, -1, -1)
    torch.testing.assert_close(model(tokens).logits, expected)
    torch.testing.assert_close(model(tokens, attention_mask=for_groups(causal, 4, kv_heads)).logits, expected)
    again = model(tokens, attention_mask=torch.tensor([[1] * 6, [1] * 4 + [0] * 2])).logits
    torch.testing.assert_close(again, padded)
