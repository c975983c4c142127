"""Lists that a target wrote, which its draft learns to foresee."""

import io
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.errors import InputError
from service.files import write_atomic
from service.types import DecodedList, DecodeRequest

IntArray = npt.NDArray[np.int64]
SAVE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class WrittenLists:
    """Lists of one length, written greedily; everything is in catalogue rows.

    Attributes:
        histories: what each list was written for, oldest first.
        excluded: what each list was not allowed to hold.
        rows: int64 [num_lists, K], the lists.
        num_asked: requests that they answer; those that found fewer items than asked for left no list.
    """

    histories: Sequence[IntArray]
    excluded: Sequence[IntArray]
    rows: IntArray
    num_asked: int

    @classmethod
    def none(cls, length: int) -> "WrittenLists":
        """No lists yet, of this length."""
        return cls([], [], np.empty((0, length), dtype=np.int64), 0)

    def joined(self, requests: Sequence[DecodeRequest], answers: Sequence[DecodedList]) -> "WrittenLists":
        """These lists, and the answers to further requests."""
        whole = [pair for pair in zip(requests, answers, strict=True) if not pair[1].exhausted]
        new = [[item.row for item in done.items] for _, done in whole]
        return WrittenLists(
            [*self.histories, *(np.array(asked.history, dtype=np.int64) for asked, _ in whole)],
            [*self.excluded, *(np.array(asked.excluded, dtype=np.int64) for asked, _ in whole)],
            np.concatenate([self.rows, np.array(new, dtype=np.int64).reshape(-1, self.rows.shape[1])]),
            self.num_asked + len(requests),
        )

    def first(self, count: int) -> "WrittenLists":
        """The first `count` lists, or as many as there are."""
        return WrittenLists(
            self.histories[:count], self.excluded[:count], self.rows[:count], min(self.num_asked, count)
        )

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.rows)

    def save(self, file: Path, fingerprint: str) -> None:
        """Write one `.npz` that says what it was made of."""
        arrays = {
            "fingerprint": np.array(fingerprint),
            "rows": self.rows,
            "num_asked": np.array(self.num_asked),
        }
        for name, ragged in (("histories", self.histories), ("excluded", self.excluded)):
            arrays[name] = np.concatenate([*ragged, np.empty(0, dtype=np.int64)])
            arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, ragged)])
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, buffer.getvalue())

    @classmethod
    def load(cls, file: Path, fingerprint: str) -> "WrittenLists | None":
        """What was saved with this fingerprint, or None where no such file can be read."""
        try:
            # Opened here, as numpy leaves a file open that turns out to be broken.
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                if str(arrays["fingerprint"]) != fingerprint:
                    return None
                histories, excluded = (
                    _split(arrays[name], arrays[f"{name}_offsets"]) for name in ("histories", "excluded")
                )
                return cls(histories, excluded, arrays["rows"], int(arrays["num_asked"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


class Writer(Protocol):
    """An engine that holds the target, with nothing else in flight."""

    max_batch: int

    def write(self, requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        """Write these lists to the end; in the order of the requests."""
        ...


def write_lists(
    writer: Writer,
    requests: Sequence[DecodeRequest],
    partial: Path,
    fingerprint: str,
    on_written: Callable[[int], None],
) -> WrittenLists:
    """What the target writes for these requests; a run that was stopped goes on from what it left in `partial`.

    Args:
        writer: of greedy lists.
        requests: greedy, at least one, all for the same number of items.
        partial: file of what is written so far, about every half minute; the caller removes it.
        fingerprint: says what the lists are made of; a file of another fingerprint is not gone on from.
        on_written: called about ten times, with the number of requests answered so far.

    Raises:
        InputError: no list is whole.
    """
    written = WrittenLists.load(partial, fingerprint) or WrittenLists.none(requests[0].num_items)
    saved_at = time.monotonic()
    while written.num_asked < len(requests):
        begin = written.num_asked
        asked = requests[begin : begin + writer.max_batch]
        written = written.joined(asked, writer.write(asked))
        if time.monotonic() - saved_at >= SAVE_SECONDS:
            written.save(partial, fingerprint)
            saved_at = time.monotonic()
        if written.num_asked * 10 // len(requests) > begin * 10 // len(requests):
            on_written(written.num_asked)
    if not len(written):
        raise InputError("the target can write no whole list for any history, so there is none to learn from")
    return written


def _split(values: IntArray, offsets: IntArray) -> list[IntArray]:
    return [values[begin:end] for begin, end in pairwise(offsets.tolist())]


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """Prompts and lists as tokens, padded on the right with token 0.

    Attributes:
        tokens: [batch, length].
        attention: bool [batch, length], False on padding.
        slots: [batch, length], the slot that is filled after each token; 0 on padding.
        starts: [batch], where each list begins.
        rows: [batch, K], the lists.
        free_until: int16 [batch, num_items], the last place of the list at which each row may still be written; -1
            for excluded rows.
    """

    tokens: IntArray
    attention: npt.NDArray[np.bool_]
    slots: IntArray
    starts: IntArray
    rows: IntArray
    free_until: npt.NDArray[np.int16]


class WrittenBatches:
    """Makes batches of written lists.

    Args:
        lists: all of them.
        codes: [num_items, L].
        layout: how items become tokens.
    """

    def __init__(self, lists: WrittenLists, codes: Int32Array, layout: TokenLayout) -> None:
        self._lists = lists
        self._layout = layout
        self._codes = codes
        self._item_tokens = layout.item_tokens(codes)

    @property
    def num_list_items(self) -> int:
        """Items of each list, K."""
        return int(self._lists.rows.shape[1])

    @property
    def lengths(self) -> IntArray:
        """Tokens of each list, its prompt included, [num_lists]."""
        prompts = [self._layout.prompt_length(len(history)) for history in self._lists.histories]
        return np.array(prompts, dtype=np.int64) + self.num_list_items * self._layout.tokens_per_item

    def of(self, indices: IntArray) -> WrittenBatch:
        """The lists with these numbers, [batch]."""
        layout, per_item = self._layout, self._layout.tokens_per_item
        rows = self._lists.rows[indices]
        size, num_list_items = rows.shape
        histories = [self._lists.histories[index] for index in indices]
        starts = np.array([layout.prompt_length(len(history)) for history in histories])
        length = int(starts.max()) + num_list_items * per_item
        tokens = np.zeros((size, length), dtype=np.int64)
        slots = np.zeros((size, length), dtype=np.int64)
        free_until = np.full((size, len(self._codes)), num_list_items, dtype=np.int16)
        for i, (index, history, start) in enumerate(zip(indices, histories, starts.tolist(), strict=True)):
            end = start + num_list_items * per_item
            tokens[i, :start] = layout.prompt(self._codes[history])
            tokens[i, start:end] = self._item_tokens[rows[i]].ravel()
            slots[i, :start] = layout.next_slots(start)
            slots[i, start:end] = (np.arange(end - start) + 1) % per_item
            free_until[i, rows[i]] = np.arange(num_list_items)
            free_until[i, self._lists.excluded[index]] = -1
        attention = np.arange(length) < (starts + num_list_items * per_item)[:, None]
        return WrittenBatch(tokens, attention, slots, starts, rows, free_until)
