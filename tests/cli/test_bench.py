"""`padrec bench`: its rows, and what it says of bad input."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.catalog.bundle import Bundle
from service.model.draft import Draft, save_draft
from service.model.draft_config import DraftConfig
from service.model.target import read_config


def assert_refused(done: "subprocess.CompletedProcess[str]", message: str) -> None:
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("padrec: ")
    assert message in line
    assert done.stdout == ""


def config_for(bundle: Path, variant: str) -> DraftConfig:
    opened = Bundle.open(bundle)
    return DraftConfig.like(
        read_config(opened.target_path),
        variant,
        num_levels=opened.layout.num_levels,
        num_items=opened.manifest.num_items,
        max_steps=3,
    )


def write_draft(folder: Path, config: DraftConfig, seed: int = 0) -> Path:
    """A draft that has learned nothing, and whose guesses are wrong as often as not."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    save_draft(Draft(config), folder)
    return folder


@pytest.fixture(scope="module")
def drafts(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drafts")
    return [
        write_draft(folder / "none", config_for(bundle, "none")),
        write_draft(folder / "both-0", config_for(bundle, "both"), seed=1),
        write_draft(folder / "both-1", config_for(bundle, "both"), seed=2),
    ]


def test_decoding_is_measured_and_drawn(padrec, bundle: Path, dataset: Path, drafts, tmp_path: Path) -> None:
    file, picture = tmp_path / "decode.json", tmp_path / "lengths.svg"
    given = [arg for folder in drafts for arg in ("--draft", folder)]
    small = ("--users", 5, "--num-items", 3, "--repeats", 1, "--device", "cpu")
    compare = ("--compare", "autoregressive,transformers")
    done = padrec(
        "bench", "decode", bundle, dataset, *given, *small, *compare, "--batch", "1,4", "--json", file
    )
    assert done.returncode == 0, done.stderr
    assert "draft-both" in done.stdout
    report = json.loads(file.read_text())
    assert set(report) == {"command", "versions", "device", "rows"}
    of_batch = [
        ("autoregressive", None, None),
        ("transformers", None, None),
        *(
            (method, draft, tree)
            for method, draft in (("draft-none", "none"), ("draft-both", "both-0"), ("draft-both", "both-1"))
            for tree in ("chain", "tree")
        ),
    ]
    found = [(row["method"], row["draft"], row["tree"], row["batch"]) for row in report["rows"]]
    assert found == [(*row, batch) for batch in (1, 4) for row in of_batch]
    for row in report["rows"]:
        assert row["users"] == 5
        if row["method"] == "transformers":
            continue
        assert row["equal_to_reference"] == 1.0, row
        assert row["not_allowed"] == 0
        assert row["accepted_length_low"] <= row["accepted_length"] <= row["accepted_length_high"]
        assert row["passes_per_list"] == row["rounds_per_list"] + 1
        if row["draft"] is None:
            assert row["parameters"] is row["position_share_of_pass"] is None
        else:
            assert row["position_parameters"] < 0.01 * row["parameters"]
            assert (row["position_parameters"] > 0) == (row["method"] == "draft-both")
            assert 0 < row["position_share_of_pass"] < 1

    done = padrec("bench", "plot", file, "--out", picture)
    assert done.returncode == 0, done.stderr
    assert ">draft-both<" in picture.read_text()
    done = padrec("bench", "plot", file, "--out", picture, "--what", "speeds")
    assert done.returncode == 0, done.stderr
    assert ">lists per second<" in picture.read_text()


def test_sampled_lists_and_other_shapes(padrec, bundle: Path, dataset: Path, drafts, tmp_path: Path) -> None:
    file = tmp_path / "decode.json"
    options = (
        "--tree",
        "tree",
        "--passes",
        2,
        "--width",
        3,
        "--places",
        "5,4",
        "--share",
        2,
        "--unconstrained",
        "--compare",
        "",
    )
    sampling = ("--temperature", 0.8, "--top-p", 0.9, "--no-exclude-seen")
    small = ("--users", 3, "--num-items", 3, "--repeats", 1, "--device", "cpu", "--batch", 3, "--check", 2)
    command = ("bench", "decode", bundle, dataset, "--draft", drafts[0], *options, *sampling, *small)
    done = padrec(*command, "--json", file)
    assert done.returncode == 0, done.stderr
    row, other = json.loads(file.read_text())["rows"]
    assert (row["passes"], row["width"], row["places"], row["constrained"]) == (2, 3, 5, False)
    assert (other["passes"], other["width"], other["places"], other["constrained"]) == (2, 3, 4, False)
    assert row["share"] == other["share"] == 2
    assert (row["temperature"], row["speed_up"]) == (0.8, None)
    assert row["equal_to_reference"] == 1.0
    assert row["draft_tokens_per_round"] <= 2


def test_trees_as_the_service_decides(padrec, bundle: Path, dataset: Path, drafts, tmp_path: Path) -> None:
    file = tmp_path / "decode.json"
    small = ("--users", 2, "--num-items", 3, "--repeats", 1, "--device", "cpu", "--batch", 2, "--check", 2)
    done = padrec(
        "bench", "decode", bundle, dataset, "--draft", drafts[0], "--tree", "auto", *small, "--json", file
    )
    assert done.returncode == 0, done.stderr
    alone, row = json.loads(file.read_text())["rows"]
    assert (alone["tree"], row["tree"]) == (None, "auto")
    assert row["equal_to_reference"] == 1.0


def test_folders_of_one_name_are_told_apart_by_their_paths(
    padrec, bundle: Path, dataset: Path, drafts, tmp_path: Path
) -> None:
    twins = [tmp_path / run / "draft" for run in ("a", "b")]
    for twin in twins:
        shutil.copytree(drafts[1], twin)
    file = tmp_path / "decode.json"
    small = (
        "--users",
        1,
        "--num-items",
        1,
        "--repeats",
        1,
        "--device",
        "cpu",
        "--batch",
        1,
        "--tree",
        "chain",
    )
    given = [arg for folder in (*twins, *twins) for arg in ("--draft", folder)]
    assert padrec("bench", "decode", bundle, dataset, *given, *small, "--json", file).returncode == 0
    assert [row["draft"] for row in json.loads(file.read_text())["rows"]] == [None, *map(str, twins)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--batch", "0"), "--batch '0' is not a list of numbers from 1"),
        (("--batch", "1,,8"), "--batch '1,,8'"),
        (("--batch", "many"), "--batch 'many'"),
        (("--passes", "2,x"), "--passes '2,x' is not a list"),
        (("--places", "0"), "--places '0'"),
        (("--compare", "vllm"), "--compare 'vllm' is not one of autoregressive, transformers"),
        (("--draft", "nowhere"), "draft nowhere"),
        (("--temperature", "0.001"), "--temperature 0.001"),
        (("--temperature", "nan"), "--temperature"),
        (("--top-p", "0"), "--top-p"),
        (("--num-items", "51"), "at most 50"),
        (("--tree", "bush"), "--tree"),
        (("--tree", "chain", "--width", "2"), "--width"),
        (("--tree", "auto", "--passes", "2"), "--tree auto chooses by itself"),
        (("--users", "0"), "--users"),
        (("--repeats", "0"), "--repeats"),
        (("--dtype", "int8"), "--dtype"),
        (("--json", "missing/rows.json"), "no such folder: missing"),
    ],
)
def test_bad_options_are_one_line(padrec, bundle: Path, dataset: Path, args, message: str) -> None:
    assert_refused(padrec("bench", "decode", bundle, dataset, *args), message)


