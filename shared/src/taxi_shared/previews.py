"""Query results as tables in the UI: what a person sees of a table without opening a notebook."""

from datetime import date, datetime
from typing import TYPE_CHECKING

from dagster import MetadataValue, TableColumn, TableMetadataValue, TableRecord, TableSchema

if TYPE_CHECKING:
    import duckdb
    import psycopg2.extensions

Cell = str | int | float | bool | None
PREVIEW_ROWS = 10


def preview(result: "duckdb.DuckDBPyConnection | psycopg2.extensions.cursor") -> TableMetadataValue:
    """The rows of a query that was just executed, as a table in the UI; the query bounds their number.

    Parameters
    ----------
    result
        What DuckDB's `connection.execute(...)` returned, or a Postgres cursor.
    """
    names = [str(column[0]) for column in result.description or []]
    rows = [dict(zip(names, map(_cell, row), strict=True)) for row in result.fetchall()]
    # Dagster cannot tell the columns of a table without rows.
    return MetadataValue.table([TableRecord(row) for row in rows], schema=TableSchema(list(map(TableColumn, names))))


def _cell(value: object) -> Cell:
    if value != value:  # the UI cannot read NaN
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return value.isoformat() if isinstance(value, date) else str(value)
