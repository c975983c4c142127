"""A target's norms as one kernel each are the family's own, and training does not notice."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from service.model.norms import use_fast_norms

SHAPE = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.fixture(params=[LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def model(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(request.param(**SHAPE)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model


def test_they_are_the_familys_own(model) -> None:
    tokens = torch.randint(20, (2, 6))
    fast = copy.deepcopy(model)
    use_fast_norms(fast)
    with torch.inference_mode():
        torch.testing.assert_close(fast(tokens).logits, model(tokens).logits)
    kinds = {type(module) for module in fast.modules()}
    use_fast_norms(fast)
    assert {type(module) for module in fast.modules()} == kinds


def test_a_gradient_is_as_if_they_were_not_there(model) -> None:
    tokens = torch.randint(20, (2, 6))
    fast = copy.deepcopy(model)
    use_fast_norms(fast)
    for one in (model, fast):
        one(tokens).logits.square().mean().backward()
    for mine, theirs in zip(fast.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
