"""Small random targets: their lists mean nothing, which is what a test of the engine needs."""

from dataclasses import dataclass, replace

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
from service.engine.tree import TreeShape
from service.model.draft import Draft
from service.model.draft_config import VARIANTS, DraftConfig
from service.types import DecodedList, DecodeRequest

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


def random_draft(setting: Setting, variant: str = "both", features: str = "last", seed: int = 0) -> Draft:
    config = DraftConfig.like(
        setting.model.config,
        variant,
        num_levels=setting.catalogue.trie.num_levels,
        num_items=len(setting.catalogue),
        max_steps=4,
        features=features,
    )
    torch.manual_seed(seed)
    return Draft(config).eval().requires_grad_(False)


def rows_of(done: DecodedList) -> tuple[int, ...]:
    return tuple(item.row for item in done.items)


def random_requests(count: int, num_items: int, seed: int, sampled: bool) -> list[DecodeRequest]:
    rng = np.random.default_rng(seed)
    requests = []
    for index in range(count):
        history = tuple(rng.integers(num_items, size=rng.integers(1, 12)).tolist())
        excluded = tuple(rng.integers(num_items, size=rng.choice([0, 3, num_items, 4 * num_items])).tolist())
        request = DecodeRequest(f"r{index}", history, int(rng.integers(1, 13)), excluded, seed=index)
        if sampled and index % 2:
            request = replace(
                request, temperature=float(rng.uniform(0.3, 1.5)), top_p=float(rng.uniform(0.3, 1))
            )
        if index % 3 == 2:
            bits = np.packbits(rng.random(num_items) < 0.5, bitorder="little")
            request = replace(request, allowed=bits.tobytes())
        requests.append(replace(request, explain=index % 2 == 0))
    return requests


def random_case(seed: int) -> tuple[Setting, Draft, TreeShape, list[DecodeRequest]]:
    """Any family, windows shorter than the prompt, shared IDs and codes, tiny catalogues, any draft and tree."""
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.integers(1, 7, size=rng.integers(1, 5)).tolist())
    num_items = int(rng.choice([1, 2, 3, 5, 20, 60]))
    codes = np.stack([rng.integers(size, size=num_items) for size in sizes], axis=1)
    catalogue = Catalogue.build([f"i{i}" for i in range(num_items)], codes, [""] * num_items)
    begin = np.full(len(sizes) + 1, 3) if rng.random() < 0.3 else np.cumsum([3, *sizes])
    layout = TokenLayout(
        prefix=(0,) if rng.random() < 0.8 else (),
        list_start=(1,) if rng.random() < 0.8 else (),
        separator=2,
        code_tokens=tuple(tuple(range(b, b + n)) for b, n in zip(begin, sizes, strict=False)),
    )
    family = str(rng.choice(list(FAMILIES)))
    window = {}
    if family != "llama" and rng.random() < 0.6:
        window = {"sliding_window": int(rng.integers(2, 30))}
        if family.startswith("qwen"):
            window |= {"use_sliding_window": True, "max_window_layers": int(rng.integers(0, 3))}
    config_type, model_type = FAMILIES[family]
    config = config_type(
        vocab_size=3 + sum(sizes),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        tie_word_embeddings=False,
        **window,
    )
    torch.manual_seed(seed)
    model = model_type(config).eval().requires_grad_(False)
    model.lm_head.weight.mul_(20.0)
    variant = str(rng.choice(VARIANTS))
    shape = DraftConfig.like(
        config,
        variant,
        num_levels=len(sizes),
        num_items=num_items,
        max_steps=int(rng.integers(1, 8)),
        features=str(rng.choice(["last", "fused"])),
    )
    draft = Draft(shape).eval().requires_grad_(False)
    passes, width, candidates, guesses = (int(n) for n in rng.integers(1, (8, 6, 9, 30)))
    least, constrained = float(rng.choice([0, 0, 0.01, 0.3])), variant == "slots" or bool(rng.random() < 0.7)
    share = None if rng.random() < 0.5 else int(rng.integers(1, guesses + 1))
    tree = TreeShape(passes, width, candidates, guesses, least, constrained, share)
    requests = []
    history: tuple[int, ...] = ()
    for index in range(int(rng.integers(1, 10))):
        # Now and then the same user comes back.
        known = history if rng.random() < 0.4 else ()
        history = (*known, *rng.integers(num_items, size=rng.integers(not known, 15)).tolist())
        excluded = tuple(rng.integers(num_items, size=rng.choice([0, 2, num_items, 3 * num_items])).tolist())
        request = DecodeRequest(
            f"r{index}", history, int(rng.choice([1, 2, 3, 5, 9, 14])), excluded, seed=index
        )
        if rng.random() < 0.4:
            temperature, top_p = float(rng.uniform(0.05, 1.5)), float(rng.uniform(0.2, 1))
            request = replace(request, temperature=temperature, top_p=top_p)
        if rng.random() < 0.3:
            bits = np.packbits(rng.random(num_items) < 0.5, bitorder="little")
            request = replace(request, allowed=bits.tobytes())
        requests.append(request)
    return Setting(model, catalogue, layout), draft, tree, requests


def assert_equal(ours: DecodedList, reference: DecodedList) -> None:
    assert rows_of(ours) == rows_of(reference)
    assert ours.exhausted == reference.exhausted
    assert ours.num_forced_tokens == reference.num_forced_tokens
    np.testing.assert_allclose(
        [item.score for item in ours.items], [item.score for item in reference.items], rtol=1e-3
    )


@pytest.fixture(scope="session")
def shop() -> Setting:
    """200 items on three levels of eight codes; some share a semantic ID."""
    codes = np.random.default_rng(0).integers(8, size=(200, 3))
    return random_setting(codes, (8, 8, 8))


@pytest.fixture(scope="session")
def make_setting():
    return random_setting
