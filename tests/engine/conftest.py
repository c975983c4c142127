"""Small random targets: their lists mean nothing, which is what a test of the engine needs."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


@dataclass(frozen=True)
class Setting:
    model: PreTrainedModel
    catalogue: Catalogue
    layout: TokenLayout


def random_setting(
    codes: np.ndarray, sizes: tuple[int, ...], family: str = "llama", seed: int = 0, sharpness: float = 20.0
) -> Setting:
    """Items with these codes and a random target; `sharpness` spreads its logits, so that ties are rare."""
    catalogue = Catalogue.build([f"item-{i}" for i in range(len(codes))], codes, [""] * len(codes))
    begin = np.cumsum([3, *sizes])
    code_tokens = tuple(tuple(range(b, b + n)) for b, n in zip(begin, sizes, strict=False))
    layout = TokenLayout(prefix=(0,), list_start=(1,), separator=2, code_tokens=code_tokens)
    config_type, model_type = FAMILIES[family]
    config = config_type(
        vocab_size=int(begin[-1]),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = model_type(config).eval().requires_grad_(False)
    model.lm_head.weight.mul_(sharpness)
    return Setting(model, catalogue, layout)


@pytest.fixture(scope="session")
def shop() -> Setting:
    """200 items on three levels of eight codes; some share a semantic ID."""
    codes = np.random.default_rng(0).integers(8, size=(200, 3))
    return random_setting(codes, (8, 8, 8))


@pytest.fixture(scope="session")
def make_setting():
    return random_setting
