import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry

from service.gateway.access import CALLS
from service.gateway.answer import FallbackReason
from service.telemetry.describe import page
from service.telemetry.metrics import (
    FALLBACK_REASONS,
    LABELS,
    OUTCOMES,
    RANKS,
    GatewayMetrics,
    WorkerMetrics,
    labels_of,
    rank_label,
)
from service.worker.handler import _OUTCOMES

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "service.telemetry.describe"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == made.stdout, "make metrics"


@pytest.mark.parametrize("metrics", [GatewayMetrics, WorkerMetrics])
def test_every_metric_has_a_row_with_its_labels(metrics: type) -> None:
    owner = metrics(CollectorRegistry())
    rows = {row[0]: row for row in re.findall(r"^\| `(\w+)` \|(.*)$", page(), flags=re.M)}
    for name, metric in vars(owner).items():
        if name == "registry":
            continue
        [family] = metric.collect()
        told = rows[f"{family.name}_total" if family.type == "counter" else family.name][1]
        assert f" {family.type} |" in told
        assert told.rstrip(" |").endswith(".")
        for label in metric._labelnames:
            assert f"`{label}`: " in told
            assert labels_of(family.name, label)


def test_labels_say_what_the_code_says() -> None:
    assert get_args(FallbackReason) == FALLBACK_REASONS
    assert {"ok", "error", *(name for _, name in _OUTCOMES)} == set(OUTCOMES)
    assert all(f"`{name}`" in LABELS["method"] for name, _, _ in CALLS)
    assert {rank_label(rank) for rank in range(1, 60)} == set(RANKS)
