"""The made-up months: TLC's schemas, the promised odd rows, and the same bytes every time."""

import csv
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import shapely
from ingestion import sample

MONTHS: list[tuple[sample.Service, str]] = [
    (service, month) for service, months in sample.ROWS.items() for month in months
]
each_month = pytest.mark.parametrize(("service", "month"), MONTHS)

FARES = """
    fare_amount double, extra double, mta_tax double, tip_amount double, tolls_amount double
"""
SCHEMAS = {
    "yellow 2023-01": f"""
        VendorID int64, tpep_pickup_datetime timestamp[us], tpep_dropoff_datetime timestamp[us],
        passenger_count double, trip_distance double, RatecodeID double, store_and_fwd_flag string,
        PULocationID int64, DOLocationID int64, payment_type int64, {FARES},
        improvement_surcharge double, total_amount double, congestion_surcharge double,
        airport_fee double
    """,
    "yellow 2023-02": f"""
        VendorID int32, tpep_pickup_datetime timestamp[us], tpep_dropoff_datetime timestamp[us],
        passenger_count int64, trip_distance double, RatecodeID int64,
        store_and_fwd_flag large_string,
        PULocationID int32, DOLocationID int32, payment_type int64, {FARES},
        improvement_surcharge double, total_amount double, congestion_surcharge double,
        Airport_fee double
    """,
    "green 2023-01": f"""
        VendorID int64, lpep_pickup_datetime timestamp[us], lpep_dropoff_datetime timestamp[us],
        store_and_fwd_flag string, RatecodeID double, PULocationID int64, DOLocationID int64,
        passenger_count double, trip_distance double, {FARES}, ehail_fee null,
        improvement_surcharge double, total_amount double, payment_type double, trip_type double,
        congestion_surcharge double
    """,
    "green 2023-02": f"""
        VendorID int32, lpep_pickup_datetime timestamp[us], lpep_dropoff_datetime timestamp[us],
        store_and_fwd_flag large_string, RatecodeID int64, PULocationID int32, DOLocationID int32,
        passenger_count int64, trip_distance double, {FARES}, ehail_fee double,
        improvement_surcharge double, total_amount double, payment_type int64, trip_type int64,
        congestion_surcharge double
    """,
}
SCHEMAS["yellow 2023-03"] = SCHEMAS["yellow 2023-02"]
SCHEMAS["green 2023-03"] = SCHEMAS["green 2023-02"]

# Found again from what the kinds mean, not from how sample.py makes them.
ODD_ROWS = {
    "impossible_year": "year(pickup) NOT IN (2022, 2023)",
    "before_month": "pickup >= month_start - INTERVAL 5 DAY AND pickup < month_start",
    "after_month": "pickup >= month_stop AND pickup < month_stop + INTERVAL 1 DAY",
    "dropoff_at_pickup": "dropoff = pickup",
    "dropoff_before_pickup": "dropoff < pickup",
    "zero_distance": "trip_distance = 0",
    "absurd_distance": "trip_distance BETWEEN 92000 AND 260000",
    "negative_amounts": "total_amount < 0",
    "unknown_zone": "PULocationID IN (264, 265) OR DOLocationID IN (264, 265)",
    "unknown_rate": "coalesce(RatecodeID, 0) = 99",
    "unreported": "passenger_count IS NULL",
}


def month_path(folder: Path, service: str, month: str) -> Path:
    return folder / "trip-data" / f"{service}_tripdata_{month}.parquet"


def trips(folder: Path, service: str, month: str) -> duckdb.DuckDBPyConnection:
    """Return a connection whose view `trips` has one file, with the same time names for both."""
    prefix = "tpep" if service == "yellow" else "lpep"
    connection = duckdb.connect()
    connection.execute(
        f"""
        CREATE VIEW trips AS
        SELECT *, {prefix}_pickup_datetime AS pickup, {prefix}_dropoff_datetime AS dropoff,
            {"coalesce(airport_fee, 0)" if service == "yellow" else "0"} AS airport_part,
            DATE '{month}-01' AS month_start, month_start + INTERVAL 1 MONTH AS month_stop
        FROM read_parquet('{month_path(folder, service, month)}')
        """
    )
    return connection


