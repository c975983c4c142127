import json
import xml.etree.ElementTree as ET
from pathlib import Path

from loadtest.report import write_reports
from tests.loadtest.recorded import recording


def test_json_in_the_form_of_all_benchmarks(tmp_path: Path) -> None:
    rows = write_reports(recording(tmp_path / "r.jsonl"), tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())
    assert list(told) == ["command", "versions", "device", "rows"]
    assert told["command"] == "LOADTEST=ramp make loadtest"
    assert told["rows"] == rows


def test_html_needs_no_other_file(tmp_path: Path) -> None:
    write_reports(recording(tmp_path / "r.jsonl"), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "src=" not in page
    assert "<link" not in page
    assert "two &lt;cores&gt;" in page
    for word in ("Beyond the knee", "Rate held", "40 a second", "refused 100", "record_events"):
        assert word in page


def test_pictures_are_the_same_each_time(tmp_path: Path) -> None:
    made = recording(tmp_path / "r.jsonl")
    drawn = []
    for _ in range(2):
        write_reports(made, tmp_path)
        drawn.append([(tmp_path / f"{name}.svg").read_bytes() for name in ("lists", "latency", "engine")])
    assert drawn[0] == drawn[1]
    for picture in drawn[0]:
        ET.fromstring(picture)
