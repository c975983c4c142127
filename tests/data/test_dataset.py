import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.data import dataset as dataset_module
from service.data.dataset import INTERACTION_SCHEMA, Dataset, Source
from service.data.write import new_dataset
from service.errors import DatasetError

USERS = ["b", "b", "a", "a", "a", "c"]
ITEMS = ["y", "x", "x", "x", "z", "y"]


def write(out: Path, users: list[str] = USERS, items: list[str] = ITEMS, rows_per_batch: int = 6) -> Path:
    table = pa.table([users, items, np.arange(float(len(users)))], schema=INTERACTION_SCHEMA)
    with new_dataset(out, Source(format="test", name="shop.csv")) as writer:
        writer.write_items(pa.table({"item_id": ["x", "y", "z"], "title": ["X", "", "Z"]}))
        writer.write_interactions(table.to_batches(rows_per_batch))
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_interactions_do_not_depend_on_batches(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "BATCH_ROWS", size)
    dataset = Dataset.open(write(tmp_path / "out", rows_per_batch=size))
    assert (dataset.name, dataset.num_users, dataset.num_items, dataset.num_interactions) == ("shop", 3, 3, 6)
    assert not dataset.has_codes
    interactions = dataset.interactions()
    assert interactions.user_ids == ["b", "a", "c"]
    assert interactions.num_users == 3
    assert interactions.offsets.tolist() == [0, 2, 5, 6]
    assert interactions.items.tolist() == [1, 0, 0, 0, 2, 1]
    assert interactions.items.dtype == np.int32
    assert interactions.offsets.dtype == np.int64
    assert interactions.history(1).tolist() == [0, 0, 2]


def test_user_in_two_places_is_refused(tmp_path: Path) -> None:
    dataset = Dataset.open(write(tmp_path / "out", ["a", "b", "a"], ["x", "y", "z"]))
    with pytest.raises(DatasetError, match="not sorted by user"):
        dataset.interactions()


def test_unknown_item_is_refused(tmp_path: Path) -> None:
    dataset = Dataset.open(write(tmp_path / "out", ["a"], ["w"]))
    with pytest.raises(DatasetError, match="item 'w' is not in"):
        dataset.interactions()


def test_no_interactions_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"shop.csv: there are no interactions"):
        write(tmp_path / "out", [], [])
    assert list(tmp_path.iterdir()) == []


def test_open_refuses_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such dataset"):
        Dataset.open(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"dataset.json is missing"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version"),
        ({"num_users": "many"}, "num_users"),
        ({"num_items": 4}, "items.parquet: 3 rows"),
        ({"has_codes": True}, "items.parquet: column 'codes' is missing"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_open_refuses_another_description(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = write(tmp_path / "out") / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DatasetError, match=message) as caught:
        Dataset.open(tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dataset.json", "items.parquet", "interactions.parquet"])
@pytest.mark.parametrize("keep", [0, 40])
def test_open_refuses_torn_files(tmp_path: Path, name: str, keep: int) -> None:
    file = write(tmp_path / "out") / name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=name) as caught:
        Dataset.open(tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["items.parquet", "interactions.parquet"])
def test_open_refuses_missing_and_foreign_tables(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "out") / name
    file.unlink()
    with pytest.raises(DatasetError, match=name):
        Dataset.open(tmp_path / "out")
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(DatasetError, match=r"column '(item|user)_id' is missing"):
        Dataset.open(tmp_path / "out")


def test_attributes_that_no_item_has_are_left_out(tmp_path: Path) -> None:
    attributes = pa.array(
        [{"brand": "Finch", "colour": None}], pa.struct({"brand": "string", "colour": "string"})
    )
    items = pa.table({"item_id": ["x"], "title": ["X"], "attributes": attributes})
    interactions = pa.record_batch([["a"], ["x"], [0.0]], schema=INTERACTION_SCHEMA)
    source = Source(format="test", name="shop")
    with new_dataset(tmp_path / "some", source) as writer:
        writer.write_items(items)
        writer.write_interactions([interactions])
    assert Dataset.open(tmp_path / "some").items()["attributes"].to_pylist() == [{"brand": "Finch"}]
    with new_dataset(tmp_path / "none", source) as writer:
        writer.write_items(items.set_column(2, "attributes", pa.nulls(1, attributes.type)))
        writer.write_interactions([interactions])
    assert Dataset.open(tmp_path / "none").items().column_names == ["item_id", "title"]
