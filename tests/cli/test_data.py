"""`padrec data`: each importer through its command, and one line for bad input."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.cli import display
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


def assert_refused(done, *words: str) -> None:
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("fmt", "option", "value", "owners"),
    [
        ("amazon-reviews", "--items", "items.csv", "csv and parquet"),
        ("amazon-reviews", "--min-interactions", 1, "csv and parquet"),
        ("csv", "--k-core", 5, "amazon-reviews"),
        ("parquet", "--metadata", "meta.json", "amazon-reviews"),
        ("semantic-id-json", "--user-column", "user_id", "csv and parquet"),
        ("semantic-id-json", "--k-core", 2, "amazon-reviews"),
    ],
)
def test_options_of_another_format_are_refused(
    padrec, tmp_path: Path, fmt: str, option: str, value: object, owners: str
) -> None:
    done = padrec("data", "import", fmt, tmp_path / "src", option, value, "--out", tmp_path / "out")
    assert_refused(done, f"{option} is an option of {owners}, not of {fmt}")


def test_columns_of_items_need_items(padrec, tmp_path: Path) -> None:
    done = padrec(
        "data", "import", "csv", tmp_path / "log.csv", "--title-column", "name", "--out", tmp_path / "out"
    )
    assert_refused(done, "--title-column", "--items")


@pytest.mark.parametrize(("src", "out"), [("a/src", "a/src"), ("a/src", "a"), ("a/src", "a/src/new/out")])
def test_out_apart_from_the_source(padrec, tmp_path: Path, src: str, out: str) -> None:
    (tmp_path / src).mkdir(parents=True)
    log = tmp_path / src / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu,a,1\n")
    # A sealed folder, which --overwrite may replace.
    (tmp_path / src / "dataset.json").write_text("{}")
    done = padrec(
        "data", "import", "csv", tmp_path / src, "--out", tmp_path / src / ".." / ".." / out, "--overwrite"
    )
    assert_refused(done, "--out", "overlap")
    assert sorted(path.name for path in log.parent.iterdir()) == ["dataset.json", "log.csv"]


def test_out_apart_from_the_items(padrec, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "items.csv").write_text("item_id,title\na,Cup\n")
    options = ("--items", tmp_path / "old" / "items.csv", "--out", tmp_path / "old", "--overwrite")
    assert_refused(padrec("data", "import", "csv", tmp_path / "log.csv", *options), "items.csv overlap")
    assert (tmp_path / "old" / "items.csv").exists()


def test_synthesising_shows_progress(padrec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "PLAIN_INTERVAL_SECONDS", 0.0)
    done = padrec("data", "synthesize", "--num-items", 60, "--num-users", 30, "--out", tmp_path / "shop")
    assert "synthesising shop" in done.stderr
    assert "writing interactions" in done.stderr


def test_a_negative_seed_is_a_usage_error(padrec, tmp_path: Path) -> None:
    done = padrec("data", "synthesize", "--seed", "-1", "--out", tmp_path / "shop")
    assert done.returncode == 2
    assert "--seed" in done.stderr
    assert list(tmp_path.iterdir()) == []
