"""The public Amazon review datasets: JSON lines, one review each."""

import glob
from pathlib import Path

import duckdb

from service.data.amazon_metadata import read_metadata
from service.data.dataset import Dataset, Source
from service.data.item_files import JSON_SUFFIXES
from service.data.staged_events import StagedEvents
from service.data.staging import literal, staging
from service.data.tables import find_files
from service.data.tabular import with_unlisted
from service.data.write import Progress, new_dataset, no_progress
from service.errors import DatasetError

FORMAT = "amazon-reviews"

# 2014 and 2018: reviewerID, asin, unixReviewTime in seconds.
# 2023: user_id, parent_asin, timestamp in milliseconds.
_COLUMNS = {
    "reviewerID": "VARCHAR",
    "user_id": "VARCHAR",
    "asin": "VARCHAR",
    "parent_asin": "VARCHAR",
    "unixReviewTime": "DOUBLE",
    "timestamp": "DOUBLE",
}


def import_amazon_reviews(
    src: Path,
    out: Path,
    *,
    metadata: Path | None = None,
    k_core: int = 5,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Dataset:
    """Import reviews of the editions of 2014, 2018 or 2023, as they are or compressed with gzip.

    A review that stands twice (same user, product and second) counts once. Users and items come sorted by ID.

    Args:
        src: a file, a folder of files, or a pattern.
        out: the dataset's folder.
        metadata: the same for products; gives titles, brands, categories, prices and descriptions.
        k_core: users and items with fewer interactions are left out, again and again until all have as many.
        overwrite: replace an existing dataset.
        progress: see `Progress`.

    Raises:
        DatasetError: a file is missing, torn or of another format, or nothing is left.
        InputError: `out` exists and `overwrite` is not set.
    """
    files = find_files(src, JSON_SUFFIXES)
    metadata_files = [] if metadata is None else find_files(metadata, JSON_SUFFIXES)
    source = Source(format=FORMAT, name=src.resolve().name)
    with (
        new_dataset(out, source, overwrite=overwrite, progress=progress) as writer,
        staging(writer.folder) as connection,
    ):
        events = _read_reviews(connection, src, files, progress)
        writer.skipped["incomplete_rows"] = events.num_incomplete
        writer.skipped["repeated_rows"] = events.drop_repeats()
        events.prune(k_core, k_core)
        if len(events) == 0:
            raise DatasetError(f"{src}: no interactions are left of {events.num_read} in the {k_core}-core")
        item_ids = events.item_ids()
        progress("reading metadata", 0)
        writer.write_items(with_unlisted(read_metadata(metadata_files, item_ids), item_ids))
        writer.write_interactions(events.batches())
    return Dataset.open(out)


def _read_reviews(
    connection: duckdb.DuckDBPyConnection, src: Path, files: list[Path], progress: Progress
) -> StagedEvents:
    columns = ", ".join(f"{name}: {literal(own)}" for name, own in _COLUMNS.items())
    events = StagedEvents(connection, src)
    for file in files:
        before = events.num_read - events.num_incomplete
        events.add(
            file,
            f"read_ndjson({literal(glob.escape(str(file)))}, columns={{{columns}}}, hive_partitioning=false)",
            user="coalesce(reviewerID, user_id)",
            item="coalesce(parent_asin, asin)",
            timestamp="coalesce(unixReviewTime, timestamp / 1000)",
        )
        if events.num_read - events.num_incomplete == before:
            names = "reviewerID, asin and unixReviewTime, or user_id, parent_asin and timestamp"
            raise DatasetError(f"{file}: no line is a review with {names}")
        progress("reading reviews", events.num_read)
    return events
