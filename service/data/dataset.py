"""A dataset: the folder that importers write and that training and evaluation read.

    dataset.json           `DatasetInfo`
    interactions.parquet   user_id string, item_id string, timestamp double; user by user, each oldest first
    items.parquet          item_id string (distinct), title string ('' for none), attributes struct (only
                           where there are any), codes list<int32> (only where semantic IDs are given)

A timestamp is in seconds; where the source has no times, it is the position 0, 1, 2 ... in the user's list.
Every item of an interaction stands in `items.parquet`. The folder is written once and never changes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.data.reading import reading
from service.errors import DatasetError

INFO = "dataset.json"
INTERACTIONS = "interactions.parquet"
ITEMS = "items.parquet"

FORMAT_VERSION: Final = 1

INTERACTION_SCHEMA = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.float64())]
)
BATCH_ROWS = 262_144


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Where a dataset came from."""

    format: str
    name: str = Field(description="base name of what was read, never a path")


class DatasetInfo(_Frozen):
    """What `dataset.json` holds."""

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    source: Source
    num_users: int = Field(ge=1)
    num_items: int = Field(ge=1)
    num_interactions: int = Field(ge=1)
    has_codes: bool
    code_levels: tuple[int, ...] | None = Field(description="codes at each level: the largest one plus one")
    skipped: dict[str, int] = Field(default_factory=dict, description="what was left out, and how many")


@dataclass(frozen=True, slots=True)
class Interactions:
    """All histories in one block; user u's are `items[offsets[u]:offsets[u + 1]]`, oldest first.

    Attributes:
        user_ids: [num_users].
        offsets: int64 [num_users + 1], rising, from 0 to the number of interactions.
        items: int32 [num_interactions], rows of the dataset's items table.
    """

    user_ids: list[str]
    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    def history(self, user: int) -> npt.NDArray[np.int32]:
        """A user's items, oldest first; a view."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]


class Dataset:
    """An opened dataset: its description is valid and both tables have the columns and rows it promises."""

    def __init__(self, path: Path, info: DatasetInfo) -> None:
        self.path = path
        self.info = info

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Open and check a dataset.

        Raises:
            DatasetError: the folder is no dataset, is of another format, or a file is missing, torn or does
                not match `dataset.json`; the message names the file.
        """
        dataset = cls(path, _read_info(path))
        info = dataset.info
        item_columns = ["item_id", "title"] + (["codes"] if info.has_codes else [])
        _check_table(path / ITEMS, item_columns, info.num_items)
        _check_table(path / INTERACTIONS, INTERACTION_SCHEMA.names, info.num_interactions)
        return dataset

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.info.name

    @property
    def num_users(self) -> int:
        """Number of users; each has at least one interaction."""
        return self.info.num_users

    @property
    def num_items(self) -> int:
        """Number of items, those without interactions included."""
        return self.info.num_items

    @property
    def num_interactions(self) -> int:
        """Number of interactions."""
        return self.info.num_interactions

    @property
    def has_codes(self) -> bool:
        """Whether semantic IDs came with the source."""
        return self.info.has_codes

    def items(self) -> pa.Table:
        """The items table.

        Raises:
            DatasetError: `items.parquet` is torn.
        """
        return self._items

    @cached_property
    def _items(self) -> pa.Table:
        with reading(self.path / ITEMS):
            return pq.read_table(self.path / ITEMS)

    def interactions(self) -> Interactions:
        """All histories, with items as rows of `items()`; reads `BATCH_ROWS` rows at a time.

        Raises:
            DatasetError: `interactions.parquet` is torn, names an unknown item, or is not sorted by user.
        """
        file = self.path / INTERACTIONS
        item_ids = self.items()["item_id"].combine_chunks()
        items = np.empty(self.num_interactions, dtype=np.int32)
        user_ids: list[str] = []
        starts: list[npt.NDArray[np.int64]] = []
        done = 0
        with reading(file), pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=["user_id", "item_id"]):
                rows = pc.index_in(batch["item_id"], value_set=item_ids)
                if rows.null_count:
                    unknown = batch["item_id"].filter(pc.is_null(rows))[0]
                    raise DatasetError(f"{file}: item '{unknown}' is not in {ITEMS}")
                items[done : done + len(rows)] = rows
                first = _run_starts(batch["user_id"], user_ids[-1] if user_ids else None)
                user_ids += batch["user_id"].take(pa.array(first)).to_pylist()
                starts.append(first + done)
                done += len(rows)
        if len(user_ids) != self.num_users or len(set(user_ids)) != len(user_ids):
            raise DatasetError(f"{file}: not sorted by user, or not the users that {INFO} counts")
        return Interactions(user_ids, np.append(np.concatenate(starts), done), items)


def _run_starts(values: pa.Array, previous: str | None) -> npt.NDArray[np.int64]:
    """Indices at which a value differs from the one before it; `previous` stands before the first."""
    changed = pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    starts: npt.NDArray[np.int64] = np.flatnonzero(changed) + 1
    if len(values) and values[0].as_py() != previous:
        starts = np.insert(starts, 0, 0)
    return starts


def _read_info(path: Path) -> DatasetInfo:
    file = path / INFO
    if not path.is_dir():
        raise DatasetError(f"no such dataset: {path}")
    if not file.is_file():
        raise DatasetError(f"{path} is not a dataset: {INFO} is missing")
    with reading(file):
        content = file.read_bytes()
    try:
        return DatasetInfo.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DatasetError(f"{file}: {name or 'content'}: {first['msg']}") from error


def _check_table(file: Path, columns: list[str], num_rows: int) -> None:
    with reading(file), pq.ParquetFile(file) as parquet:
        missing = [name for name in columns if name not in parquet.schema_arrow.names]
        if missing:
            raise DatasetError(f"{file}: column '{missing[0]}' is missing")
        if parquet.metadata.num_rows != num_rows:
            raise DatasetError(f"{file}: {parquet.metadata.num_rows} rows, but {INFO} says {num_rows}")
