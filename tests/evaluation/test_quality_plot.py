"""Quality by latency: what is read of reports, and that the picture is the same each time."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from service.errors import InputError
from service.evaluation.quality_plot import Quality, draw_qualities, read_qualities


def report(path: Path, **milliseconds: float | None) -> Path:
    rows = [
        {"method": method, "ms_per_list_p50": ms, "ndcg@10": 0.05, "ndcg@10_low": 0.04, "ndcg@10_high": 0.07}
        for method, ms in milliseconds.items()
    ]
    path.write_text(json.dumps({"command": "padrec evaluate", "rows": rows}))
    return path


def test_methods_that_were_timed_in_the_order_of_the_files(tmp_path: Path) -> None:
    files = [report(tmp_path / "a.json", list=20.0, beam=None), report(tmp_path / "b.json", list=2.0)]
    assert read_qualities(files) == [Quality("list", ms, 0.05, 0.04, 0.07) for ms in (20.0, 2.0)]


def test_what_is_no_report_or_was_not_timed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was timed"):
        read_qualities([report(tmp_path / "untimed.json", list=None)])
    other = tmp_path / "other.json"
    other.write_text('{"rows": [{"method": "x"}]}')
    with pytest.raises(InputError, match="was not written by 'padrec evaluate --json'"):
        read_qualities([other])


def test_the_picture_names_methods_and_is_the_same_each_time() -> None:
    qualities = [Quality("list", 20.0, 0.05, 0.04, 0.07), Quality("beam", 3.0, 0.06, 0.05, 0.07)]
    drawn = draw_qualities(qualities)
    text = "".join(ET.fromstring(drawn).itertext())
    assert "list" in text
    assert "beam" in text
    assert draw_qualities(qualities) == drawn
