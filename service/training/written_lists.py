"""Lists that a target wrote, which its draft learns to foresee."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.files import write_atomic

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WrittenLists:
    """Lists of one length, written greedily; everything is in catalogue rows.

    Attributes:
        histories: what each list was written for, oldest first.
        excluded: what each list was not allowed to hold.
        rows: int64 [num_lists, K], the lists.
    """

    histories: Sequence[IntArray]
    excluded: Sequence[IntArray]
    rows: IntArray

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.rows)

    def save(self, file: Path, fingerprint: str) -> None:
        """Write one `.npz` that says what it was made of."""
        arrays = {"fingerprint": np.array(fingerprint), "rows": self.rows}
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
                    np.split(arrays[name], arrays[f"{name}_offsets"][1:-1])
                    for name in ("histories", "excluded")
                )
                return cls(histories, excluded, arrays["rows"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


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
        self._item_tokens = layout.item_tokens(codes)
        self._num_items = len(codes)

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
        free_until = np.full((size, self._num_items), num_list_items, dtype=np.int16)
        for i, (index, history, start) in enumerate(zip(indices, histories, starts.tolist(), strict=True)):
            end = start + num_list_items * per_item
            items_begin, items_end = len(layout.prefix), start - len(layout.list_start)
            tokens[i, :items_begin] = layout.prefix
            tokens[i, items_begin:items_end] = self._item_tokens[history].ravel()
            tokens[i, items_end:start] = layout.list_start
            tokens[i, start:end] = self._item_tokens[rows[i]].ravel()
            slots[i, :start] = layout.next_slots(start)
            slots[i, start:end] = (np.arange(end - start) + 1) % per_item
            free_until[i, rows[i]] = np.arange(num_list_items)
            free_until[i, self._lists.excluded[index]] = -1
        attention = np.arange(length) < (starts + num_list_items * per_item)[:, None]
        return WrittenBatch(tokens, attention, slots, starts, rows, free_until)
