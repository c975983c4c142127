"""The JSON that benchmarks write."""

import json
from pathlib import Path

import torch

from service.evaluation import report


def test_a_package_that_runs_from_a_folder_does_not_cost_the_rows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "PACKAGES", ("numpy", "no-such-package"))
    report.write_report(tmp_path / "rows.json", "padrec bench", torch.device("cpu"), [{"row": 1}])
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["rows"] == [{"row": 1}]
    assert written["versions"]["numpy"]
    assert written["versions"]["no-such-package"] is None
