"""Writing a dataset: its tables in a scratch folder, sealed by `dataset.json` at the end."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.data.dataset import INFO, INTERACTION_SCHEMA, INTERACTIONS, ITEMS, DatasetInfo, Source
from service.errors import DatasetError
from service.files import new_folder, write_json

Progress = Callable[[str, int], None]
"""Called with what is being done and how many rows of it are done."""


def no_progress(_stage: str, _done: int) -> None:
    """Says nothing."""


class DatasetWriter:
    """Writes both tables of a dataset, each once.

    Attributes:
        folder: where the dataset is written; files of other names must be gone at the end.
        skipped: filled by the importer: what it left out, and how many.
    """

    def __init__(self, folder: Path, source: Source, name: str, progress: Progress) -> None:
        self.folder = folder
        self.skipped: dict[str, int] = {}
        self._source = source
        self._name = name
        self._progress = progress
        self._num_users = 0
        self._num_interactions = 0
        self._num_items = 0
        self._code_levels: tuple[int, ...] | None = None

    def write_items(self, items: pa.Table) -> None:
        """Write the items table; attributes that no item has are left out.

        Args:
            items: the columns of `items.parquet`.
        """
        if "attributes" in items.column_names:
            items = _without_empty_attributes(items)
        if "codes" in items.column_names:
            codes = items["codes"].combine_chunks()
            matrix = codes.flatten().to_numpy().reshape(len(codes), -1)
            self._code_levels = tuple((matrix.max(axis=0) + 1).tolist())
        pq.write_table(items, self.folder / ITEMS)
        self._num_items = len(items)

    def write_interactions(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Write the interactions, which come user by user, each user oldest first."""
        last_user: str | None = None
        with pq.ParquetWriter(self.folder / INTERACTIONS, INTERACTION_SCHEMA) as writer:
            for batch in batches:
                if batch.num_rows == 0:
                    continue
                writer.write_batch(batch)
                users = batch["user_id"]
                self._num_users += int(np.count_nonzero(pc.not_equal(users[1:], users[:-1])))
                self._num_users += users[0].as_py() != last_user
                last_user = users[-1].as_py()
                self._num_interactions += batch.num_rows
                self._progress("writing interactions", self._num_interactions)

    def seal(self) -> None:
        """Write `dataset.json`.

        Raises:
            DatasetError: there are no interactions.
        """
        if self._num_interactions == 0:
            raise DatasetError(f"{self._source.name}: there are no interactions")
        info = DatasetInfo(
            name=self._name,
            source=self._source,
            num_users=self._num_users,
            num_items=self._num_items,
            num_interactions=self._num_interactions,
            has_codes=self._code_levels is not None,
            code_levels=self._code_levels,
            skipped={what: count for what, count in self.skipped.items() if count},
        )
        write_json(self.folder / INFO, info.model_dump(mode="json"))


@contextmanager
def new_dataset(
    out: Path, source: Source, *, overwrite: bool = False, progress: Progress = no_progress
) -> Iterator[DatasetWriter]:
    """A writer whose folder becomes `out` when the block ends well, and is removed otherwise.

    The dataset takes the source's name up to its first dot.

    Raises:
        InputError: `out` exists and `overwrite` is not set, or its parent cannot be written.
        DatasetError: no interactions were written.
    """
    with new_folder(out, marker=INFO, overwrite=overwrite) as folder:
        writer = DatasetWriter(folder, source, source.name.split(".")[0] or source.name, progress)
        yield writer
        writer.seal()


def _without_empty_attributes(items: pa.Table) -> pa.Table:
    attributes = items["attributes"].combine_chunks()
    at = items.column_names.index("attributes")
    fields = [field for field in attributes.type if attributes.field(field.name).null_count < len(attributes)]
    if not fields:
        return items.remove_column(at)
    arrays = [attributes.field(field.name) for field in fields]
    return items.set_column(at, "attributes", pa.StructArray.from_arrays(arrays, fields=fields))
