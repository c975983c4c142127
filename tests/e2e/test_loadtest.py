"""A few seconds of load on a real service, and the report of it; nothing is said of how fast it was."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadtest.recording import Recording

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "LOADTEST_SOAK_SECONDS": "5",
    "LOADTEST_RATE": "6",
    "LOADTEST_THINK_SECONDS": "2",
    "LOADTEST_USERS": "20",
    "LOADTEST_GRPC_SHARE": "0.5",
    "LOADTEST_DEADLINE_MS": "20000",
    "LOADTEST_SETTLE_SECONDS": "0",
}


def run(*options: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loadtest", *options]
    environment = {**os.environ, **settings}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("generators", [1, 2])
def test_load_on_a_service_is_reported(service, tmp_path: Path, generators: int) -> None:
    target = ["--url", service.url, "--grpc", service.grpc]
    settings = {**SETTINGS, "LOADTEST_GENERATORS": str(generators)}
    done = run("--shape", "soak", *target, "--out", str(tmp_path), **settings)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {row["kind"] for row in rows} == {"run", "stage", "call", "held"}
    [stage] = [row for row in rows if row["kind"] == "stage"]
    assert stage["failed_lists"] == stage["failed_events"] == {}
    assert stage["goodput"] > 0
    # A dozen visitors, each due from half to one and a half of every two seconds.
    assert 5 * 6 / 2 < len(Recording.read(tmp_path / "recording.jsonl").calls) < 5 * 6 * 2
    assert stage["worker_cores"] is None  # nobody said where its metrics are
    outcomes: Counter[str] = Counter()
    for row in rows:
        if row["kind"] == "call":
            outcomes.update({(row["protocol"], kind): count for kind, count in row["outcomes"].items()})
    assert outcomes["rest", "ok"] > 0
    assert outcomes["grpc", "ok"] > 0
    assert (tmp_path / "report.html").is_file()

    again = run("--recording", str(tmp_path / "recording.jsonl"), "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "report.json").read_text())["rows"] == rows


def test_a_spike_comes_and_goes_at_once(service, tmp_path: Path) -> None:
    stages = {
        "LOADTEST_CALM_SECONDS": "4",
        "LOADTEST_SPIKE_SECONDS": "3",
        "LOADTEST_SPIKE_FACTOR": "8",
        "LOADTEST_SETTLE_SECONDS": "1",
    }
    target = ["--url", service.url, "--grpc", service.grpc]
    done = run("--shape", "spike", *target, "--out", str(tmp_path), **(SETTINGS | stages))
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()[1:]] == ["before", "spike", "after"]
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    before, spike, after = (row for row in rows if row["kind"] == "stage")
    assert spike["calls"] > 3 * before["calls"]
    assert spike["calls"] > 3 * after["calls"]


def test_steps_follow_each_other(service, tmp_path: Path) -> None:
    stages = {"LOADTEST_STEP_SECONDS": "3", "LOADTEST_STEP_FACTORS": "[1, 4]"}
    done = run("--shape", "step", "--url", service.url, "--out", str(tmp_path), **(SETTINGS | stages))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    one, four = (row for row in rows if row["kind"] == "stage")
    assert (one["stage"], four["stage"]) == ("1 times", "4 times")
    assert set(four["list_outcomes"]) == {"ok"}
    assert {row["protocol"] for row in rows if row["kind"] == "call"} == {"rest"}


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("--shape", "hill", "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["error: no such shape: 'hill'; there are ramp, step, spike, soak"]
