"""The table of a list."""

import sys

import pytest
from rich.text import Text

from service.cli.serving import print_answer

TITLE = "Gel Impact Pen, Gold Ink, 1.0 mm, " * 5
ITEMS = [{"rank": rank, "item_id": f"sku-{rank:05}", "title": TITLE, "score": 0.125} for rank in range(1, 11)]
ANSWER = {
    "items": ITEMS,
    "timings": {"total_ms": 12.0},
    "model_version": "m",
    "fallback": None,
    "ignored_item_ids": [],
}


def test_a_pipe_gets_all_of_it(capsys) -> None:
    print_answer(ANSWER)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "item", "title", "score"]
    for rank, line in enumerate(lines[1:11], start=1):
        assert line.split() == [str(rank), f"sku-{rank:05}", *TITLE.split(), "0.125"]


def test_a_narrow_terminal_cuts_titles_alone(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_answer(ANSWER)
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert max(map(len, lines)) <= 60
    for rank, line in enumerate(lines[1:11], start=1):
        words = line.split()
        assert words[:2] == [str(rank), f"sku-{rank:05}"]
        assert words[-1] == "0.125"
        assert TITLE.startswith(" ".join(words[2:-1]).rstrip("…"))
