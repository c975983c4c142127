"""Written lists as batches of tokens, and on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.catalog.layout import TokenLayout
from service.errors import InputError
from service.training import written_lists
from service.training.written_lists import WrittenBatches, WrittenLists, write_lists
from service.types import DecodedItem, DecodedList, DecodeRequest

CODES = np.stack(np.unravel_index(np.arange(4), (2, 2)), axis=1).astype(np.int32)
LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((4, 5), (6, 7)))
LISTS = WrittenLists(
    histories=[np.array([3]), np.array([0, 1])],
    excluded=[np.array([3]), np.array([], dtype=np.int64)],
    rows=np.array([[2, 0], [3, 1]]),
    num_asked=3,
)


def test_a_batch_is_prompt_and_list_with_the_slots_that_follow() -> None:
    batch = WrittenBatches(LISTS, CODES, LAYOUT).of(np.array([0, 1]))
    assert batch.tokens[0].tolist() == [1, 5, 7, 3, 2, 5, 6, 3, 4, 6, 3, 0, 0, 0]
    assert batch.slots[0].tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0]
    assert batch.attention[0].tolist() == [True] * 11 + [False] * 3
    assert batch.tokens[1].tolist() == [1, 4, 6, 3, 4, 7, 3, 2, 5, 7, 3, 4, 7, 3]
    assert batch.starts.tolist() == [5, 8]
    assert batch.free_until.tolist() == [[1, 2, 0, -1], [2, 1, 2, 0]]


def test_they_are_kept_for_what_they_were_made_of_alone(tmp_path: Path) -> None:
    file = tmp_path / "work" / "lists.npz"
    assert WrittenLists.load(file, "f") is None
    LISTS.save(file, "f")
    again = WrittenLists.load(file, "f")
    assert again is not None
    assert [history.tolist() for history in again.histories] == [[3], [0, 1]]
    assert [rows.tolist() for rows in again.excluded] == [[3], []]
    assert again.rows.tolist() == LISTS.rows.tolist()
    assert again.num_asked == 3
    assert WrittenLists.load(file, "another") is None
    file.write_bytes(file.read_bytes()[:-40])
    assert WrittenLists.load(file, "f") is None
    file.write_bytes(b"PK nonsense")
    assert WrittenLists.load(file, "f") is None


REQUESTS = [
    DecodeRequest("0", (1, 2), 2, excluded=(1, 2)),
    DecodeRequest("1", (3,), 2),
    DecodeRequest("2", (4,), 2),
    DecodeRequest("3", (5,), 2),
    DecodeRequest("4", (6,), 2),
]


class Writer:
    """Writes items 5 and 6 for everybody, but finds no second one for request 1; stops when it has written enough."""

    max_batch = 2

    def __init__(self, most: int = 9) -> None:
        self.left = most
        self.asked: list[str] = []

    def write(self, requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        self.left -= len(requests)
        if self.left < 0:
            raise KeyboardInterrupt
        self.asked += [request.request_id for request in requests]
        items = tuple(DecodedItem(row, 1.0) for row in (5, 6))
        return [
            DecodedList(r.request_id, items[: 2 - (r.request_id == "1")], r.request_id == "1", 1, 0, 0, 0)
            for r in requests
        ]


def test_lists_are_written_and_short_ones_left_out(tmp_path: Path) -> None:
    done: list[int] = []
    lists = write_lists(Writer(), REQUESTS[:3], tmp_path / "partial.npz", "f", done.append)
    assert [rows.tolist() for rows in lists.histories] == [[1, 2], [4]]
    assert [rows.tolist() for rows in lists.excluded] == [[1, 2], []]
    assert lists.rows.tolist() == [[5, 6], [5, 6]]
    assert lists.num_asked == 3
    assert done == [2, 3]
    with pytest.raises(InputError, match="no whole list"):
        write_lists(Writer(), REQUESTS[1:2], tmp_path / "partial.npz", "g", done.append)


@pytest.mark.parametrize("most", range(6))
def test_a_stop_costs_no_list_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(written_lists, "SAVE_SECONDS", 0.0)
    partial, first, second = tmp_path / "work" / "partial.npz", Writer(most), Writer()
    expected = write_lists(Writer(), REQUESTS, tmp_path / "other.npz", "f", lambda _: None)
    if most < len(REQUESTS):
        with pytest.raises(KeyboardInterrupt):
            write_lists(first, REQUESTS, partial, "f", lambda _: None)
    else:
        write_lists(first, REQUESTS, partial, "f", lambda _: None)
    lists = write_lists(second, REQUESTS, partial, "f", lambda _: None)
    assert first.asked + second.asked == [request.request_id for request in REQUESTS]
    for name in ("histories", "excluded", "rows"):
        ours, theirs = (list(map(list, getattr(which, name))) for which in (lists, expected))
        assert ours == theirs
    assert lists.num_asked == 5

    third = Writer()
    write_lists(third, REQUESTS, partial, "another", lambda _: None)
    assert len(third.asked) == 5
