"""The draft on disk, its size, and what its parts add."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from service.errors import InputError
from service.model.copies import copy_for_inference
from service.model.draft import Draft, check_draft, load_draft, save_draft
from service.model.draft_config import VARIANTS, DraftConfig, features_named, guesses_items, variant_named
from service.model.presets import PRESETS, Preset

CPU = torch.device("cpu")
CONFIG = DraftConfig(
    variant="slots",
    features="last",
    hidden_size=16,
    intermediate_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    rms_norm_eps=1e-6,
    num_levels=3,
    max_steps=2,
    num_items=20,
    item_rank=8,
)


def save(folder: Path, **change) -> Draft:
    draft = Draft(replace(CONFIG, **change))
    save_draft(draft, folder)
    return draft


@pytest.mark.parametrize("features", ["last", "fused"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_saved_is_loaded(tmp_path: Path, variant, features) -> None:
    saved = save(tmp_path, variant=variant, features=features)
    loaded = load_draft(tmp_path, device=CPU, dtype=torch.float32)
    assert loaded.config == saved.config
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_rotations_stay_float32(tmp_path: Path) -> None:
    save(tmp_path)
    loaded = load_draft(tmp_path, device=CPU, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.frequencies.dtype == torch.float32


def test_a_copy_for_inference_leaves_training_alone() -> None:
    draft = Draft(CONFIG)
    copy = copy_for_inference(draft, torch.bfloat16)
    assert copy.norm.weight.dtype == torch.bfloat16
    assert draft.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in draft.parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"variant": "other"},
        {"features": "other"},
        {"hidden_size": "wide"},
        {"hidden_size": 8},
        {"num_heads": 0},
        {"num_kv_heads": 3},
        {"surprise": 1},
    ],
)
def test_a_configuration_that_does_not_hold_is_one_line(tmp_path: Path, change) -> None:
    save(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=f"^draft {tmp_path}: [^\n]+$"):
        load_draft(tmp_path, device=CPU, dtype=torch.float32)


def test_a_folder_that_is_torn_or_no_draft_s_is_one_line(tmp_path: Path) -> None:
    for break_it in (
        lambda: (tmp_path / "draft.safetensors").write_bytes(b"nonsense"),
        lambda: (tmp_path / "draft.safetensors").unlink(),
        lambda: (tmp_path / "config.json").write_text("[1]"),
        lambda: (tmp_path / "config.json").unlink(),
    ):
        save(tmp_path)
        break_it()
        with pytest.raises(InputError, match=f"^draft {tmp_path}: [^\n]+$"):
            load_draft(tmp_path, device=CPU, dtype=torch.float32)


def test_a_draft_of_another_target_or_catalogue_is_refused() -> None:
    target = LlamaConfig(hidden_size=16, num_attention_heads=4)
    check_draft(CONFIG, target, 3, 20)
    check_draft(replace(CONFIG, variant="both"), target, 3, 21)
    for levels, items, name in ((3, 21, "number of items"), (4, 20, "number of code levels")):
        with pytest.raises(InputError, match=name):
            check_draft(CONFIG, target, levels, items)
    with pytest.raises(InputError, match="hidden size is 16, the target's or catalogue's is 32"):
        check_draft(CONFIG, LlamaConfig(hidden_size=32, num_attention_heads=4), 3, 20)
    ours = replace(CONFIG, target="0123456789ab")
    for config, digest in ((ours, ours.target), (ours, ""), (CONFIG, ours.target)):
        check_draft(config, target, 3, 20, digest)
    with pytest.raises(InputError, match="trained for target 0123456789ab, this one is ba9876543210"):
        check_draft(ours, target, 3, 20, "ba9876543210")


def test_names_are_checked() -> None:
    assert (variant_named("slots"), features_named("fused")) == ("slots", "fused")
    with pytest.raises(InputError, match="no draft variant 'some'; there are none, item, step, both, slots"):
        variant_named("some")
    with pytest.raises(InputError, match="no features 'some'; there are last, fused"):
        features_named("some")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_the_position_module_is_small(preset: Preset, variant) -> None:
    config = DraftConfig.like(
        LlamaConfig(**preset.shape),
        variant,
        num_levels=4,
        num_items=12_000,
        max_steps=preset.draft.unroll_of(guesses_items(variant)),
    )
    with torch.device("meta"):
        draft = Draft(config)
    share = draft.num_position_parameters() / draft.num_parameters()
    assert share < 0.01
    assert (share == 0) == (variant == "none")


def test_a_step_is_for_guesses_alone() -> None:
    draft = Draft(replace(CONFIG, variant="step"))
    features, embeddings, slot = torch.randn(2, 16), torch.randn(2, 16), torch.tensor([0, 3])
    context, first, second, third = (draft.inputs(features, embeddings, slot, step=n) for n in range(4))
    gate = torch.sigmoid(draft.position.gate(context))
    assert torch.allclose(first, context + gate * draft.position.step[0])
    assert torch.allclose(second, context + gate * draft.position.step[1])
    assert torch.equal(third, second)  # beyond the trained steps the last one counts


def test_an_item_s_score_is_the_sum_of_its_codes_and_a_rest() -> None:
    draft = Draft(CONFIG)
    torch.nn.init.normal_(draft.item_rest)
    head, codes = torch.randn(3, 4, 16), torch.randint(4, (20, 3))
    state = torch.randn(5, 16)
    scores = draft.item_scores(state, draft.item_vectors(head, codes))
    query = draft.item_query(state)
    for item in range(20):
        parts = [draft.slot_heads[level].T @ head[level, codes[item, level]] for level in range(3)]
        vector = draft.item_rest[item] + sum(parts)
        assert torch.allclose(scores[:, item], query @ vector, atol=1e-4)


def test_copies_that_share_a_context_see_what_each_alone_would() -> None:
    torch.manual_seed(0)
    draft = Draft(CONFIG)
    batch, copies, context, added = 2, 3, 5, 4
    positions = torch.arange(context + added).expand(batch * copies, -1)
    u = torch.randn(batch * copies, context + added, CONFIG.hidden_size)
    u[:, :context] = u[::copies, :context].repeat_interleave(copies, dim=0)
    keys, values = draft.keys_and_values(u, positions)
    mask = torch.rand(batch * copies, added, context + added) < 0.5
    mask[..., -1] = True

    shared = keys[::copies, :, :context], values[::copies, :, :context]
    own = keys[:, :, context:], values[:, :, context:]
    asked = u[:, context:], positions[:, context:]
    torch.testing.assert_close(
        draft.forward_shared(*asked, shared, own, mask), draft(*asked, keys, values, mask)
    )
