"""What the picture is drawn from, and that it is the same each time."""

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from service.errors import InputError
from service.evaluation.decode_plot import Length, draw, read_lengths

SIZES = {"passes": 8, "width": 8, "places": 48}


def row(method: str, draft: str | None, tree: str | None, length: float | None, **more) -> dict[str, object]:
    ends = (None, None) if length is None else (length - 0.2, length + 0.3)
    keys = {"constrained": True, "temperature": 0.0, "batch": 1} | more
    sizes = {"passes": None, "width": None, "places": None} if tree is None else SIZES
    return {
        "method": method,
        "draft": draft,
        "tree": tree,
        "accepted_length": length,
        "accepted_length_low": ends[0],
        "accepted_length_high": ends[1],
        **sizes,
        **keys,
    }


def report(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(json.dumps({"command": "padrec bench decode", "rows": rows}))
    return path


def test_one_length_for_each_draft_from_the_smallest_batch(tmp_path: Path) -> None:
    first = report(
        tmp_path / "a.json",
        row("autoregressive", None, None, 1.8, batch=8),
        row("draft-both", "seed-0", "tree", 5.0, batch=8),
        row("autoregressive", None, None, 1.75),
        row("transformers", None, None, None, constrained=False),
        row("draft-both", "seed-0", "chain", 4.0),
        row("draft-both", "seed-0", "tree", 5.5),
        row("draft-both", "seed-1", "tree", 5.75),
    )
    second = report(
        tmp_path / "b.json",
        row("draft-both", "seed-0", "tree", 3.5, constrained=False, temperature=0.7),
    )
    assert [(length.label, length.tree, length.mean) for length in read_lengths([first, second])] == [
        ("autoregressive", None, 1.75),
        ("draft-both", "chain", 4.0),
        ("draft-both", "tree", 5.5),
        ("draft-both", "tree", 5.75),
        ("draft-both, no trie, T 0.7", "tree", 3.5),
    ]
    assert read_lengths([first])[0].low == pytest.approx(1.55)


def test_sizes_of_one_draft_are_told_apart(tmp_path: Path) -> None:
    file = report(
        tmp_path / "a.json",
        row("draft-both", "seed-0", "chain", 3.0),
        row("draft-both", "seed-0", "tree", 5.0, passes=4),
        row("draft-both", "seed-0", "tree", 6.0),
        row("draft-both", "seed-0", "tree", 6.5, batch=8),
    )
    assert [(length.label, length.mean) for length in read_lengths([file])] == [
        ("draft-both", 3.0),
        ("draft-both, 4 passes, 48 tokens", 5.0),
        ("draft-both, 8 passes, 48 tokens", 6.0),
    ]


LENGTHS = [
    Length("autoregressive", None, 1.75, 1.7, 1.8),
    Length("draft-none", "tree", 3.5, 3.3, 3.6),
    Length("draft-both", "chain", 4.0, 3.9, 4.2),
    Length("draft-both", "tree", 5.5, 5.2, 5.6),
    Length("draft-both", "tree", 5.75, 5.5, 6.0),
]


def test_the_picture_is_small_readable_and_always_the_same() -> None:
    drawn = draw(LENGTHS)
    assert draw(LENGTHS) == drawn
    assert len(drawn) < 40_000
    texts = {"".join(node.itertext()).strip() for node in ET.fromstring(drawn).iter() if "text" in node.tag}
    assert {"autoregressive", "draft-none", "draft-both", "chain", "tree", "5.62", "4.00"} <= texts
    assert b"<dc:date>" not in drawn


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for content in ("", "[]", '{"rows": [{"items": 3}]}', '{"rows": 3}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match=r"x\.json was not written by"):
            read_lengths([tmp_path / "x.json"])
    report(tmp_path / "x.json", row("transformers", None, None, None))
    with pytest.raises(InputError, match="no row has an accepted length"):
        read_lengths([tmp_path / "x.json"])


def test_without_matplotlib_one_is_told_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"padrec\[plot\]"):
        draw(LENGTHS)
