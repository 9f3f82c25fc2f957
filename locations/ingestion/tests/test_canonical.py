"""Every year's file in one schema: what TLC renamed, retyped, added or left empty."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from ingestion.canonical import UnsupportedSchemaError, projection, unknown_columns
from ingestion.defs.trips import TRIPS

from conftest import parquet

Row = dict[str, Any]

# What one trip is at TLC, whatever its file's types, and what it must become.
TRIP = {
    "VendorID": 2,
    "pickup": datetime(2023, 1, 10, 12, 0, 1),
    "dropoff": datetime(2023, 1, 10, 12, 15),
    "passenger_count": 3,
    "trip_distance": 2.75,
    "RatecodeID": 1,
    "store_and_fwd_flag": "N",
    "PULocationID": 236,
    "DOLocationID": 237,
    "payment_type": 1,
    "fare_amount": 14.5,
    "extra": 1.0,
    "mta_tax": 0.5,
    "tip_amount": 3.25,
    "tolls_amount": 6.55,
    "improvement_surcharge": 1.0,
    "total_amount": 30.05,
    "congestion_surcharge": 2.5,
    "airport_fee": 1.25,
    "cbd_congestion_fee": 0.75,
    "ehail_fee": 0.25,
    "trip_type": 2,
}
CANONICAL: Row = {
    "vendor_id": 2,
    "pickup_at": datetime(2023, 1, 10, 12, 0, 1),
    "dropoff_at": datetime(2023, 1, 10, 12, 15),
    "passenger_count": 3,
    "trip_distance": 2.75,
    "rate_code_id": 1,
    "store_and_fwd_flag": "N",
    "pickup_zone_id": 236,
    "dropoff_zone_id": 237,
    "payment_type": 1,
    "fare_amount": 14.5,
    "extra": 1.0,
    "mta_tax": 0.5,
    "tip_amount": 3.25,
    "tolls_amount": 6.55,
    "improvement_surcharge": 1.0,
    "total_amount": 30.05,
    "congestion_surcharge": 2.5,
    "airport_fee": 1.25,
    "cbd_congestion_fee": 0.75,
    "ehail_fee": 0.25,
    "trip_type": 2,
}

AMOUNTS = """
    fare_amount double, extra double, mta_tax double, tip_amount double, tolls_amount double,
    improvement_surcharge double, total_amount double
