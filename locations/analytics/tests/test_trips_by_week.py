"""Every trip once, in the week of its pickup, whatever file it came in and however often a week is rebuilt."""

from collections import defaultdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from analytics.defs import marts
from analytics.defs.marts import TRIPS_BY_WEEK, trips_by_week
from taxi_shared.partitions import SERVICE_WEEKS
from taxi_shared.warehouse import Warehouse

from conftest import TRIPS, Run, Trip, content, failure, load_months, load_zones, metadata

MART = TRIPS_BY_WEEK.table.table
# Files of three months, in each a trip at every edge: of the week, of the month, late and early ones.
MONTHS = {
    "2023-01-01|green": [
        Trip(datetime(2022, 12, 25, 0, 0)),
        Trip(datetime(2022, 12, 31, 23, 59, 59), total_amount=0.1),
        Trip(datetime(2023, 1, 1, 0, 0), total_amount=0.2),
        Trip(datetime(2023, 1, 1, 23, 59, 59), passenger_count=None),
        Trip(datetime(2023, 1, 2, 0, 0), passenger_count=6),
        Trip(datetime(2023, 1, 29, 23, 59, 59), trip_distance=None),
        Trip(datetime(2023, 1, 30, 0, 0), trip_distance=0.3),
        Trip(datetime(2023, 2, 1, 23, 59, 59)),
    ],
    "2023-02-01|green": [
        Trip(datetime(2023, 1, 25, 0, 0)),
        Trip(datetime(2023, 1, 31, 23, 0), fare_amount=12.3, tip_amount=0.0),
        Trip(datetime(2023, 2, 5, 23, 59, 59)),
        Trip(datetime(2023, 2, 6, 0, 0)),
        Trip(datetime(2023, 2, 28, 23, 0)),
        Trip(datetime(2023, 3, 1, 1, 0)),
    ],
    "2023-03-01|green": [
        Trip(datetime(2023, 2, 28, 23, 30)),
        Trip(datetime(2023, 3, 31, 23, 59, 59)),
        Trip(datetime(2023, 4, 1, 0, 30), total_amount=None),
    ],
    "2023-01-01|yellow": [Trip(datetime(2023, 1, 4, 12, minute), total_amount=10.1) for minute in range(10)],
}
WEEKS = [date(2022, 12, 19) + timedelta(weeks=number) for number in range(15)]
FIRST, LAST = f"green|{WEEKS[0]}", f"yellow|{WEEKS[-1]}"


@pytest.fixture
def months(ingestion: Warehouse) -> dict[str, list[Trip]]:
    """What ingestion has loaded."""
    load_months(ingestion, MONTHS)
    return dict(MONTHS)


def by_hand(months: dict[str, list[Trip]]) -> list[tuple[Any, ...]]:
    """The mart of all weeks, from what it means."""
    found: dict[tuple[str, date], list[Trip]] = defaultdict(list)
    for key, trips in months.items():
        for trip in trips:
            day = trip.pickup_at.date()
            found[key.split("|")[1], day - timedelta(days=day.weekday())].append(trip)
    return sorted(
        (
            *key,
            len(trips),
            total([trip.passenger_count for trip in trips]),
            total([trip.trip_distance for trip in trips]),
            total([trip.fare_amount for trip in trips]),
            total([trip.tip_amount for trip in trips]),
            total([trip.total_amount for trip in trips]),
        )
        for key, trips in found.items()
    )


def total(values: list[int | None] | list[float | None]) -> float | None:
    known = [Decimal(str(value)) for value in values if value is not None]
    return float(sum(known)) if known else None


def test_every_trip_counts_once_in_the_week_of_its_pickup(
    months: dict[str, list[Trip]], run: Run, warehouse: Warehouse
) -> None:
    assert run(trips_by_week, FIRST, LAST).success
    mart = content(warehouse, MART)
    assert mart == by_hand(months)
    assert sum(row[2] for row in mart) == sum(len(trips) for trips in months.values())
    with warehouse.read() as connection:
        counted = connection.execute(f"SELECT count(*) FROM ingestion.{TRIPS.table}").fetchone()
    assert counted == (sum(row[2] for row in mart),)


def test_the_last_week_is_there_with_the_last_trip(
    months: dict[str, list[Trip]], run: Run, warehouse: Warehouse
) -> None:
    assert (
        metadata(run(trips_by_week, "green|2023-03-27"), TRIPS_BY_WEEK.table.asset_key)["green|2023-03-27"]["trips"]
        == 2
    )
    assert content(warehouse, MART) == [("green", date(2023, 3, 27), 2, 2, 2.2, 16.2, 4.4, 11.3)]
    ended = datetime(2023, 4, 3, 0, 0)
    assert "green|2023-03-27" in SERVICE_WEEKS.get_partition_keys(current_time=ended)


def test_each_week_of_a_run_has_its_own_metadata(months: dict[str, list[Trip]], run: Run) -> None:
    found = metadata(run(trips_by_week, "green|2023-01-23", "yellow|2023-02-06"), TRIPS_BY_WEEK.table.asset_key)
    counts = {key: (values["dagster/partition_row_count"], values["trips"]) for key, values in found.items()}
    assert counts == {
        "green|2023-01-23": (1, 2),
        "green|2023-01-30": (1, 4),
        "green|2023-02-06": (1, 1),
        "yellow|2023-01-23": (0, 0),
        "yellow|2023-01-30": (0, 0),
        "yellow|2023-02-06": (0, 0),
    }


