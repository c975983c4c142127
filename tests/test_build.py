"""Bundles around targets that somebody else made."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from service.build import build_bundle
from service.catalog.bundle import Bundle
from service.data.dataset import Dataset
from service.drafts import train_list_draft
from service.engine.beam import NUM_BEAMS
from service.engine.engine import Engine
from service.engine.reference import find_items, write_list
from service.errors import InputError
from service.model.draft import check_draft, load_draft
from service.model.presets import preset_named
from service.model.target import load_target, target_digest
from service.model.vocabulary import PromptText, read_layout
from service.prepared import Prepared, build_catalogue
from service.training import written_lists
from service.training.item_ids import given_semantic_ids
from service.training.loop import Progress
from service.types import DecodeRequest

CPU = torch.device("cpu")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
TINY = preset_named("tiny")
SHORT = dataclasses.replace(TINY.draft, steps=2, batch_size=8, num_lists=12, validation_users=4)


def build(dataset: Path, out: Path, target: Path, draft=None, prompt=None):
    return build_bundle(
        Dataset.open(dataset),
        dataclasses.replace(TINY, draft=SHORT),
        out,
        device=CPU,
        target=target,
        prompt=prompt,
        draft=draft,
        on_stage=lambda _: None,
        on_progress=lambda _: None,
    )


def test_a_target_whose_levels_share_their_codes(dataset: Path, padrec, tmp_path: Path) -> None:
    out = tmp_path / "shared"
    done = padrec("bundle", "build", dataset, "--steps", 2, "--shared-codes", "--out", out)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(out)
    assert bundle.layout.code_tokens[0] == bundle.layout.code_tokens[1]
    done = padrec(
        "bench", "decode", out, dataset, "--users", 6, "--check", 6, "--repeats", 1, "--json", tmp_path / "r"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "r").read_text())["rows"]
    assert [row["equal_to_reference"] for row in rows] == [1.0] * len(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_of_each_family_is_taken_as_it_is_and_gets_a_draft(
    dataset: Path, write_checkpoint, tmp_path: Path, family: str
) -> None:
    target = write_checkpoint(tmp_path / "target", family)
    bundle = build(dataset, tmp_path / "bundle", target, "slots")
    assert bundle.layout.prefix == bundle.layout.list_start == ()
    catalogue = bundle.read_catalogue()
    model = load_target(bundle.target_path, device=CPU, dtype=torch.float32)
    requests = [DecodeRequest(str(n), tuple(range(n, n + 5)), 10, tuple(range(n, n + 5))) for n in range(4)]
    assert bundle.draft_path is not None
    draft = load_draft(bundle.draft_path, device=CPU, dtype=torch.float32)
    check_draft(draft.config, model.config, 2, len(catalogue), bundle.target_digest)
    assert draft.config.target == bundle.target_digest == target_digest(target)
    record = bundle.manifest.training["draft"]
    assert (record["variant"], record["lists"], record["best"]["step"]) == ("slots", 12, 2)
    assert record["best"]["metrics"]["accepted_length"] > 1
    assert record["position_parameters"] == draft.num_position_parameters()
    assert record["position_share"] == draft.num_position_parameters() / record["parameters"]
    written = Engine(model, catalogue, bundle.layout, draft=draft).write(requests)
    for request, done in zip(requests, written, strict=True):
        reference = write_list(model, catalogue.codes, bundle.layout, request)
        assert [item.row for item in done.items] == [item.row for item in reference.items]
        assert len({item.row for item in done.items}) == 10


def test_a_target_of_the_next_item_alone_is_asked_by_beam_in_the_words_it_was_trained_on(
    dataset: Path, write_checkpoint, padrec, tmp_path: Path
) -> None:
    target, out = write_checkpoint(tmp_path / "target", "qwen3"), tmp_path / "bundle"
    words = "--prompt", "word-7{history}word-9", "--between", "word-3"
    done = padrec("bundle", "build", dataset, "--target", target, *words, "--decoding", "beam", "--out", out)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(out)
    assert bundle.draft_path is None
    assert bundle.manifest.decoding.decoding == "beam"
    catalogue, layout = bundle.read_catalogue(), bundle.layout
    tokenizer = AutoTokenizer.from_pretrained(target)
    codes = [[f"<a_{a}>", f"<b_{b}>"] for a, b in catalogue.codes[[5, 2]].tolist()]
    names = ["word-7", *codes[0], "word-3", *codes[1], "word-9"]
    assert layout.prompt(catalogue.codes[[5, 2]]).tolist() == tokenizer.convert_tokens_to_ids(names)

    model = load_target(bundle.target_path, device=CPU, dtype=torch.float32)
    engine = Engine(model, catalogue, layout, num_prefixes=4)
    for num_seen in (3, 5, 8):  # who comes back is read from where they were known
        rows = tuple(range(num_seen))
        requests = [
            DecodeRequest("list", rows, 5, rows),
            DecodeRequest("beam", rows[1:], 5, rows, decoding="beam"),
        ]
        for request, done in zip(requests, engine.write(requests), strict=True):
            if request.decoding == "list":
                expected = write_list(model, catalogue.codes, layout, request)
            else:
                expected = find_items(model, catalogue.codes, layout, request, NUM_BEAMS)
            assert [item.row for item in done.items] == [item.row for item in expected.items]
    assert engine.prefix_counts == (6, 4)

    done = padrec("evaluate", out, dataset, "--users", 5, "--device", "cpu", "--json", tmp_path / "rows.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][0]["method"] == "beam"


def test_a_draft_learns_from_prompts_in_words(dataset: Path, write_checkpoint, tmp_path: Path) -> None:
    target = write_checkpoint(tmp_path / "target", "llama")
    text = PromptText("word-7", "word-3", "word-9")
    bundle = build(dataset, tmp_path / "bundle", target, "slots", prompt=text)
    catalogue, rows = bundle.read_catalogue(), (3, 1, 4)
    model = load_target(bundle.target_path, device=CPU, dtype=torch.float32)
    assert bundle.draft_path is not None
    draft = load_draft(bundle.draft_path, device=CPU, dtype=torch.float32)
    request = DecodeRequest("r", rows, 10, rows)
    [written] = Engine(model, catalogue, bundle.layout, draft=draft).write([request])
    reference = write_list(model, catalogue.codes, bundle.layout, request)
    assert [item.row for item in written.items] == [item.row for item in reference.items]


def test_a_prompt_that_says_nothing_of_the_history_is_refused(
    padrec, dataset: Path, write_checkpoint, tmp_path: Path
) -> None:
    target, out = write_checkpoint(tmp_path / "target", "llama"), tmp_path / "bundle"
    for given, message in (
        (("--target", target, "--prompt", "what next?"), "a prompt holds {history} once"),
        (("--prompt", "{history}"), "--prompt is for a --target"),
    ):
        done = padrec("bundle", "build", dataset, *given, "--out", out)
        assert done.returncode == 2
        assert message in done.stderr
        assert not out.exists()


def test_lists_are_no_longer_than_the_positions(dataset: Path, write_checkpoint, tmp_path: Path) -> None:
    target = write_checkpoint(tmp_path / "short", "llama", positions=100)
    # 20 items of three tokens, then 40 positions for items of three tokens.
    assert build(dataset, tmp_path / "bundle", target).manifest.decoding.max_num_items == 13


def test_a_target_without_given_semantic_ids_is_refused(padrec, write_checkpoint, tmp_path: Path) -> None:
    """Learned ones would have nothing to do with those that it was trained on."""
    padrec("data", "synthesize", "--num-items", 60, "--num-users", 20, "--out", tmp_path / "shop")
    target = write_checkpoint(tmp_path / "target", "llama")
    with pytest.raises(InputError, match="has no semantic IDs"):
        build(tmp_path / "shop", tmp_path / "bundle", target)


def test_a_checkpoint_that_lacks_weights_is_refused(dataset: Path, write_checkpoint, tmp_path: Path) -> None:
    """transformers would make them up."""
    target = write_checkpoint(tmp_path / "target", "llama")
    weights = load_file(target / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"its weights lack model\.layers\.1\.mlp\.up_proj\.weight"):
        build(dataset, tmp_path / "bundle", target)


def test_an_embedding_that_was_not_resized_is_refused(
    dataset: Path, write_checkpoint, tmp_path: Path
) -> None:
    target = write_checkpoint(tmp_path / "target", "llama")
    small = write_checkpoint(tmp_path / "small", "llama", code_levels=(2, 2))
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((small / name).read_bytes())
    with pytest.raises(InputError, match="was its embedding resized"):
        build(dataset, tmp_path / "bundle", target)


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"hidden_size": "abc"}, {"model_type": None}])
def test_a_broken_configuration_is_one_line(
    dataset: Path, write_checkpoint, tmp_path: Path, change: dict
) -> None:
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
    dataset: Path, write_checkpoint, tmp_path: Path, checkpoint, message: str
) -> None:
    target = write_checkpoint(tmp_path / "target", "llama", **checkpoint)
    with pytest.raises(InputError, match=message):
        build(dataset, tmp_path / "bundle", target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.fixture(scope="module")
def prepared(dataset: Path) -> Prepared:
    data = Dataset.open(dataset)
    ids = given_semantic_ids(data)
    assert ids is not None
    return Prepared.of(data, build_catalogue(data, ids))


def train_a_draft(prepared: Prepared, target: Path, out: Path, recipe=SHORT, **options):
    """The draft, the record and all that was said."""
    stages: list[str] = []
    record = train_list_draft(
        prepared,
        target,
        read_layout(target, (8, 8)),
        dataclasses.replace(TINY, draft=recipe),
        "both",
        "fused",
        out,
        device=CPU,
        work=out.with_name("work"),
        **{"seed": 0, "on_stage": stages.append, "on_progress": lambda _: None, **options},
    )
    return load_draft(out, device=CPU, dtype=torch.float32), record, stages


def test_a_stopped_training_of_a_draft_writes_its_lists_once(
    prepared: Prepared, write_checkpoint, tmp_path: Path
) -> None:
    target = write_checkpoint(tmp_path / "target", "llama")

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_a_draft(prepared, target, tmp_path / "draft", on_progress=stop)
    assert not (tmp_path / "draft").exists()
    _, record, stages = train_a_draft(prepared, target, tmp_path / "draft")
    assert record["lists"] == 12
    assert stages == ["lists that the target has read: 12/12"]


def test_drafts_of_any_seed_share_a_file_of_lists_that_holds_enough(
    prepared: Prepared, write_checkpoint, tmp_path: Path
) -> None:
    target, lists = write_checkpoint(tmp_path / "target", "llama"), tmp_path / "lists.npz"
    train_a_draft(prepared, target, tmp_path / "first", lists=lists)
    fewer = dataclasses.replace(SHORT, num_lists=6)
    _, record, stages = train_a_draft(prepared, target, tmp_path / "fewer", fewer, lists=lists, seed=1)
    assert record["lists"] == 6
    assert stages == ["lists that the target has read: 6/6"]
    more = dataclasses.replace(SHORT, num_lists=14)
    _, record, stages = train_a_draft(prepared, target, tmp_path / "more", more, lists=lists)
    assert record["lists"] == 14
    assert stages[0] == "lists of the target: 14/14"


def test_no_more_lists_are_written_than_training_reads(
    prepared: Prepared, write_checkpoint, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(SHORT, steps=1, batch_size=3, unroll=5)
    target = write_checkpoint(tmp_path / "target", "llama")
    draft, record, _ = train_a_draft(prepared, target, tmp_path / "draft", recipe)
    assert record["lists"] == 3
    assert (draft.config.variant, draft.config.features, draft.config.max_steps) == ("both", "fused", 5)


def test_a_stop_among_the_lists_goes_on_from_those_that_are_written(
    prepared: Prepared, write_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_checkpoint(tmp_path / "target", "llama")
    whole, lists = tmp_path / "whole.npz", tmp_path / "lists.npz"
    train_a_draft(prepared, target, tmp_path / "whole", lists=whole)

    monkeypatch.setattr(written_lists, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(
        "service.drafts.Engine", lambda *args, **options: Engine(*args, **{**options, "max_batch": 4})
    )
    write, calls = Engine.write, itertools.count()

    def write_two_batches(engine: Engine, requests):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return write(engine, requests)

    monkeypatch.setattr(Engine, "write", write_two_batches)
    with pytest.raises(KeyboardInterrupt):
        train_a_draft(prepared, target, tmp_path / "draft", lists=lists)
    assert not lists.exists()  # others find all of them or none

    monkeypatch.setattr(Engine, "write", write)
    _, record, stages = train_a_draft(prepared, target, tmp_path / "draft", lists=lists)
    assert record["lists"] == 12
    assert stages == ["lists of the target: 12/12", "lists that the target has read: 12/12"]
    ours, theirs = (np.load(file)["rows"].tolist() for file in (lists, whole))
    assert ours == theirs
    assert {path.name for path in (tmp_path / "work").glob("*.npz")} == set()
