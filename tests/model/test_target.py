import json
from pathlib import Path

import pytest
import torch

from service.errors import InputError
from service.model.presets import PRESETS, preset_named
from service.model.target import build_target, load_target, pick_device, pick_dtype

CPU = torch.device("cpu")


def load(path: Path):
    return load_target(path, device=CPU, dtype=torch.float32)


def test_presets_have_the_sizes_they_promise() -> None:
    with torch.device("meta"):
        sizes = {
            name: build_target(preset, 1028, 512, seed=0).num_parameters() for name, preset in PRESETS.items()
        }
    assert 0.8e6 < sizes["tiny"] < 1.2e6
    assert 20e6 < sizes["small"] < 30e6
    assert 0.95e9 < sizes["base"] < 1.3e9  # Llama-3.2-1B less its text vocabulary


def test_the_same_seed_builds_the_same_target_and_it_survives_a_checkpoint(tmp_path: Path) -> None:
    preset = preset_named("tiny")
    one, two = build_target(preset, 50, 64, seed=3), build_target(preset, 50, 64, seed=3)
    one.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert not loaded.training
    for a, b, c in zip(one.parameters(), two.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_what_is_no_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="family 'gpt2' is not one of llama"):
        load(tmp_path)
    build_target(preset_named("tiny"), 50, 64, seed=0).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="target "):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = build_target(preset_named("tiny"), 50, 64, seed=0)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load(tmp_path)


def test_devices_and_types() -> None:
    assert pick_device("cpu") == CPU
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", CPU) == torch.float16
    with pytest.raises(InputError, match="device 'tpu9'"):
        pick_device("tpu9")
    with pytest.raises(InputError, match="no preset 'huge'"):
        preset_named("huge")


def test_one_of_several_gpus_is_where_kernels_start(monkeypatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]
    with pytest.raises(InputError, match="'cuda:2': this machine has 2, from cuda:0 on"):
        pick_device("cuda:2")
