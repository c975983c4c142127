"""`padrec bench`: its rows, and what it says of bad input."""

import json
from pathlib import Path


def test_the_trie_benchmark_reports_its_row(padrec, tmp_path: Path) -> None:
    file = tmp_path / "trie.json"
    done = padrec("bench", "trie", "--items", 20_000, "--json", file)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(file.read_text())["rows"]
    assert row["items"] == 20_000
    assert row["megabytes"] < 4
