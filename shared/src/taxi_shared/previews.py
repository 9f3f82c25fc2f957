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
    # Dagster cannot tell the columns of a table without rows.
    schema = TableSchema([TableColumn(str(column[0])) for column in result.description or []])
    return MetadataValue.table([TableRecord(row) for row in records(result)], schema=schema)


def records(result: "duckdb.DuckDBPyConnection | psycopg2.extensions.cursor") -> list[dict[str, Cell]]:
    """The same rows by the names of their columns, each value as the UI can show it."""
    names = [str(column[0]) for column in result.description or []]
    return [dict(zip(names, map(_cell, row), strict=True)) for row in result.fetchall()]


def _cell(value: object) -> Cell:
    if value != value:  # the UI cannot read NaN
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return value.isoformat() if isinstance(value, date) else str(value)
