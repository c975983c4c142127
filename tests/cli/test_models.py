"""`padrec bundle`, `train`, `evaluate`: what they make, and what they say of bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.catalog.bundle import Bundle
from service.files import sha256_of


def assert_refused(done: "subprocess.CompletedProcess[str]", message: str) -> None:
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("padrec: ")
    assert message in line
    assert "Traceback" not in done.stderr


def test_a_built_bundle_is_sound(padrec, bundle: Path) -> None:
    done = padrec("bundle", "check", bundle)
    assert done.returncode == 0, done.stderr
    assert "60 items, 60 distinct semantic IDs" in done.stdout
    assert "draft 'slots' of 0." in done.stdout
    manifest = Bundle.open(bundle).manifest
    assert manifest.code_levels == (8, 8)
    assert manifest.training["best"]["step"] == manifest.training["draft"]["best"]["step"] == 6
    assert (manifest.decoding.max_history_items, manifest.decoding.max_num_items) == (20, 50)


def test_evaluate_writes_rows_for_the_list_and_its_baselines(
    padrec, bundle: Path, dataset: Path, tmp_path
) -> None:
    file = tmp_path / "rows.json"
    done = padrec(
        "evaluate", bundle, dataset, "--split", "valid", "--users", 20, "--device", "cpu", "--json", file
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert set(report) == {"command", "versions", "device", "rows"}
    assert [row["method"] for row in report["rows"]] == ["list", "popularity", "item-knn"]
    metrics = {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    intervals = {f"{name}_{end}" for name in ("recall@10", "ndcg@10") for end in ("low", "high")}
    beyond = {"coverage", "novelty", "diversity"}
    more = {"method", "users", "ndcg@10_p", "ms_per_list_p50", "equal_to_list", "largest_gap", "gap_unit"}
    assert set(report["rows"][0]) == more | metrics | intervals | beyond
    assert report["rows"][0]["users"] == 20
    assert report["command"].startswith("padrec evaluate ")


def test_evaluate_by_beam_decoding_beside_the_list(padrec, bundle: Path, dataset: Path, tmp_path) -> None:
    file = tmp_path / "rows.json"
    options = "--split", "valid", "--users", 20, "--device", "cpu", "--decoding", "beam", "--decoding", "list"
    baselines = "--baseline", "sasrec", "--baseline", "popularity"
    done = padrec("evaluate", bundle, dataset, *options, *baselines, "--json", file)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["method"] for row in rows] == ["beam", "list", "sasrec", "popularity"]
    assert [row["ndcg@10_p"] is None for row in rows] == [True, False, False, False]


def test_evaluate_with_the_draft_and_with_the_time_that_lists_take(
    padrec, bundle: Path, dataset: Path, tmp_path
) -> None:
    file, picture = tmp_path / "rows.json", tmp_path / "quality.svg"
    few = "--split", "valid", "--users", 12, "--device", "cpu", "--json", file
    done = padrec("evaluate", bundle, dataset, *few, "--speculative", "--latency", 3)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["list", "speculative", "popularity", "item-knn"]
    assert [row["equal_to_list"] for row in rows.values()] == [None, 1.0, None, None]
    assert all(row["largest_gap"] is None for row in rows.values())
    assert rows["speculative"]["ndcg@10"] == rows["list"]["ndcg@10"]
    assert all(row["ms_per_list_p50"] > 0 for row in rows.values())
    done = padrec("bench", "plot", file, "--out", picture, "--what", "quality")
    assert done.returncode == 0, done.stderr
    assert ">speculative<" in picture.read_text()


def test_evaluate_refuses_to_compare_with_what_is_not_there(
    padrec, bundle: Path, dataset: Path, tmp_path
) -> None:
    refused = padrec("evaluate", bundle, dataset, "--decoding", "beam", "--speculative")
    assert_refused(refused, "--speculative is compared with --decoding list")
    plain = tmp_path / "plain"
    done = padrec("bundle", "build", dataset, "--target", bundle / "target", "--no-draft", "--out", plain)
    assert done.returncode == 0, done.stderr
    refused = padrec("evaluate", plain, dataset, "--speculative", "--device", "cpu")
    assert_refused(refused, "has no draft")


def test_the_stages_one_by_one_make_a_bundle_too(padrec, source: Path, tmp_path: Path) -> None:
    """Without given IDs: semantic IDs, a target, a bundle that takes both as they are, and a draft for it."""
    rows = json.loads((source / "interactions.json").read_text())
    lines = ["user_id,item_id,timestamp"]
    lines += [f"{user},{item},{time}" for user, items in rows.items() for time, item in enumerate(items)]
    (tmp_path / "events.csv").write_text("\n".join(lines))
    names = ("data", "ids.parquet", "target", "bundle", "draft")
    data, ids, target, bundle, draft = (tmp_path / name for name in names)
    given = ("--semantic-ids", ids)
    for step in (
        ("data", "import", "csv", tmp_path / "events.csv", "--out", data),
        ("train", "semantic-ids", data, "--levels", 2, "--out", ids),
        ("train", "target", data, *given, "--steps", 4, "--out", target),
        ("bundle", "build", data, *given, "--target", target, "--no-draft", "--out", bundle),
        ("bundle", "check", bundle),
        ("train", "draft", data, "--target", bundle, "--steps", 2, "--out", draft),
    ):
        done = padrec(*step)
        assert done.returncode == 0, done.stderr
    weights = "model.safetensors"
    assert (bundle / "target" / weights).read_bytes() == (target / weights).read_bytes()
    assert not (bundle / "draft").exists()
    assert {path.name for path in draft.iterdir()} == {"config.json", "draft.safetensors", "training.json"}
    assert {path.name for path in tmp_path.iterdir()} == {*names, "events.csv"}


def test_building_is_reproducible(padrec, bundle: Path, dataset: Path, tmp_path: Path) -> None:
    done = padrec("bundle", "build", dataset, "--preset", "tiny", "--steps", 6, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    again = Bundle.open(tmp_path / "again").manifest
    assert again.model_version == Bundle.open(bundle).manifest.model_version


def test_a_stopped_build_leaves_no_bundle_and_goes_on(padrec, dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "bundle", "build", str(dataset), "--steps", "100000"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "b")], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "training target" in line:
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "padrec: stopped"
    assert {path.name for path in tmp_path.iterdir()} <= {"b.work"}


def test_a_failure_at_the_last_step_does_not_throw_the_training_away(
    padrec, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("bundle", "build", dataset, "--steps", 4, "--out", tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr("service.build.seal", raise_disk_full)
        assert_refused(padrec(*command), "No space left on device")
    assert {path.name for path in tmp_path.iterdir()} == {"b.work"}
    done = padrec(*command)
    assert done.returncode == 0, done.stderr
    assert not any(line.startswith("training 1/") for line in done.stderr.splitlines())
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def raise_disk_full(*_args, **_options) -> None:
    raise OSError(28, "No space left on device", "manifest.json")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--preset", "huge"), "no preset 'huge'"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--semantic-ids", "none.parquet"), "none.parquet"),
        (("--draft-variant", "huge"), "no draft variant 'huge'"),
        (("--target", "nowhere"), "target nowhere: config.json is missing"),
        (("--seed", "-1"), "--seed"),
        (("--steps", "0"), "--steps"),
        (("--nonsense", "1"), "--nonsense"),
    ],
)
def test_bad_options_of_a_build_are_named(padrec, dataset: Path, tmp_path: Path, args, message: str) -> None:
    assert_refused(padrec("bundle", "build", dataset, "--out", tmp_path / "b", *args), message)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_by_accident(padrec, bundle: Path, dataset: Path, tmp_path: Path) -> None:
    assert_refused(padrec("bundle", "build", dataset, "--out", bundle), "exists already")
    assert_refused(
        padrec("bundle", "build", dataset, "--out", dataset, "--overwrite"), "holds no manifest.json"
    )
    file = tmp_path / "ids.parquet"
    file.touch()
    assert_refused(padrec("train", "semantic-ids", dataset, "--out", file), "exists already")
    assert file.read_bytes() == b""


@pytest.mark.parametrize("name", ["missing/rows.json", "."])
def test_a_place_for_the_rows_is_asked_for_before_the_work(
    padrec, bundle, dataset, tmp_path: Path, name: str
) -> None:
    done = padrec("evaluate", bundle, dataset, "--json", tmp_path / name)
    assert_refused(done, "folder")
    assert done.stdout == ""


def test_usage_errors_are_one_line(padrec, bundle: Path, dataset: Path) -> None:
    done = padrec("evaluate", bundle, dataset, "--users", 0)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("padrec: Invalid value for '--users'")
    assert line.endswith("(see 'padrec evaluate --help')")
    assert padrec("evaluate", "--help").returncode == 0
    assert "bundle" in padrec().stdout


def test_a_torn_bundle_is_refused_with_the_file_s_name(
    padrec, padrec_process, bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(bundle, torn)
    weights = torn / "target" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in (("bundle", "check", torn), ("evaluate", torn, dataset)):
        assert_refused(padrec(*command), "target/model.safetensors does not match its sha256")
    assert_refused(padrec_process("worker", torn), "target/model.safetensors does not match its sha256")
    (torn / "manifest.json").unlink()
    for command in (("serve", torn), ("gateway", torn)):
        done = padrec_process(*command, env={**os.environ, "PADREC_GATEWAY__WORKER": "unix:/none"})
        assert_refused(done, "manifest.json is missing")


def test_a_draft_of_another_target_is_found_in_a_bundle(padrec, bundle: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(bundle, mixed)
    config, manifest = mixed / "draft" / "config.json", mixed / "manifest.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target": "0123456789ab"}))
    record = json.loads(manifest.read_text())
    record["files"]["draft/config.json"] = sha256_of(config)
    manifest.write_text(json.dumps(record))
    assert_refused(padrec("bundle", "check", mixed), "it was trained for target 0123456789ab, this one is")


def test_bundle_and_dataset_must_belong_together(padrec, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "u,elsewhere,1\n" * 4)
    padrec("data", "import", "csv", tmp_path / "events.csv", "--out", tmp_path / "data")
    assert_refused(
        padrec("evaluate", bundle, tmp_path / "data"), "item 'elsewhere' is not in the bundle's catalogue"
    )
