"""Written lists as batches of tokens, and on disk."""

from pathlib import Path

import numpy as np

from service.catalog.layout import TokenLayout
from service.training.written_lists import WrittenBatches, WrittenLists

CODES = np.stack(np.unravel_index(np.arange(4), (2, 2)), axis=1).astype(np.int32)
LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((4, 5), (6, 7)))
LISTS = WrittenLists(
    histories=[np.array([3]), np.array([0, 1])],
    excluded=[np.array([3]), np.array([], dtype=np.int64)],
    rows=np.array([[2, 0], [3, 1]]),
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
    assert WrittenLists.load(file, "another") is None
    file.write_bytes(file.read_bytes()[:-40])
    assert WrittenLists.load(file, "f") is None
    file.write_bytes(b"PK nonsense")
    assert WrittenLists.load(file, "f") is None
