"""Rows of a load test that never was."""

from pathlib import Path
from typing import Any

from loadtest.profile import Profile
from loadtest.recording import CallRecord, Recorder, Recording, Sample
from loadtest.shapes import BEYOND, Stage

PROFILE = Profile(deadline_ms=1_000, settle_seconds=1, limits_ms=(50, 150, 400), beyond_factor=2)
ABOUT: dict[str, Any] = {
    "command": "LOADTEST=ramp make loadtest",
    "versions": {"python": "3.11", "locust": "2"},
    "device": "two <cores>",
    "shape": "ramp",
    "started": "2026-11-26T18:00:00+00:00",
    "load_average": [0.5, 0.5, 0.5],
    "profile": PROFILE.model_dump(mode="json"),
}


def calls(start: float, seconds: float, rate: int, took: float, **more: Any) -> list[CallRecord]:
    """So many calls in each second, all alike."""
    fields = {"protocol": "rest", "call": "recommend", "lag": 0.001, "outcomes": {"ok": 1}, "seconds": took}
    return [CallRecord(due=start + i / rate, **(fields | more)) for i in range(round(rate * seconds))]


def told(process: str, at: float, **values: float) -> Sample:
    return Sample(process, at, values)


def recording(file: Path) -> Recording:
    """A ramp: 10 and 20 a second are held, 40 are not; then 40 again, of which half are refused."""
    recorder = Recorder(file, ABOUT)
    for start, rate, took in ((0.0, 10, 0.1), (5.0, 20, 0.3)):
        recorder.stage(Stage(f"{rate} a second", rate, 5), start)
        for call in calls(start, 5, rate, took):
            recorder.call(call)
    recorder.stage(Stage("40 a second", 40, 5), 10.0)
    for call in calls(10.0, 5, 20, 0.9) + calls(10.0, 5, 20, 1.2):
        recorder.call(call)
    recorder.stage(Stage(BEYOND, 40, 6), 15.0)
    for call in calls(15.0, 6, 18, 0.8, protocol="grpc"):
        recorder.call(call)
    for call in calls(15.0, 6, 20, 0.01, outcomes={"refused": 1}):
        recorder.call(call)
    for call in calls(15.0, 6, 1, 1.0, outcomes={"deadline": 1}) + calls(
        15.0, 6, 1, 0.02, call="record_events"
    ):
        recorder.call(call)
    for call in calls(15.0, 6, 1, 0.9, call="recommend_batch", outcomes={"ok": 2, "refused": 1}):
        recorder.call(call)
    for at in range(22):
        recorder.sample(
            told(
                "worker",
                at,
                padrec_batch_size_sum=8.0 * at,
                padrec_batch_size_count=2.0 * at,
                padrec_queue_size=3,
            )
        )
    recorder.close()
    return Recording.read(file)
