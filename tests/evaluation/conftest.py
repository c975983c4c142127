"""A small random target, and requests for it."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.types import DecodeRequest


@dataclass(frozen=True)
class Setting:
    model: PreTrainedModel
    catalogue: Catalogue
    layout: TokenLayout
    requests: list[DecodeRequest]


@pytest.fixture(scope="session")
def shop() -> Setting:
    """80 items on two levels of eight codes, some of which share a semantic ID; lists of four for seven users."""
    rng = np.random.default_rng(0)
    codes = rng.integers(8, size=(80, 2))
    catalogue = Catalogue.build([f"item-{i}" for i in range(80)], codes, [""] * 80)
    code_tokens = (tuple(range(3, 11)), tuple(range(11, 19)))
    config = LlamaConfig(
        vocab_size=19,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.lm_head.weight.mul_(20.0)  # spread, so that ties are rare
    requests = [
        DecodeRequest(
            f"user-{i}",
            tuple(rng.integers(80, size=rng.integers(1, 9)).tolist()),
            4,
            excluded=tuple(rng.integers(80, size=5).tolist()),
            seed=i,
        )
        for i in range(7)
    ]
    return Setting(model, catalogue, TokenLayout((0,), (1,), 2, code_tokens), requests)
