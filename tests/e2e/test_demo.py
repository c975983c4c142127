"""`padrec demo --once`, as a newcomer's first command: from nothing to a recommendation, twice."""

import json
from pathlib import Path


def test_once_prints_a_recommendation_and_exits(padrec_process, tmp_path: Path) -> None:
    first = padrec_process("demo", "--once", "--steps", 5, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert len({item["title"] for item in answer["items"]}) == 10
    assert answer["fallback"] is None
    assert {path.name for path in (tmp_path / ".demo").iterdir()} >= {"shop", "bundle", "history.sqlite3"}

    second = padrec_process("demo", "--once", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert [item["item_id"] for item in json.loads(second.stdout)["items"]] == [
        item["item_id"] for item in answer["items"]
    ]
    assert second.stderr == ""
