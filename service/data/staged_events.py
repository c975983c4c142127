"""Interactions on their way from a source into a dataset."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from service.data.dataset import BATCH_ROWS, INTERACTION_SCHEMA
from service.data.staging import querying

_INCOMPLETE = "user_id IS NULL OR item_id IS NULL OR timestamp IS NULL"


class StagedEvents:
    """A table of interactions in a staging database; never in memory as a whole.

    Args:
        connection: from `staging`.
        source: named in messages.

    Attributes:
        num_read: rows of the source so far.
        num_incomplete: those among them that had no user, item or time, and were left out.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, source: Path) -> None:
        self.num_read = 0
        self.num_incomplete = 0
        self._has_times = True
        self._connection = connection
        self._source = source
        self._execute(
            "CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, timestamp DOUBLE, position BIGINT)"
        )

    def add(self, file: Path, relation: str, *, user: str, item: str, timestamp: str | None) -> None:
        """Append the rows of a relation; all but `file` is SQL.

        Args:
            file: named in messages.
            relation: stands after FROM.
            user: an expression of type VARCHAR.
            item: an expression of type VARCHAR.
            timestamp: an expression of type DOUBLE, seconds; None in a source without times.
        """
        self._has_times = timestamp is not None
        with querying(file):
            position = f"{self.num_read} + row_number() OVER ()"
            values = f"{user}, {item}, {timestamp or position}, {position}"
            self._connection.execute(f"INSERT INTO events SELECT {values} FROM {relation}")
            counts = f"count(*), count(*) FILTER ({_INCOMPLETE})"
            [(num_read, num_incomplete)] = self._connection.execute(
                f"SELECT {counts} FROM events WHERE position > {self.num_read}"
            ).fetchall()
            if num_incomplete:
                self._connection.execute(f"DELETE FROM events WHERE {_INCOMPLETE}")
        self.num_read += num_read
        self.num_incomplete += num_incomplete

    def drop_repeats(self) -> int:
        """Of rows with the same user, item and time keep the first; returns how many were dropped."""
        before = len(self)
        self._execute(
            "CREATE OR REPLACE TABLE events AS SELECT user_id, item_id, timestamp, min(position) AS position "
            "FROM events GROUP BY ALL"
        )
        return before - len(self)

    def prune(self, min_per_user: int, min_per_item: int) -> None:
        """Drop users and items with fewer interactions, until all that are left have enough."""
        dropped = 1
        while dropped:
            dropped = self._drop_rare("user_id", min_per_user)
            dropped += self._drop_rare("item_id", min_per_item)

    def _drop_rare(self, column: str, minimum: int) -> int:
        if minimum <= 1:
            return 0
        rare = f"SELECT {column} FROM events GROUP BY {column} HAVING count(*) < {minimum}"
        return self._count(f"DELETE FROM events WHERE {column} IN ({rare})")

    def item_ids(self) -> pa.Array:
        """The distinct items, sorted."""
        with querying(self._source):
            query = "SELECT DISTINCT item_id FROM events ORDER BY item_id"
            return self._connection.sql(query).to_arrow_table()["item_id"].combine_chunks()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Sorted by user, time and position in the source. Without times a user's 0, 1, 2 ... is the time."""
        with querying(self._source):
            place = "row_number() OVER (PARTITION BY user_id ORDER BY position) - 1"
            time = "timestamp" if self._has_times else f"CAST({place} AS DOUBLE)"
            query = f"SELECT user_id, item_id, {time} FROM events ORDER BY user_id, timestamp, position"
            for batch in self._connection.sql(query).to_arrow_reader(BATCH_ROWS):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=INTERACTION_SCHEMA)

    def __len__(self) -> int:
        """Number of interactions."""
        return self._count("SELECT count(*) FROM events")

    def _execute(self, statement: str) -> None:
        with querying(self._source):
            self._connection.execute(statement)

    def _count(self, statement: str) -> int:
        with querying(self._source):
            [(count,)] = self._connection.execute(statement).fetchall()
        return int(count)
