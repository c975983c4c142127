"""Speeds by batch: what is read of reports, and that the picture is the same each time."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from service.errors import InputError
from service.evaluation.speed_plot import Speed, draw_speeds, read_speeds


def row(method: str, batch: int, lists: float, speed_up: float | None, **more) -> dict[str, object]:
    figures = {"lists_per_second": lists, "speed_up": speed_up, "constrained": True, "temperature": 0.0}
    return {"method": method, "batch": batch, **figures, **more}


def report(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(json.dumps({"command": "padrec bench decode", "rows": rows}))
    return path


def test_the_fastest_of_each_method_and_batch_in_the_order_of_the_files(tmp_path: Path) -> None:
    first = report(
        tmp_path / "a.json",
        row("autoregressive", 1, 20.0, 1.0),
        row("draft-slots", 1, 60.0, 3.0),
        row("draft-slots", 1, 80.0, 4.0),
        row("draft-slots", 1, 50.0, 2.5, temperature=0.5),
    )
    second = report(tmp_path / "b.json", row("draft-slots", 8, 300.0, None), row("draft-slots", 1, 70.0, 3.5))
    assert read_speeds([first, second]) == [
        Speed("autoregressive", 1, 20.0, None),
        Speed("draft-slots", 1, 80.0, 4.0),
        Speed("draft-slots, T 0.5", 1, 50.0, 2.5),
        Speed("draft-slots", 8, 300.0, None),
    ]


def test_what_is_no_report_or_has_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        read_speeds([report(tmp_path / "none.json")])
    with pytest.raises(InputError, match="was not written by"):
        read_speeds([report(tmp_path / "other.json", {"method": "x"})])


def test_the_picture_names_methods_and_speed_ups_and_is_the_same_each_time() -> None:
    speeds = [Speed("autoregressive", 1, 20.0, None), Speed("draft-slots", 1, 80.0, 4.0)]
    drawn = draw_speeds(speeds)
    text = "".join(ET.fromstring(drawn).itertext())
    assert "draft-slots" in text
    assert "4.00x" in text
    assert draw_speeds(speeds) == drawn
