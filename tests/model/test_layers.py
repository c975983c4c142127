"""A model's layers as few kernels are the family's own, and so is the model that lends them its weights."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from service.engine.target_pass import Reading, TargetPass
from service.model.kernels import Spans
from service.model.layers import layers_of

SHAPE = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
KNOWN = {
    "llama": LlamaConfig(**SHAPE),
    "llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "yarn": LlamaConfig(**SHAPE, rope_parameters=YARN),
    "mistral": MistralConfig(**SHAPE, sliding_window=3),
    "qwen2": Qwen2Config(**SHAPE, **WINDOW),
    "qwen3": Qwen3Config(**SHAPE, **WINDOW),
}
OTHERS = {
    "biased": LlamaConfig(**SHAPE, attention_bias=True),
    "dynamic": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    ),
    "another activation": LlamaConfig(**SHAPE, hidden_act="gelu"),
}


def model_of(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model


def which(parts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Rows and columns of tokens, given which each row has."""
    rows = [row for row, (begin, end) in enumerate(parts) for _ in range(begin, end)]
    return rows, [column for begin, end in parts for column in range(begin, end)]


def reading(tokens: torch.Tensor, parts: list[tuple[int, int]], num_places: int = 9) -> Reading:
    """Of each row these tokens, then two that are padding."""
    rows, columns = (torch.tensor(values) for values in which(parts))
    places = torch.cat((columns, torch.full((2,), num_places)))
    ends = torch.tensor([end for _, end in parts])
    begin = torch.tensor([0, *(end - begin for begin, end in parts)]).cumsum(0)
    spans = Spans(torch.cat((rows, torch.full((2,), -1))), begin, ends, 7, has_padding=True)
    mask = torch.arange(num_places) <= places.unsqueeze(1)
    read = torch.cat((tokens[rows, columns], torch.zeros(2, dtype=torch.int64)))
    return Reading(read, places, places, mask, spans)


@pytest.mark.parametrize("name", [*KNOWN, *OTHERS])
@pytest.mark.parametrize("features", [(), (0, 1, 4), (1, 2, 4)])
def test_a_pass_is_what_transformers_makes_of_it(name: str, features: tuple[int, ...]) -> None:
    model = model_of((KNOWN | OTHERS)[name])
    assert (layers_of(copy.deepcopy(model)) is None) == (name in OTHERS)
    tokens = torch.randint(20, (2, 7))
    with torch.inference_mode():
        expected = copy.deepcopy(model).base_model(tokens, output_hidden_states=True)
        target = TargetPass(model, features)
        # In parts, the later of which look at what the cache has of those before; two tokens are padding.
        for parts in ([(0, 4), (0, 2)], [(4, 5), (2, 7)], [(5, 7), (7, 7)]):
            hidden, of_pass = target(reading(tokens, parts), slice(0, 2))
            rows, columns = which(parts)
            count = len(rows)
            torch.testing.assert_close(hidden[:count], expected.last_hidden_state[rows, columns])
            for number, layer in enumerate(features or (4,)):
                of_layer = expected.hidden_states[layer][rows, columns]
                torch.testing.assert_close(of_pass[number][:count], of_layer)


@pytest.mark.parametrize("name", KNOWN)
def test_the_model_is_as_it_was(name: str, tmp_path) -> None:
    model = model_of(KNOWN[name])
    untouched = copy.deepcopy(model)
    with torch.inference_mode():
        layers_of(model)
    first = model.base_model.layers[0]
    assert first.mlp.up_proj.weight.data_ptr() > first.mlp.gate_proj.weight.data_ptr()
    tokens = torch.randint(20, (2, 6))
    assert torch.equal(model(tokens).logits, untouched(tokens).logits)
    # It is saved, and it learns, as if nobody had looked at it.
    model.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    for mine, theirs in zip(saved.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for one in (model, untouched):
        one.requires_grad_(True)
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.1)
        one(tokens).logits.square().mean().backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_weights_are_laid_side_by_side_once_and_follow_the_model() -> None:
    model = model_of(KNOWN["qwen2"])
    first, again = layers_of(model)[0], layers_of(model)[0]
    assert again._heads[0].data_ptr() == first._heads[0].data_ptr()
    attention = model.base_model.layers[0].self_attn
    attention.k_proj.weight.zero_()
    attention.k_proj.bias.zero_()
    width = attention.q_proj.out_features
    assert not again._heads[0][width : width + attention.k_proj.out_features].any()
    assert not again._heads[1][width : width + attention.k_proj.out_features].any()
    model.double()
    moved = layers_of(model)[0]
    assert moved._heads[0].dtype == torch.float64
    assert torch.equal(moved._heads[0][:width], attention.q_proj.weight)
