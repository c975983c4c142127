from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from service.catalog.items import Catalogue


def build(**changes) -> Catalogue:
    values = {
        "item_ids": ["x", "y", "z"],
        "codes": np.array([[1, 1], [0, 2], [1, 1]]),
        "titles": ["X", "Y", "Z"],
        "attributes": pa.array([{"brand": "b"}, {"brand": None}, {"brand": "c"}]),
        "popularity": np.array([1, 1, 7]),
    }
    return Catalogue.build(**{**values, **changes})


def test_rows_are_in_trie_order_and_survive_a_file(tmp_path: Path) -> None:
    build().write(tmp_path / "items.parquet")
    catalogue = Catalogue.read(tmp_path / "items.parquet")
    assert catalogue.item_ids == ["y", "z", "x"]  # of the two that share codes, z is the more popular
    assert catalogue.codes.tolist() == [[0, 2], [1, 1], [1, 1]]
    assert catalogue.num_distinct_ids == 2
    assert [catalogue.row_of(name) for name in ("x", "y", "z", "?")] == [2, 0, 1, None]
    assert catalogue.item(1).title == "Z"
    assert catalogue.item(1).attributes == {"brand": "c"}
    assert catalogue.item(0).attributes == {}


def test_items_may_have_no_attributes() -> None:
    assert build(attributes=None).item(0).attributes == {}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item_id": ["a"], "title": ["A"]}, "column 'codes' is missing"),
        ({"item_id": ["a", "a"], "title": ["", ""], "codes": [[1], [2]]}, "stands twice"),
        ({"item_id": ["a", "b"], "title": ["", ""], "codes": [[2], [1]]}, "trie order"),
        ({"item_id": ["a", "b"], "title": ["", ""], "codes": [[1], [1, 2]]}, "same number of codes"),
        ({"item_id": ["a"], "title": [""], "codes": [[-1]]}, "negative"),
    ],
)
def test_what_is_no_catalogue_is_refused(table: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Catalogue(pa.table(table))