def test_without_any_method_there_is_nothing_to_measure(
    padrec, make_bundle, dataset: Path, tmp_path: Path
) -> None:
    command = ("bench", "decode", make_bundle(tmp_path), dataset, "--compare", "")
    assert_refused(padrec(*command), "has no draft; pass --draft or --compare")


def test_a_draft_of_another_target_or_none_at_all_is_refused(
    padrec, bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    config = config_for(bundle, "none")
    other = write_draft(tmp_path / "other", replace(config, hidden_size=2 * config.hidden_size))
    assert_refused(
        padrec("bench", "decode", bundle, dataset, "--draft", other), "other: draft: its hidden size"
    )
    assert_refused(padrec("bench", "decode", bundle, dataset, "--draft", dataset), f"draft {dataset}")
    elsewhere = write_draft(tmp_path / "elsewhere", replace(config, target="0123456789ab"))
    assert_refused(
        padrec("bench", "decode", bundle, dataset, "--draft", elsewhere),
        f"elsewhere: draft: it was trained for target 0123456789ab, this one is {Bundle.open(bundle).target_digest}",
    )


def test_a_draft_that_guesses_items_needs_the_trie(
    padrec, bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    slots = write_draft(tmp_path / "slots", config_for(bundle, "slots"))
    command = ("bench", "decode", bundle, dataset, "--draft", slots, "--unconstrained")
    assert_refused(padrec(*command), "slots guesses items")


def test_what_cannot_be_drawn_is_named(padrec, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text("{}")
    out = tmp_path / "x.svg"
    assert_refused(padrec("bench", "plot", file, "--out", out), "rows.json was not written by")
    assert_refused(padrec("bench", "plot", tmp_path / "no.json", "--out", out), "no.json: No such file")
    assert_refused(padrec("bench", "plot", file, "--out", tmp_path / "x.png"), "x.png is no .svg")
    assert_refused(padrec("bench", "plot", file, "--out", tmp_path / "no" / "x.svg"), "no such folder")
    assert not out.exists()


def test_the_trie_benchmark_reports_its_row(padrec, tmp_path: Path) -> None:
    file = tmp_path / "trie.json"
    done = padrec("bench", "trie", "--items", 20_000, "--json", file)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(file.read_text())["rows"]
    assert row["items"] == 20_000
    assert row["megabytes"] < 4
    assert min(row["free_ms_per_list"], row["allowed_us_per_place"]) > 0


def test_a_soak(padrec, bundle: Path, dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    done = padrec(
        *("bench", "soak", bundle, dataset, "--requests", 60, "--concurrency", 12, "--max-batch", 4),
        *("--check", 5, "--device", "cpu", "--json", file),
    )
    assert done.returncode == 0, done.stderr
    [row] = json.loads(file.read_text())["rows"]
    outcomes = [row[name] for name in ("written", "late", "cancelled", "refused")]
    assert sum(outcomes) == row["requests"] == 60
    assert row["checked"] == 5
    assert row["failed"] == row["answered_twice"] == row["not_allowed"] == row["left_in_engine"] == 0
    assert row["equal_to_reference"] == 1.0


def test_prefills_of_users_who_come_back(padrec, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "prefix.json"
    done = padrec(
        *("bench", "prefix", bundle, "--history-items", 30, "--users", 3, "--batch", 2, "--device", "cpu"),
        *("--json", file),
    )
    assert done.returncode == 0, done.stderr
    [row] = json.loads(file.read_text())["rows"]
    assert (row["history_items"], row["users"], row["batch"]) == (30, 4, 2)
    assert row["times_cheaper"] == row["cold_ms"] / row["returning_ms"]


def test_histories_that_begin_alike_tell_nothing(padrec, bundle: Path) -> None:
    done = padrec("bench", "prefix", bundle, "--history-items", 2, "--users", 90, "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("padrec: random histories of 2 items begin like")