"""


def yellow(whole: str, count: str, flag: str, surcharges: str) -> str:
    return f"""
        VendorID {whole}, tpep_pickup_datetime timestamp, tpep_dropoff_datetime timestamp,
        passenger_count {count}, trip_distance double, RatecodeID {count}, store_and_fwd_flag {flag},
        PULocationID {whole}, DOLocationID {whole}, payment_type int64, {AMOUNTS}, {surcharges}
    """


def green(whole: str, count: str, flag: str, ehail_fee: str, surcharges: str) -> str:
    return f"""
        VendorID {whole}, lpep_pickup_datetime timestamp, lpep_dropoff_datetime timestamp,
        store_and_fwd_flag {flag}, RatecodeID {count}, PULocationID {whole}, DOLocationID {whole},
        passenger_count {count}, trip_distance double, {AMOUNTS}, ehail_fee {ehail_fee},
        payment_type {count}, trip_type {count}, {surcharges}
    """


NO_SURCHARGES = "congestion_surcharge null, airport_fee null"
CONGESTION = "congestion_surcharge double, airport_fee null"
BOTH = "congestion_surcharge double, airport_fee double"
BOTH_RENAMED = "congestion_surcharge double, Airport_fee double"
CBD = "congestion_surcharge double, Airport_fee double, cbd_congestion_fee double"
FLAGS = ("unreadable", "absurd")
GREEN_ALONE = {"ehail_fee", "trip_type"}
ADDED_LATER = {"congestion_surcharge", "airport_fee", "cbd_congestion_fee"}

# A month from each stretch of unchanged types: its columns, and the canonical ones it says nothing of.
MONTHS = {
    "yellow 2011-01": (yellow("int64", "int64", "string", BOTH), GREEN_ALONE | {"cbd_congestion_fee"}),
    "yellow 2011-02": (yellow("int64", "int64", "string", NO_SURCHARGES), GREEN_ALONE | ADDED_LATER),
    "yellow 2018-12": (yellow("int64", "double", "string", NO_SURCHARGES), GREEN_ALONE | ADDED_LATER),
    "yellow 2019-01": (
        yellow("int64", "double", "string", CONGESTION),
        GREEN_ALONE | {"airport_fee", "cbd_congestion_fee"},
    ),
    "yellow 2020-11": (yellow("int64", "double", "string", BOTH), GREEN_ALONE | {"cbd_congestion_fee"}),
    "yellow 2023-02": (
        yellow("int32", "int64", "large_string", BOTH_RENAMED),
        GREEN_ALONE | {"cbd_congestion_fee"},
    ),
    "yellow 2025-01": (yellow("int32", "int64", "large_string", CBD), GREEN_ALONE),
    "green 2018-12": (
        green("int64", "double", "string", "null", "congestion_surcharge null"),
        {"ehail_fee"} | ADDED_LATER,
    ),
    "green 2023-01": (
        green("int64", "double", "string", "null", "congestion_surcharge double"),
        {"ehail_fee", "airport_fee", "cbd_congestion_fee"},
    ),
    "green 2023-02": (
        green("int32", "int64", "large_string", "double", "congestion_surcharge double"),
        {"airport_fee", "cbd_congestion_fee"},
    ),
    "green 2025-01": (
        green(
            "int32",
            "int64",
            "large_string",
            "double",
            "congestion_surcharge double, cbd_congestion_fee double",
        ),
        {"airport_fee"},
    ),
}
TYPES = {
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "large_string": pa.large_string(),
    "timestamp": pa.timestamp("us"),
    "null": pa.null(),
}


def table(columns: str, **changed: object) -> pa.Table:
    """One row, TRIP but for what changed, in `columns`: names and physical types as in a month's file."""
    trip = TRIP | changed
    fields: list[pa.Field] = []
    values: list[pa.Array] = []
    for name, type_ in (column.split() for column in columns.split(",")):
        short = name.lower().removeprefix("tpep_").removeprefix("lpep_").removesuffix("_datetime")
        value = {each.lower(): trip[each] for each in trip}[short]
        fields.append(pa.field(name, TYPES[type_]))
        values.append(pa.array([None if type_ == "null" else value], TYPES[type_]))
    return pa.table(values, pa.schema(fields))


def canonical(file: Path, source: pa.Table) -> tuple[list[Row], dict[str, str]]:
    """The rows of a file of `source` by the projection, and the type of each column."""
    file.write_bytes(parquet(source))
    with duckdb.connect() as connection:
        found = connection.execute(
            f"""SELECT {projection(source.column_names)} FROM (
                SELECT 'yellow' AS service, DATE '2023-01-01' AS file_month, file_row_number AS source_row, *
                FROM read_parquet('{file}', file_row_number = true))"""
        )
        names = [name for name, *_ in found.description]
        types = [str(type_) for _, type_, *_ in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()], dict(zip(names, types, strict=True))


@pytest.mark.parametrize("month", MONTHS)
def test_a_trip_is_the_same_whatever_its_year(tmp_path: Path, month: str) -> None:
    columns, unknown = MONTHS[month]
    rows, types = canonical(tmp_path / "trips.parquet", table(columns))
    made_here = {"service": "yellow", "file_month": date(2023, 1, 1), "source_row": 0} | dict.fromkeys(FLAGS, False)
    # A column that the contract gained since has no value in these files.
    added = dict.fromkeys(column.name for column in TRIPS.columns)
    assert rows == [added | CANONICAL | dict.fromkeys(unknown) | made_here]
    assert types == {column.name: column.type for column in TRIPS.columns} | dict.fromkeys(FLAGS, "BOOLEAN")
    assert list(types) == [*(column.name for column in TRIPS.columns), *FLAGS]
    assert unknown_columns(table(columns).column_names) == []


@pytest.mark.parametrize("month", MONTHS)
def test_what_a_file_leaves_empty_stays_empty(tmp_path: Path, month: str) -> None:
    columns, _ = MONTHS[month]
    source = table(columns, **dict.fromkeys(TRIP))
    ((row,), _) = canonical(tmp_path / "trips.parquet", source)
    assert {name for name, value in row.items() if value is not None} == {
        "service",
        "file_month",
        "source_row",
        *FLAGS,
    }
    assert row["unreadable"] is False