def count(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    rows = connection.execute(f"SELECT count(*) FROM trips WHERE {condition}").fetchall()
    return int(rows[0][0])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_another_process_writes_the_same_bytes(sample_data: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "ingestion.sample", tmp_path], check=True)
    expected = contents(sample_data)
    assert sorted(expected) == [
        "README.txt",
        "misc/taxi_zone_lookup.csv",
        "misc/taxi_zones.csv",
        "trip-data/green_tripdata_2023-01.parquet",
        "trip-data/green_tripdata_2023-02.parquet",
        "trip-data/green_tripdata_2023-03.parquet",
        "trip-data/yellow_tripdata_2023-01.parquet",
        "trip-data/yellow_tripdata_2023-02.parquet",
        "trip-data/yellow_tripdata_2023-03.parquet",
    ]
    written = contents(tmp_path)
    assert written.keys() == expected.keys()
    assert [name for name in expected if written[name] != expected[name]] == []


def test_second_run_mends_what_is_wrong(sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(sample_data, tmp_path / "sample")

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = times()
    sample.main([str(folder)])
    assert times() == before
    assert capsys.readouterr().out.endswith("Nothing rewritten: every file was right\n")

    damaged = month_path(folder, "green", "2023-02")
    right = damaged.read_bytes()
    damaged.write_bytes(right[:1000])
    sample.main([str(folder)])
    assert damaged.read_bytes() == right
    after = times()
    assert {path for path in after if after[path] != before.get(path)} == {damaged}
    assert capsys.readouterr().out.endswith("\n1 files written\n")


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trips.parquet"
    sample.publish(path, b"old")

    def fail(_path: Path, _target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        sample.publish(path, b"new")
    assert contents(tmp_path) == {"trips.parquet": b"old"}


def test_unwritable_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        sample.main([str(tmp_path / "file")])
    assert stop.value.code == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@each_month
def test_schema_is_that_of_tlc(sample_data: Path, service: sample.Service, month: str) -> None:
    schema = pq.read_schema(month_path(sample_data, service, month))
    expected = [column.split() for column in SCHEMAS[f"{service} {month}"].split(",")]
    assert [[field.name, str(field.type)] for field in schema] == expected


@each_month
def test_rows_are_as_many_as_promised(sample_data: Path, service: sample.Service, month: str) -> None:
    connection = trips(sample_data, service, month)
    assert count(connection, "true") == sample.ROWS[service][month]
    found = {kind: count(connection, condition) for kind, condition in ODD_ROWS.items()}
    assert found == dataclasses.asdict(sample.ODD_ROWS[service])
    ways = " + ".join(f"({condition})::INT" for condition in ODD_ROWS.values())
    assert count(connection, f"{ways} > 1") == 0
    ordinary = "pickup >= month_start AND pickup < month_stop AND dropoff > pickup"
    assert count(connection, f"{ways} = 0 AND NOT ({ordinary} AND trip_distance < 100)") == 0


@each_month
def test_nulls_stand_together(sample_data: Path, service: sample.Service, month: str) -> None:
    connection = trips(sample_data, service, month)
    for column in sample.NULL_WHEN_UNREPORTED[service]:
        assert count(connection, f"({column} IS NULL) <> (passenger_count IS NULL)") == 0
    if service == "yellow":
        assert count(connection, "(payment_type = 0) <> (passenger_count IS NULL)") == 0


@each_month
def test_negative_rows_are_mirrors(sample_data: Path, service: sample.Service, month: str) -> None:
    mirrored = """
        total_amount < 0 AND EXISTS (
            FROM trips AS other
            WHERE other.total_amount = -trips.total_amount
                AND other.fare_amount = -trips.fare_amount
                AND other.extra = -trips.extra
                AND other.mta_tax = -trips.mta_tax
                AND other.congestion_surcharge = -trips.congestion_surcharge
                AND (other.pickup, other.dropoff) = (trips.pickup, trips.dropoff)
                AND (other.PULocationID, other.DOLocationID)
                    = (trips.PULocationID, trips.DOLocationID)
        )
    """
    connection = trips(sample_data, service, month)
    assert count(connection, mirrored) == sample.ODD_ROWS[service].negative_amounts


@each_month
def test_total_is_the_sum_of_its_parts(sample_data: Path, service: sample.Service, month: str) -> None:
    parts = """
        fare_amount + extra + mta_tax + tip_amount + tolls_amount + improvement_surcharge
        + coalesce(congestion_surcharge, 0) + airport_part
    """
    connection = trips(sample_data, service, month)
    assert count(connection, f"round({parts}, 2) <> total_amount") == 0
    assert count(connection, "tip_amount <> 0 AND payment_type <> 1") == 0


@each_month
def test_every_zone_is_in_the_lookup(sample_data: Path, service: sample.Service, month: str) -> None:
    known = {int(row["LocationID"]) for row in read_csv(sample_data / "misc/taxi_zone_lookup.csv")}
    ids = (
        trips(sample_data, service, month)
        .execute("SELECT PULocationID FROM trips UNION SELECT DOLocationID FROM trips")
        .fetchall()
    )
    assert {zone for (zone,) in ids} <= known


@each_month
def test_days_have_the_shape_of_a_city(sample_data: Path, service: sample.Service, month: str) -> None:
    by_hour = (
        trips(sample_data, service, month)
        .execute("SELECT hour(pickup) FROM trips GROUP BY ALL ORDER BY count(*)")
        .fetchall()
    )
    hours = [hour for (hour,) in by_hour]
    assert set(hours[:2]) == {4, 5}
    assert set(hours[-2:]) <= {17, 18, 19}


def test_airport_fares(sample_data: Path) -> None:
    connection = trips(sample_data, "yellow", "2023-03")
    reported = "passenger_count IS NOT NULL AND total_amount > 0 AND PULocationID IN (132, 138)"
    assert count(connection, f"{reported} AND Airport_fee = 1.25") > 1000
    assert count(connection, f"{reported} AND Airport_fee <> 1.25") == 0
    jfk = "RatecodeID = 2 AND total_amount > 0"
    assert count(connection, jfk) > 500
    assert count(connection, f"{jfk} AND fare_amount <> 70") == 0


def test_lookup_is_as_tlc_serves_it(sample_data: Path) -> None:
    lookup = (sample_data / "misc/taxi_zone_lookup.csv").read_bytes()
    assert lookup.count(b"\r\n") == lookup.count(b"\n") == 266
    assert lookup.endswith(b'265,"Unknown","NA","N/A"\r\n')


def test_zone_shapes_keep_their_quirks_and_are_valid(sample_data: Path) -> None:
    path = sample_data / "misc/taxi_zones.csv"
    rows = read_csv(path)
    assert ",".join(rows[0]) == "OBJECTID,Shape_Leng,the_geom,Shape_Area,zone,LocationID,borough"
    assert sorted(int(row["OBJECTID"]) for row in rows) == list(range(1, 264))
    ids = sorted(int(row["LocationID"]) for row in rows)
    assert ids == sorted([*(set(range(1, 264)) - {57, 104, 105}), 56, 103, 103])
    shapes = shapely.from_wkt([row["the_geom"] for row in rows])
    assert {shape.geom_type for shape in shapes} == {"MultiPolygon"}
    assert shapely.is_valid(shapes).all()
    assert shapely.area(shapes).min() > 0
    assert shapely.coverage_is_valid(shapes)
    assert path.stat().st_size < 350_000
