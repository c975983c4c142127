"""Seconds since the epoch out of whatever a column of times holds."""

import duckdb

from service.data.staging import querying
from service.data.tables import Table
from service.errors import DatasetError

# The largest number tells the unit: 1e11 seconds is the year 5138, 1e11 milliseconds is 1973.
UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (float("inf"), 1e9))
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = (*_INTEGERS, *(f"U{name}" for name in _INTEGERS), "FLOAT", "DOUBLE", "DECIMAL")


def seconds(connection: duckdb.DuckDBPyConnection, table: Table, column: str) -> str:
    """An SQL expression for the seconds since the epoch of each row.

    A column of dates or timestamps is taken as such. Numbers, also those written as strings, are seconds,
    milliseconds, microseconds or nanoseconds by the largest of the file: below 1e11, 1e14, 1e17 or above.
    Other strings must be ISO 8601 dates or times; those without a zone are UTC.

    Raises:
        DatasetError: there is no such column, or a value is none of these; the message quotes it.
    """
    name, own = table.require(column), table.types[column]
    if own.startswith(("TIMESTAMP", "DATE")):
        return f"epoch({name})"
    if own != "VARCHAR" and not own.startswith(_NUMBERS):
        raise DatasetError(f"{table.file}: column '{column}' holds {own}, not times")
    number = f"TRY_CAST({name} AS DOUBLE)"
    number = f"CASE WHEN isfinite({number}) THEN {number} END"
    moment = f"epoch(TRY_CAST({name} AS TIMESTAMPTZ))" if own == "VARCHAR" else "NULL"
    with querying(table.file):
        counts = f"count({name}), count({number}), count({moment}), max(abs({number}))"
        [row] = connection.execute(f"SELECT {counts} FROM {table.relation}").fetchall()
    num_values, num_numbers, num_moments, largest = row
    if num_numbers == num_values:
        divisor = next(divisor for limit, divisor in UNITS if (largest or 0) < limit)
        return f"({number}) / {divisor}"
    if num_moments == num_values:
        return moment
    bad = number if num_numbers >= num_moments else moment
    with querying(table.file):
        [(example,)] = connection.execute(
            f"SELECT {name} FROM {table.relation} WHERE {name} IS NOT NULL AND ({bad}) IS NULL LIMIT 1"
        ).fetchall()
    raise DatasetError(f"{table.file}: column '{column}': {example!r} is no time")
