"""`padrec train draft`: for a bundle's target and for anybody's, stopped and gone on with, and on bad input."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from service.model.draft import load_draft
from service.model.presets import preset_named


def trained(padrec, *args: object) -> "subprocess.CompletedProcess[str]":
    done = padrec("train", "draft", *args, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", ("--variant", "none")),
        ("mistral", ("--variant", "item", "--features", "fused")),
        ("qwen2", ("--variant", "step")),
        ("qwen3", ("--variant", "slots", "--features", "fused", "--unroll", 4)),
    ],
)
def test_a_target_of_each_family_gets_a_draft(
    padrec, dataset: Path, write_checkpoint, tmp_path: Path, family: str, options
) -> None:
    target = write_checkpoint(tmp_path / "target", family)
    out = tmp_path / "draft"
    done = trained(padrec, dataset, "--target", target, "--steps", 2, "--out", out, *options)
    assert done.stdout.startswith(f"draft {out}: best at step 2, accepted_length ")
    assert "lists of the target: 32/32" in done.stderr
    draft = load_draft(out, device=torch.device("cpu"), dtype=torch.float32)
    assert draft.config.variant == options[1]
    assert draft.config.max_steps == (2 if family == "qwen3" else preset_named("tiny").draft.unroll)
    record = json.loads((out / "training.json").read_text())
    assert (record["variant"], record["features"]) == (draft.config.variant, draft.config.features)
    assert record["recipe"]["steps"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"target", "draft"}


def test_a_stopped_training_goes_on(padrec, dataset: Path, write_checkpoint, tmp_path: Path) -> None:
    target = write_checkpoint(tmp_path / "target", "llama")
    command = [sys.executable, "-m", "service.cli", "train", "draft", str(dataset), "--target", str(target)]
    command += ["--steps", "100000", "--out", str(tmp_path / "d")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(r"lists of the target: (\d+)/\1$", line.rstrip()):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "padrec: stopped"
    assert {path.name for path in tmp_path.iterdir()} <= {"target", "d.work"}
    trained(padrec, dataset, "--target", target, "--steps", 2, "--out", tmp_path / "d")
    assert {path.name for path in tmp_path.iterdir()} == {"target", "d"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--target", "nowhere"), "target nowhere: config.json is missing"),
        (("--target", "TARGET", "--variant", "huge"), "no draft variant 'huge'"),
        (("--target", "TARGET", "--features", "first"), "no features 'first'"),
        (("--target", "TARGET", "--preset", "huge"), "no preset 'huge'"),
        (("--target", "TARGET", "--unroll", 0), "--unroll"),
        (("--target", "TARGET", "--out", "TARGET", "--overwrite"), "holds no draft.safetensors"),
        (("--target", "FEW CODES"), "does not hold the code token <b_7>"),
        (("--target", "SHORT"), "62 positions cannot hold 20 items of history"),
        (("--target", "BUNDLE", "--semantic-ids", "ids.parquet"), "has semantic IDs of its own"),
    ],
)
def test_bad_input_is_one_line(
    padrec, dataset: Path, bundle: Path, write_checkpoint, tmp_path: Path, args, message: str
) -> None:
    targets = {
        "TARGET": write_checkpoint(tmp_path / "target", "llama"),
        "FEW CODES": write_checkpoint(tmp_path / "few", "llama", code_levels=(8, 7)),
        "SHORT": write_checkpoint(tmp_path / "short", "llama", positions=62),
        "BUNDLE": bundle,
    }
    done = padrec(
        "train", "draft", dataset, "--out", tmp_path / "d", *(targets.get(arg, arg) for arg in args)
    )
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("padrec: ")
    assert message in line
    assert {path.name for path in tmp_path.iterdir()} == {"target", "few", "short"}


def test_without_semantic_ids_there_is_nothing_to_train_for(padrec, write_checkpoint, tmp_path: Path) -> None:
    padrec("data", "synthesize", "--num-items", 60, "--num-users", 20, "--out", tmp_path / "shop")
    target = write_checkpoint(tmp_path / "target", "llama")
    done = padrec("train", "draft", tmp_path / "shop", "--target", target, "--out", tmp_path / "d")
    assert done.returncode == 2
    assert "has no semantic IDs; pass --semantic-ids" in done.stderr
