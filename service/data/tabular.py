"""Interactions as rows of CSV or Parquet files, with columns named by the caller."""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from service.data.dataset import Dataset, Source
from service.data.item_files import read_item_file
from service.data.staged_events import StagedEvents
from service.data.staging import staging
from service.data.tables import CSV_SUFFIXES, PARQUET_SUFFIXES, find_files, open_csv, open_parquet
from service.data.timestamps import seconds
from service.data.write import Progress, new_dataset, no_progress


def import_tabular(
    src: Path,
    out: Path,
    *,
    kind: Literal["csv", "parquet"],
    user_column: str,
    item_column: str,
    timestamp_column: str | None,
    items: Path | None = None,
    item_id_column: str = "item_id",
    title_column: str = "title",
    min_interactions: int = 1,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Dataset:
    """Import a file, the files of a folder, or those that a pattern matches, such as `logs/2024-*.csv`.

    Users come sorted by ID, their interactions by time and, where times are equal, by position in the source
    (files by name). Rows without user, item or time are left out and counted. Times may be dates, ISO 8601
    strings, or numbers of a unit that shows in their size: see `timestamps.seconds`.

    Args:
        src: CSV files have a header line and may be compressed with gzip.
        out: the dataset's folder.
        kind: what the files are.
        user_column: the user's ID; of any type that is not nested.
        item_column: the item's ID.
        timestamp_column: None takes the order of the source for the order of events.
        items: a CSV, Parquet or JSON lines file of the catalogue; its items come first, in its order, also
            those without interactions. Items that it lacks have neither title nor attributes.
        item_id_column: in `items`.
        title_column: in `items`; all other columns become attributes.
        min_interactions: users with fewer are left out.
        overwrite: replace an existing dataset.
        progress: see `Progress`.

    Raises:
        DatasetError: a file is missing or torn, a column is unknown, a value is no time, or nothing is left.
        InputError: `out` exists and `overwrite` is not set.
    """
    files = find_files(src, CSV_SUFFIXES if kind == "csv" else PARQUET_SUFFIXES)
    source = Source(format=kind, name=src.resolve().name)
    with (
        new_dataset(out, source, overwrite=overwrite, progress=progress) as writer,
        staging(writer.folder) as connection,
    ):
        events = StagedEvents(connection, src)
        for file in files:
            table = open_csv(file) if kind == "csv" else open_parquet(connection, file)
            user, item = table.require_id(user_column), table.require_id(item_column)
            timestamp = None if timestamp_column is None else seconds(connection, table, timestamp_column)
            events.add(file, table.relation, user=user, item=item, timestamp=timestamp)
            progress("reading interactions", events.num_read)
        writer.skipped["incomplete_rows"] = events.num_incomplete
        events.prune(min_interactions, 1)

        listed = None
        if items is not None:
            listed = read_item_file(
                connection, items, item_id_column=item_id_column, title_column=title_column
            )
        writer.write_items(with_unlisted(listed, events.item_ids()))
        writer.write_interactions(events.batches())
    return Dataset.open(out)


def with_unlisted(listed: pa.Table | None, item_ids: pa.Array) -> pa.Table:
    """`listed`, followed by those of `item_ids` that it lacks, without title and attributes."""
    if listed is not None:
        item_ids = item_ids.filter(pc.invert(pc.is_in(item_ids, value_set=listed["item_id"])))
    unlisted = pa.table({"item_id": item_ids, "title": pa.array([""] * len(item_ids), pa.string())})
    if listed is None:
        return unlisted
    return pa.concat_tables([listed, unlisted], promote_options="default")
