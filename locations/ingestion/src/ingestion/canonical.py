"""One schema for every year of TLC's files: which source column feeds which column of `raw.taxi_trips`.

TLC's files drift: columns appear, change type, change their letters' case, and hold only nulls in
some years. Each file is therefore cast by itself; reading several in one go would fail on the first
null-typed file or silently drop a column that only a later one has.
"""

from typing import Final

from taxi_shared.contracts import Column, contract

# Where a column's name at TLC is not simply the canonical one. Matched without regard to case.
_SOURCE_NAMES: Final = {
    "pickup_at": ("tpep_pickup_datetime", "lpep_pickup_datetime"),
    "dropoff_at": ("tpep_dropoff_datetime", "lpep_dropoff_datetime"),
    "vendor_id": ("VendorID",),
    "rate_code_id": ("RatecodeID",),
    "pickup_zone_id": ("PULocationID",),
    "dropoff_zone_id": ("DOLocationID",),
}
# Known to no file as such: made here, for every row.
_MADE_HERE: Final = frozenset({"service", "file_month", "source_row"})
# Those that not every file from 2011 on has: of one service only, or younger. All others must be there: a column that
# TLC renamed would else become nulls, and figures of nothing.
_NOT_EVERYWHERE: Final = frozenset({"trip_type", "ehail_fee", "airport_fee", "cbd_congestion_fee"})
# No more than what classify_trips.sql takes for implausible: it asks only rows beyond this one.
_BEYOND: Final = 10_000
_TIMES: Final = "BETWEEN TIMESTAMP '1900-01-01' AND TIMESTAMP '2200-01-01'"


class UnsupportedSchemaError(ValueError):
    """A file's columns cannot be brought to the canonical schema; the message says which and why.

    `missing` names those that no column of the file feeds.
    """

    def __init__(self, message: str, missing: list[str]) -> None:
        super().__init__(message)
        self.missing = missing


def projection(source_columns: list[str]) -> str:
    """The select list that casts a source file to the canonical columns, in the contract's order.

    A value that cannot be read as its column's type becomes null there, and `unreadable` (BOOLEAN) is true for its row.
    `absurd` (BOOLEAN, the last column) is true where a number is beyond 10,000 or not finite: one look at each number
    that tells which rows need a second one.

    Parameters
    ----------
    source_columns
        Names of the file's columns.

    Raises
    ------
    UnsupportedSchemaError
        A column that every supported file has is missing.
    """
    sources = source_of(source_columns)
    casts: list[str] = []
    doubtful: list[str] = []
    absurd: list[str] = []
    missing: list[str] = []
    for column in contract("raw.taxi_trips").columns:
        if column.name in _MADE_HERE:
            casts.append(column.name)
            continue
        found = sources.get(column.name)
        if found is None:
            casts.append(f"NULL::{column.type} AS {column.name}")
            if column.name not in _NOT_EVERYWHERE:
                missing.append(" or ".join(_names_of(column.name)))
            continue
        quoted = '"' + found.replace('"', '""') + '"'
        cast = f"TRY_CAST({quoted} AS {column.type})"
        casts.append(f"{cast} AS {column.name}")
        doubtful.append(f"({quoted} IS NOT NULL AND {cast} IS NULL)")
        if column.type == "DOUBLE":
            # Of those that are not finite, one row would make every sum it is in the same.
            absurd.append(f"NOT coalesce({cast} BETWEEN -{_BEYOND} AND {_BEYOND}, {quoted} IS NULL)")
    if missing:
        raise UnsupportedSchemaError(_explain(missing, {name.lower(): name for name in source_columns}), missing)
    return ",\n  ".join([*casts, f"({' OR '.join(doubtful)}) AS unreadable", f"({' OR '.join(absurd)}) AS absurd"])


def finite(column: Column) -> str:
    """SQL: the column, or null where it is no finite number, or a time before 1900 or after 2200.

    Statistics of Parquet files with such a time cannot be read. Only rows for the quarantine need it, and it costs.
    """
    conditions = {"DOUBLE": f"isfinite({column.name})", "TIMESTAMP": f"{column.name} {_TIMES}"}
    condition = conditions.get(column.type)
    return f"if({condition}, {column.name}, NULL) AS {column.name}" if condition else column.name


def source_of(source_columns: list[str]) -> dict[str, str]:
    """The column of a file that feeds each canonical column; those that none feeds are left out."""
    at_source = {name.lower(): name for name in source_columns}
    found = {}
    for column in contract("raw.taxi_trips").columns:
        for name in _names_of(column.name):
            if name.lower() in at_source:
                found[column.name] = at_source[name.lower()]
                break
    return found


def unknown_columns(source_columns: list[str]) -> list[str]:
    """Columns of a file that no canonical column takes: TLC added something."""
    known = {name.lower() for column in contract("raw.taxi_trips").columns for name in _names_of(column.name)}
    return [name for name in source_columns if name.lower() not in known]


def _names_of(column: str) -> tuple[str, ...]:
    """The names that a canonical column has had at TLC."""
    return () if column in _MADE_HERE else _SOURCE_NAMES.get(column, (column,))


def _explain(missing: list[str], at_source: dict[str, str]) -> str:
    if {"start_lon", "pickup_longitude", "trip_pickup_datetime", "pickup_datetime"} & at_source.keys():
        return (
            "files of 2009 and 2010 give coordinates instead of taxi zones and use other names"
            f" ({', '.join(at_source.values())}): they cannot be brought to the schema of later years."
            " Load 2011 or later."
        )
    return (
        f"column {', '.join(missing)} is missing. The file has: {', '.join(at_source.values())}."
        " Either it is not a file of taxi trips, or TLC renamed a column: then add its new name to"
        " ingestion/canonical.py."
    )