def test_a_week_without_trips_has_no_row(months: dict[str, list[Trip]], run: Run, warehouse: Warehouse) -> None:
    found = metadata(run(trips_by_week, "yellow|2023-02-06"), TRIPS_BY_WEEK.table.asset_key)
    assert found["yellow|2023-02-06"]["trips"] == 0
    assert found["yellow|2023-02-06"]["preview"].records == []
    assert content(warehouse, MART) == []


def test_a_week_run_again_changes_nothing(months: dict[str, list[Trip]], run: Run, warehouse: Warehouse) -> None:
    assert run(trips_by_week, FIRST, LAST).success
    before = content(warehouse, MART)
    assert run(trips_by_week, "green|2023-01-30").success
    assert run(trips_by_week, FIRST, LAST).success
    assert content(warehouse, MART) == before


def test_a_run_touches_only_its_own_weeks(months: dict[str, list[Trip]], run: Run, warehouse: Warehouse) -> None:
    assert run(trips_by_week, "green|2023-01-30").success
    assert run(trips_by_week, "yellow|2023-01-02").success
    rebuilt = [("green", date(2023, 1, 30)), ("yellow", date(2023, 1, 2))]
    assert content(warehouse, MART) == [row for row in by_hand(months) if row[:2] in rebuilt]


def test_a_corrected_month_changes_just_its_weeks(
    months: dict[str, list[Trip]], ingestion: Warehouse, run: Run, warehouse: Warehouse
) -> None:
    assert run(trips_by_week, FIRST, LAST).success
    before = content(warehouse, MART)
    months["2023-02-01|green"] = [Trip(datetime(2023, 2, 8, 9, 0), total_amount=99.99)]
    load_months(ingestion, {"2023-02-01|green": months["2023-02-01|green"]})
    assert run(trips_by_week, FIRST, LAST).success
    after = content(warehouse, MART)
    assert after == by_hand(months)
    changed = {row[:2] for row in set(before) ^ set(after)}
    assert changed == {
        ("green", date(2023, 1, 23)),
        ("green", date(2023, 1, 30)),
        ("green", date(2023, 2, 6)),
        ("green", date(2023, 2, 27)),
    }


def test_sums_are_exact_and_the_same_on_every_run(ingestion: Warehouse, run: Run, warehouse: Warehouse) -> None:
    rows = 300_000
    with ingestion.write(TRIPS) as connection:
        connection.execute(
            f"""INSERT INTO {TRIPS.table} BY NAME
            SELECT 'green' AS service, DATE '2023-01-01' AS file_month, range AS source_row,
              TIMESTAMP '2023-01-02' + to_seconds(range) AS pickup_at, pickup_at AS dropoff_at,
              1 AS pickup_zone_id, 1 AS dropoff_zone_id, (hash(range) % 9973) / 100 AS total_amount,
              total_amount AS trip_distance, total_amount AS fare_amount, total_amount AS tip_amount
            FROM range({rows})"""
        )
        (cents,) = connection.execute(f"SELECT sum(hash(range) % 9973)::BIGINT FROM range({rows})").fetchall()
    expected = float(Decimal(cents[0]) / 100)
    for _ in range(2):
        assert run(trips_by_week, "green|2023-01-02").success
        assert content(warehouse, MART) == [("green", date(2023, 1, 2), rows, None, *[expected] * 4)]


def test_what_nobody_entered_is_null_and_not_a_number_the_page_cannot_show(
    ingestion: Warehouse, run: Run, warehouse: Warehouse
) -> None:
    unknown = Trip(datetime(2023, 1, 3), passenger_count=None, trip_distance=None, total_amount=None)
    load_months(ingestion, {"2023-01-01|green": [unknown, unknown]})
    found = metadata(run(trips_by_week, "green|2023-01-02"), TRIPS_BY_WEEK.table.asset_key)
    assert content(warehouse, MART) == [("green", date(2023, 1, 2), 2, None, None, 16.2, 4.4, None)]
    (row,) = found["green|2023-01-02"]["preview"].records
    shown = dict(row.data)
    assert str(shown.pop("week")).startswith("2023-01-02")
    assert shown == {
        "service": "green",
        "trips": 2,
        "passengers": None,
        "distance_miles": None,
        "fare_amount": 16.2,
        "tip_amount": 4.4,
        "total_amount": None,
    }


def test_a_run_that_fails_leaves_the_mart_as_it_was(
    months: dict[str, list[Trip]], run: Run, warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(trips_by_week, FIRST, LAST).success
    before = content(warehouse, MART)
    select = files("analytics.defs").joinpath("trips_by_week.sql").read_text(encoding="utf-8")
    broken = select.replace("count(*) AS trips", "error('out of luck') AS trips")
    (tmp_path / "trips_by_week.sql").write_text(broken, encoding="utf-8")
    monkeypatch.setattr(marts, "files", lambda _package: tmp_path)
    assert "out of luck" in failure(run(trips_by_week, FIRST, LAST))
    assert content(warehouse, MART) == before


def test_without_ingestions_lake_the_run_says_what_to_do_first(run: Run) -> None:
    assert failure(run(trips_by_week, "green|2023-01-02")) == (
        "taxi_shared.warehouse.LakeMissingError: the lake 'ingestion' does not exist yet:"
        " materialize an asset of location 'ingestion' first"
    )


def test_a_lake_without_trips_names_the_table(ingestion: Warehouse, run: Run) -> None:
    load_zones(ingestion, {1: "Newark Airport"})
    assert "taxi_trips" in failure(run(trips_by_week, "green|2023-01-02"))
