"""Bundles around targets that somebody else made."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from service.build import build_bundle
from service.data.dataset import Dataset
from service.engine.engine import Engine
from service.engine.reference import write_list
from service.errors import InputError
from service.model.presets import preset_named
from service.model.target import load_target
from service.types import DecodeRequest

CPU = torch.device("cpu")
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def write_checkpoint(
    folder: Path, family: str, positions: int = 512, code_levels: tuple[int, ...] = (8, 8)
) -> Path:
    """A foreign target: its vocabulary holds the code tokens somewhere among others, and no token of ours."""
    names = [f"word-{number}" for number in range(100)] + ["</s>"]
    names += [f"<{'ab'[level]}_{code}>" for level, size in enumerate(code_levels) for code in range(size)]
    order = np.random.default_rng(0).permutation(len(names))
    vocabulary = {names[place]: index for index, place in enumerate(order.tolist())}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="word-0")), eos_token="</s>"
    )
    config_type, model_type = FAMILIES[family]
    config = config_type(
        vocab_size=len(names),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=positions,
    )
    torch.manual_seed(0)
    model_type(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(dataset: Path, out: Path, target: Path):
    return build_bundle(
        Dataset.open(dataset),
        preset_named("tiny"),
        out,
        device=CPU,
        target=target,
        on_stage=lambda _: None,
        on_progress=lambda _: None,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_of_each_family_is_taken_as_it_is(dataset: Path, tmp_path: Path, family: str) -> None:
    bundle = build(dataset, tmp_path / "bundle", write_checkpoint(tmp_path / "target", family))
    assert bundle.layout.prefix == bundle.layout.list_start == ()
    catalogue = bundle.read_catalogue()
    model = load_target(bundle.target_path, device=CPU, dtype=torch.float32)
    requests = [DecodeRequest(str(n), tuple(range(n, n + 5)), 10, tuple(range(n, n + 5))) for n in range(4)]
    written = Engine(model, catalogue, bundle.layout).write(requests)
    for request, done in zip(requests, written, strict=True):
        reference = write_list(model, catalogue.codes, bundle.layout, request)
        assert [item.row for item in done.items] == [item.row for item in reference.items]
        assert len({item.row for item in done.items}) == 10


def test_lists_are_no_longer_than_the_positions(dataset: Path, tmp_path: Path) -> None:
    target = write_checkpoint(tmp_path / "short", "llama", positions=100)
    # 20 items of three tokens, then 40 positions for items of three tokens.
    assert build(dataset, tmp_path / "bundle", target).manifest.decoding.max_num_items == 13


def test_a_target_without_given_semantic_ids_is_refused(padrec, tmp_path: Path) -> None:
    """Learned ones would have nothing to do with those that it was trained on."""
    padrec("data", "synthesize", "--num-items", 60, "--num-users", 20, "--out", tmp_path / "shop")
    target = write_checkpoint(tmp_path / "target", "llama")
    with pytest.raises(InputError, match="has no semantic IDs"):
        build(tmp_path / "shop", tmp_path / "bundle", target)


def test_a_checkpoint_that_lacks_weights_is_refused(dataset: Path, tmp_path: Path) -> None:
    """transformers would make them up."""
    target = write_checkpoint(tmp_path / "target", "llama")
    weights = load_file(target / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"its weights lack model\.layers\.1\.mlp\.up_proj\.weight"):
        build(dataset, tmp_path / "bundle", target)


def test_an_embedding_that_was_not_resized_is_refused(dataset: Path, tmp_path: Path) -> None:
    target = write_checkpoint(tmp_path / "target", "llama")
    small = write_checkpoint(tmp_path / "small", "llama", code_levels=(2, 2))
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((small / name).read_bytes())
    with pytest.raises(InputError, match="was its embedding resized"):
        build(dataset, tmp_path / "bundle", target)


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"hidden_size": "abc"}, {"model_type": None}])
def test_a_broken_configuration_is_one_line(dataset: Path, tmp_path: Path, change: dict) -> None:
    file = write_checkpoint(tmp_path / "target", "llama") / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=f"target {file.parent}: "):
        build(dataset, tmp_path / "bundle", file.parent)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"code_levels": (8, 7)}, "<b_7>"),
        ({"positions": 62}, "62 positions cannot hold 20 items of history"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(
    dataset: Path, tmp_path: Path, checkpoint, message: str
) -> None:
    target = write_checkpoint(tmp_path / "target", "llama", **checkpoint)
    with pytest.raises(InputError, match=message):
        build(dataset, tmp_path / "bundle", target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
