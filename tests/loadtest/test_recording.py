from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from loadtest.recording import CallRecord, Recorder, Recording, Sample, StageRecord, sampled
from loadtest.shapes import Stage
from loadtest.telling import SAMPLED
from service.errors import InputError
from service.telemetry.metrics import GatewayMetrics, WorkerMetrics
from tests.loadtest.recorded import ABOUT, calls

CALL = CallRecord("grpc", "recommend", 1.5, 0.01, 0.25, {"ok": 1})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r.jsonl", ABOUT)
    recorder.stage(Stage("a", 3.0, 5.0), 1.0)
    recorder.call(CALL)
    recorder.sample(Sample("worker", 2.0, {"x{le=1}": 3.0}))
    recorder.sample(Sample("gateway", 2.5, {"x": 4.0}, number=1))
    recorder.close()
    recorder.call(CALL)  # an answer that comes when all is over
    read = Recording.read(tmp_path / "r.jsonl")
    assert read.about == ABOUT
    assert read.stages == [StageRecord("a", 3.0, 5.0, 1.0)]
    assert read.calls == [CALL]
    assert read.samples == [
        Sample("worker", 2.0, {"x{le=1}": 3.0}),
        Sample("gateway", 2.5, {"x": 4.0}, number=1),
    ]


@pytest.mark.parametrize("text", ["", "{}", "no json", '{"kind": "call"}', '{"kind": "other"}'])
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(InputError, match="is no recording of a load test"):
        Recording.read(tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="is no recording of a load test"):
        Recording.read(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("made", "is_held"),
    [
        (calls(1.0, 2, 10, 0.9), True),
        (calls(1.0, 2, 10, 1.1), False),
        (calls(1.0, 2, 10, 0.1) + calls(2.0, 1, 1, 0.1, outcomes={"refused": 1}), False),
        (
            calls(1.0, 2, 10, 0.1) + calls(0.0, 1, 1, 0.1, outcomes={"refused": 1}),
            True,
        ),  # of the stage before
        (calls(1.0, 1, 3, 0.1), False),  # too few to tell
    ],
)
def test_whether_a_stage_was_held(tmp_path: Path, made: list[CallRecord], is_held: bool) -> None:
    recorder = Recorder(tmp_path / "r.jsonl", ABOUT)
    recorder.stage(Stage("before", 1, 1), 0.0)
    for call in calls(0.0, 1, 1, 0.1, outcomes={"refused": 1}):
        recorder.call(call)
    recorder.stage(Stage("a", 3.0, 5.0), 1.0)
    for call in made:
        recorder.call(call)
    assert recorder.was_held(Stage("a", 3.0, 5.0), deadline=1.0) is is_held
    assert not recorder.was_held(Stage("before", 1, 1), deadline=1.0)
    recorder.close()


def test_metrics_have_the_names_that_are_read() -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    worker, gateway = WorkerMetrics(registries[0]), GatewayMetrics(registries[1])
    worker.queue_duration.observe(0.02)
    worker.rounds.labels("none").inc()
    gateway.request_duration.labels("rest", "recommend", "200").observe(0.5)
    values: dict[str, float] = {}
    for registry in registries:
        values |= sampled(generate_latest(registry).decode(), SAMPLED)
    assert values["padrec_queue_duration_seconds_bucket{le=0.025}"] == 1
    assert values["padrec_request_duration_seconds_sum{method=recommend,protocol=rest,status=200}"] == 0.5
    told = {key.split("{")[0] for key in values}
    assert told == {name for name in SAMPLED if not name.startswith("process_")}
