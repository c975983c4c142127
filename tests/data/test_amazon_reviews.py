import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from service.data.amazon_reviews import import_amazon_reviews
from service.data.dataset import Dataset
from service.errors import DatasetError

# In the 2-core: users a and b, products p and q. User c has one review, product r only one user's.
REVIEWS = [("b", "p", 30), ("a", "q", 20), ("a", "p", 10), ("b", "q", 40), ("c", "p", 5), ("a", "r", 50)]


def of_2018(user: str, product: str, time: int) -> dict[str, Any]:
    return {
        "overall": 5.0,
        "reviewerID": user,
        "asin": product,
        "unixReviewTime": time,
        "style": {"Size:": "S"},
    }


def of_2023(user: str, product: str, time: int) -> dict[str, Any]:
    return {
        "user_id": user,
        "asin": f"{product}-red",
        "parent_asin": product,
        "timestamp": time * 1000,
        "images": [],
    }


def lines_of(values: list[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def rows_of(dataset: Dataset) -> list[tuple[str, str, float]]:
    table = pq.read_table(dataset.path / "interactions.parquet")
    return list(zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp")), strict=True))


def assert_refused(src: Path, tmp_path: Path, *words: str, **options: Any) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DatasetError) as caught:
        import_amazon_reviews(src, tmp_path / "out", **({"k_core": 2} | options))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("edition", [of_2018, of_2023])
@pytest.mark.parametrize("name", ["Toys.json", "Toys.jsonl", "Toys.json.gz"])
def test_editions(tmp_path: Path, edition: Any, name: str) -> None:
    content = lines_of([edition(*review) for review in REVIEWS])
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    dataset = import_amazon_reviews(tmp_path / name, tmp_path / "out", k_core=2)
    assert rows_of(dataset) == [("a", "p", 10), ("a", "q", 20), ("b", "p", 30), ("b", "q", 40)]
    assert dataset.items()["item_id"].to_pylist() == ["p", "q"]
    assert (dataset.name, dataset.has_codes, dataset.info.skipped) == ("Toys", False, {})


def test_core_is_taken_again_and_again(tmp_path: Path) -> None:
    # Each review that goes takes the next with it; the square of x, y and s, t stays.
    chain = [("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("c", "3")]
    square = [("s", "x"), ("s", "y"), ("t", "x"), ("t", "y"), ("t", "3")]
    reviews = [of_2018(user, product, time) for time, (user, product) in enumerate(chain + square)]
    (tmp_path / "r.json").write_bytes(lines_of(reviews))
    dataset = import_amazon_reviews(tmp_path / "r.json", tmp_path / "out", k_core=2)
    assert {row[:2] for row in rows_of(dataset)} == set(square[:4])
    whole = import_amazon_reviews(tmp_path / "r.json", tmp_path / "whole", k_core=1)
    assert whole.num_interactions == len(reviews)


def test_core_equals_the_naive_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users, products = (rng.geometric(0.12, size=(2, 300))).tolist()
    left = {
        (f"u{user}", f"p{product}", n) for n, (user, product) in enumerate(zip(users, products, strict=True))
    }
    (tmp_path / "r.json").write_bytes(lines_of([of_2018(*review) for review in sorted(left)]))
    dataset = import_amazon_reviews(tmp_path / "r.json", tmp_path / "out", k_core=8)
    while True:
        users, products = Counter(row[0] for row in left), Counter(row[1] for row in left)
        kept = {row for row in left if users[row[0]] >= 8 and products[row[1]] >= 8}
        if kept == left:
            break
        left = kept
    assert len(left) == 158
    assert set(rows_of(dataset)) == left


def test_repeated_reviews_count_once(tmp_path: Path) -> None:
    reviews = [of_2018(*review) for review in REVIEWS]
    (tmp_path / "r.json").write_bytes(lines_of([*reviews, reviews[4], reviews[4], {"reviewerID": "d"}]))
    dataset = import_amazon_reviews(tmp_path / "r.json", tmp_path / "out", k_core=2)
    assert dataset.num_interactions == 4
    assert dataset.info.skipped == {"repeated_rows": 2, "incomplete_rows": 1}


def test_metadata_of_all_editions(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(lines_of([of_2018("a", name, 1) for name in "pqrs"]))
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "2014.json").write_text(
        "{'asin': 'p', 'title': \"Dog's Cup\", 'price': 5, 'categories': [['Pets', 'Dogs'], ['Home']]}\n"
        "{'asin': 'unknown', 'title': 'Not reviewed'}\n"
    )
    product = {
        "asin": "q",
        "title": "Pen &amp; Ink",
        "brand": "Quill",
        "price": "$1,012.50",
        "category": ["Office"],
    }
    (meta / "2018.json.gz").write_bytes(gzip.compress(lines_of([product, product | {"title": "Again"}])))
    newest = {
        "parent_asin": "r",
        "title": "Saw",
        "store": "Oak",
        "price": None,
        "description": ["Sharp.", "Long."],
    }
    (meta / "2023.jsonl").write_bytes(lines_of([newest]))
    items = (
        import_amazon_reviews(tmp_path / "r.json", tmp_path / "out", metadata=meta, k_core=1)
        .items()
        .to_pydict()
    )
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    assert titles == {"p": "Dog's Cup", "q": "Pen & Ink", "r": "Saw", "s": ""}
    attributes = dict(zip(items["item_id"], items["attributes"], strict=True))
    missing = dict.fromkeys(["brand", "category", "price", "description"])
    assert attributes["p"] == missing | {"category": ["Pets", "Dogs"], "price": 5.0}
    assert attributes["q"] == missing | {"brand": "Quill", "category": ["Office"], "price": 1012.5}
    assert attributes["r"] == missing | {"brand": "Oak", "description": "Sharp. Long."}


def test_without_metadata_there_are_no_attributes(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(lines_of([of_2018(*review) for review in REVIEWS]))
    dataset = import_amazon_reviews(tmp_path / "r.json", tmp_path / "out", k_core=2)
    assert dataset.items().column_names == ["item_id", "title"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["no line is a review"]),
        (lines_of([{"user": "a", "item": "p"}]), ["no line is a review", "parent_asin"]),
        (lines_of([of_2018("a", "p", 1)])[:-9], ["unexpected end of data"]),
        (lines_of([of_2018("a", "p", 1)]) + b"[1]\n", ["line 2"]),
        (lines_of([of_2018("a", "p", 1)]) + b'{"asin": "\xff"}\n', ["UTF-8"]),
        (lines_of([of_2018("a", "p", 1) | {"unixReviewTime": "soon"}]), ["soon"]),
        (lines_of([of_2018("a", "p", 1)]), ["no interactions are left", "2-core"]),
    ],
)
def test_bad_reviews(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "r.json").write_bytes(content)
    assert_refused(tmp_path / "r.json", tmp_path, "r.json", *words)


def test_torn_gzip(tmp_path: Path) -> None:
    content = gzip.compress(lines_of([of_2018(f"u{n * n % 97}", "p", n) for n in range(5_000)]))
    (tmp_path / "r.json.gz").write_bytes(content[: len(content) // 2])
    assert_refused(tmp_path / "r.json.gz", tmp_path, "r.json.gz")
    (tmp_path / "r.json.gz").write_bytes(lines_of([of_2018("a", "p", 1)]))
    assert_refused(tmp_path / "r.json.gz", tmp_path, "r.json.gz")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.json", b'{"asin": "p", "title": "Cu', ["line 1"]),
        ("m.json", b'{"asin": "x"}\n"asin"\n', ["line 2"]),
        ("m.json", b'{"asin": "\xff"}\n', ["not UTF-8"]),
        ("m.json.gz", gzip.compress(b'{"asin": "x"}\n' * 900)[:-15], []),
        ("m.json.gz", b'{"asin": "x"}\n', []),
    ],
)
def test_bad_metadata(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / "r.json").write_bytes(lines_of([of_2018(*review) for review in REVIEWS]))
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / "r.json", tmp_path, name, *words, metadata=tmp_path / name)


def test_missing_files(tmp_path: Path) -> None:
    assert_refused(tmp_path / "r.json", tmp_path, "no such file", "r.json")
    (tmp_path / "r.json").write_bytes(lines_of([of_2018(*review) for review in REVIEWS]))
    assert_refused(tmp_path / "r.json", tmp_path, "no such file", "m.json", metadata=tmp_path / "m.json")