YELLOW = "yellow 2023-02"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("passenger_count", pa.array(["many"]), "passenger_count"),
        ("passenger_count", pa.array([32_768]), "passenger_count"),
        ("passenger_count", pa.array([float("nan")]), "passenger_count"),
        ("PULocationID", pa.array([-32_769]), "pickup_zone_id"),
        ("tpep_pickup_datetime", pa.array(["yesterday"]), "pickup_at"),
        ("fare_amount", pa.array(["$12"]), "fare_amount"),
    ],
    ids=["a word", "too large", "not a number", "too small", "no time", "no amount"],
)
def test_a_value_that_cannot_be_read_is_null_and_marks_its_row(
    tmp_path: Path, column: str, value: pa.Array, said: str
) -> None:
    source = table(MONTHS[YELLOW][0])
    source = source.set_column(source.column_names.index(column), column, value)
    ((row,), types) = canonical(tmp_path / "trips.parquet", source)
    assert (row[said], row["unreadable"]) == (None, True)
    assert types[said] == next(found.type for found in TRIPS.columns if found.name == said)
    expected = CANONICAL | dict.fromkeys(MONTHS[YELLOW][1]) | {said: None}
    assert {name: row[name] for name in expected} == expected


def test_numbers_and_times_that_came_as_text_are_read(tmp_path: Path) -> None:
    source = table(MONTHS[YELLOW][0])
    for name, text in {"passenger_count": "3", "tpep_pickup_datetime": "2023-01-10 12:00:01"}.items():
        source = source.set_column(source.column_names.index(name), name, pa.array([text]))
    ((row,), _) = canonical(tmp_path / "trips.parquet", source)
    assert (row["passenger_count"], row["pickup_at"]) == (3, CANONICAL["pickup_at"])
    assert row["unreadable"] is False


def test_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    source = table(MONTHS[YELLOW][0])
    expected, _ = canonical(tmp_path / "as_published.parquet", source)
    shouted = source.rename_columns([name.upper() for name in source.column_names])
    assert canonical(tmp_path / "shouted.parquet", shouted)[0] == expected
    assert unknown_columns(shouted.column_names) == []


@pytest.mark.parametrize(
    "columns",
    [
        [
            "vendor_name",
            "Trip_Pickup_DateTime",
            "Trip_Dropoff_DateTime",
            "Start_Lon",
            "Start_Lat",
            "Total_Amt",
        ],
        ["vendor_id", "pickup_datetime", "dropoff_datetime", "pickup_longitude", "total_amount"],
    ],
    ids=["2009", "2010"],
)
def test_files_of_2009_and_2010_are_refused_with_the_reason(columns: list[str]) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        projection(columns)
    message = str(caught.value)
    assert message.startswith("files of 2009 and 2010 give coordinates instead of taxi zones")
    assert f"({', '.join(columns)})" in message
    assert message.endswith("Load 2011 or later.")


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        (["PULocationID"], "PULocationID"),
        (["total_amount"], "total_amount"),
        (["VendorID", "tip_amount"], "VendorID, tip_amount"),
        (["tpep_pickup_datetime"], "tpep_pickup_datetime or lpep_pickup_datetime"),
        (["DOLocationID", "PULocationID"], "PULocationID, DOLocationID"),
    ],
)
def test_a_missing_column_is_named(dropped: list[str], named: str) -> None:
    left = table(MONTHS[YELLOW][0]).drop_columns(dropped).column_names
    with pytest.raises(UnsupportedSchemaError) as caught:
        projection(left)
    message = str(caught.value)
    assert message.startswith(f"column {named} is missing. The file has: {', '.join(left)}.")
    assert message.endswith("then add its new name to ingestion/canonical.py.")


def test_columns_nobody_takes_are_reported() -> None:
    known = table(MONTHS["yellow 2025-01"][0]).column_names
    # `service` and the like are made here: a file that has them has something new.
    assert unknown_columns([*known, "tip_by_app", "service"]) == ["tip_by_app", "service"]
