"""`padrec data`: each importer through its command, and one line for bad input."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.data.dataset import Dataset


def test_a_shop_is_synthesised(padrec, tmp_path: Path) -> None:
    done = padrec("data", "synthesize", "--num-items", 60, "--num-users", 30, "--out", tmp_path / "shop")
    assert done.returncode == 0, done.stderr
    assert "30 users, 60 items" in done.stdout
    assert Dataset.open(tmp_path / "shop").num_items == 60


def test_parquet_columns_are_named_by_options(padrec, tmp_path: Path) -> None:
    table = pa.table({"who": ["u", "u", "v"], "what": ["a", "b", "a"], "when": [2, 1, 3]})
    pq.write_table(table, tmp_path / "log.parquet")
    columns = ("--user-column", "who", "--item-column", "what", "--timestamp-column", "when")
    done = padrec("data", "import", "parquet", tmp_path / "log.parquet", *columns, "--out", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    assert "2 users, 2 items, 3 interactions" in done.stdout


def test_amazon_reviews(padrec, tmp_path: Path) -> None:
    lines = [
        f'{{"reviewerID": "u{user}", "asin": "i{item}", "unixReviewTime": {item}}}'
        for user in range(3)
        for item in range(3)
    ]
    (tmp_path / "reviews.json").write_text("\n".join(lines))
    done = padrec(
        "data", "import", "amazon-reviews", tmp_path / "reviews.json", "--k-core", 3, "--out", tmp_path / "d"
    )
    assert done.returncode == 0, done.stderr
    assert "3 users, 3 items, 9 interactions" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,thing\nu,1\n", "item_id"),
        ("", "events.csv"),
        (None, "events.csv"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    padrec, tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "events.csv").write_text(content)
    done = padrec("data", "import", "csv", tmp_path / "events.csv", "--out", tmp_path / "out")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("padrec: ")
    assert message in line
    assert {path.name for path in tmp_path.iterdir()} <= {"events.csv"}


def test_an_unknown_format_is_a_usage_error(padrec, tmp_path: Path) -> None:
    done = padrec("data", "import", "xml", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "xml" in done.stderr
