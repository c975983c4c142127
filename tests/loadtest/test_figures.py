from pathlib import Path

import pytest

from loadtest.figures import outcomes_of, rows_of
from loadtest.recording import CallRecord
from tests.loadtest.recorded import ABOUT, recording


@pytest.fixture
def rows(tmp_path: Path) -> list[dict]:
    return rows_of(recording(tmp_path / "r.jsonl"))


def of_kind(rows: list[dict], kind: str) -> list[dict]:
    return [row for row in rows if row["kind"] == kind]


def test_the_run_is_told_first(rows: list[dict]) -> None:
    assert rows[0]["kind"] == "run"
    assert rows[0]["profile"] == ABOUT["profile"]


def test_rates_leave_out_how_a_stage_began(rows: list[dict]) -> None:
    first, second, third, beyond = of_kind(rows, "stage")
    assert [row["seconds"] for row in (first, second, third, beyond)] == [4, 4, 4, 5]
    assert (first["calls"], first["lists"], first["goodput"]) == (10, 10, 10)
    assert (second["p50_ms"], second["p99_ms"]) == (300, 300)
    assert second["generator_lag_ms_p99"] == 1


def test_what_is_late_is_no_goodput(rows: list[dict]) -> None:
    third = of_kind(rows, "stage")[2]
    assert (third["lists"], third["goodput"], third["late"]) == (40, 20, 20)
    assert third["p99_ms"] == 1_200


def test_refusals_are_told_from_failures_and_batches_counted_by_list(rows: list[dict]) -> None:
    beyond = of_kind(rows, "stage")[3]
    assert beyond["calls"] == 18 + 20 + 1 + 1 + 1
    assert beyond["lists"] == 18 + 20 + 1 + 3
    assert beyond["goodput"] == 18 + 2
    assert beyond["refused"] == 20 + 1
    assert beyond["list_outcomes"] == {"deadline": 5, "ok": 100, "refused": 105}
    assert beyond["event_outcomes"] == {"ok": 5}
    assert beyond["failed_lists"] == {"deadline": 5}
    assert beyond["failed_events"] == {}


def test_the_worker_is_told_of_beside(rows: list[dict]) -> None:
    for row in of_kind(rows, "stage"):
        assert (row["batch_size"], row["waiting"]) == (4, 3)
        assert row["queue_ms_p99"] is None


def test_rates_held_by_limit(rows: list[dict]) -> None:
    assert of_kind(rows, "held") == [
        {"kind": "held", "limit_ms": 50, "calls_due": None, "goodput": None, "p99_ms": None},
        {"kind": "held", "limit_ms": 150, "calls_due": 10, "goodput": 10, "p99_ms": 100},
        {"kind": "held", "limit_ms": 400, "calls_due": 20, "goodput": 20, "p99_ms": 300},
    ]


def test_what_is_left_beyond_the_knee(rows: list[dict]) -> None:
    [beyond] = of_kind(rows, "beyond")
    assert (beyond["knee"], beyond["calls_due"]) == (20, 40)
    assert (beyond["peak_goodput"], beyond["goodput"], beyond["share_of_peak"]) == (20, 20, 1)
    assert (beyond["p99_ms"], beyond["deadline_ms"]) == (800, 1_000)


def test_each_call_by_each_protocol(rows: list[dict]) -> None:
    told = {(row["stage"], row["protocol"], row["call"]): row for row in of_kind(rows, "call")}
    assert len(told) == 3 + 4
    assert told["beyond the knee", "grpc", "recommend"]["p99_ms"] == 800
    refused = told["beyond the knee", "rest", "recommend"]
    assert refused["outcomes"] == {"refused": 100, "deadline": 5}
    assert refused["p50_ms"] is None
    assert told["40 a second", "rest", "recommend"]["outcomes"] == {"ok": 80, "late": 80}


@pytest.mark.parametrize(
    ("call", "seconds", "outcomes", "expected"),
    [
        ("recommend", 1.1, {"ok": 1}, {"late": 1}),
        ("recommend", 1.1, {"deadline": 1}, {"deadline": 1}),
        ("recommend_batch", 1.1, {"ok": 2, "refused": 1}, {"late": 2, "refused": 1}),
        ("record_events", 1.1, {"ok": 1}, {"ok": 1}),
    ],
)
def test_only_lists_get_late(call: str, seconds: float, outcomes: dict, expected: dict) -> None:
    assert outcomes_of(CallRecord("rest", call, 0.0, 0.0, seconds, outcomes), deadline=1.0) == expected
