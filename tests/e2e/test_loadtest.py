"""A few seconds of load on a real service, and the report of it; nothing is said of how fast it was."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.recording import Recording
from loadtest.run import Target
from loadtest.serving import serving
from loadtest.traffic import EVENTS, LISTS

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


@pytest.fixture(scope="module")
def target(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with serving(bundle, tmp_path_factory.mktemp("logs"), gateways=2) as started:
        yield started


@pytest.fixture
def options(target: Target) -> list[str]:
    """That name both gateways."""
    return [*(f"--url={url}" for url in target.urls), *(f"--grpc={address}" for address in target.grpc)]


def calls_of_each(target: Target) -> list[Counter[str]]:
    """How many calls of visitors each gateway has answered, by protocol."""
    calls, counts = (*LISTS, EVENTS), []
    for url in target.urls:
        counts.append(Counter[str]())
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
            for one in family.samples:
                if one.name == "padrec_request_duration_seconds_count" and one.labels["method"] in calls:
                    counts[-1][one.labels["protocol"]] += int(one.value)
    return counts


@pytest.mark.parametrize("generators", [1, 2])
def test_load_on_a_service_is_reported(target, options, tmp_path: Path, generators: int) -> None:
    settings = {**SETTINGS, "LOADTEST_GENERATORS": str(generators)}
    before = calls_of_each(target)
    done = run("--shape", "soak", *options, "--out", str(tmp_path), **settings)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {row["kind"] for row in rows} == {"run", "stage", "call", "held"}
    assert rows[0]["gateways"] == 2
    for earlier, later in zip(before, calls_of_each(target), strict=True):
        assert later["rest"] > earlier["rest"]
        assert later["grpc"] > earlier["grpc"]
    [stage] = [row for row in rows if row["kind"] == "stage"]
    assert stage["failed_lists"] == stage["failed_events"] == {}
    assert stage["goodput"] > 0
    # A dozen visitors, each due from half to one and a half of every two seconds.
    assert 5 * 6 / 2 < len(Recording.read(tmp_path / "recording.jsonl").calls) < 5 * 6 * 2
    assert stage["gateway_cores"] > 0
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


def test_a_spike_comes_and_goes_at_once(options, tmp_path: Path) -> None:
    stages = {
        "LOADTEST_CALM_SECONDS": "4",
        "LOADTEST_SPIKE_SECONDS": "3",
        "LOADTEST_SPIKE_FACTOR": "8",
        "LOADTEST_SETTLE_SECONDS": "1",
    }
    done = run("--shape", "spike", *options, "--out", str(tmp_path), **(SETTINGS | stages))
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()[1:]] == ["before", "spike", "after"]
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    before, spike, after = (row for row in rows if row["kind"] == "stage")
    assert spike["calls"] > 3 * before["calls"]
    assert spike["calls"] > 3 * after["calls"]


def test_steps_follow_each_other(target, tmp_path: Path) -> None:
    stages = {"LOADTEST_STEP_SECONDS": "3", "LOADTEST_STEP_FACTORS": "[1, 4]"}
    done = run("--shape", "step", "--url", target.urls[0], "--out", str(tmp_path), **(SETTINGS | stages))
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
