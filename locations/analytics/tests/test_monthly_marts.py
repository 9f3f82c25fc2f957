"""Fares, distances, airports and loads by month: every trip where it belongs, and the sums exact."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from analytics.defs import marts
from analytics.defs.marts import AIRPORT_TRIPS, FARE_ECONOMICS, FARES_BY_DISTANCE, LOAD_QUALITY, Mart
from dagster import AssetKey, AssetsDefinition, TableColumnLineage
from taxi_shared.contracts import contract
from taxi_shared.warehouse import Warehouse

from conftest import Run, Trip, content, insert, load_months, load_zones, metadata

NEWARK, JFK, LAGUARDIA, MIDTOWN, OUTSIDE = 1, 132, 138, 161, 265
NAMES = {
    NEWARK: "Newark Airport",
    JFK: "JFK Airport",
    LAGUARDIA: "LaGuardia Airport",
    MIDTOWN: "Midtown Center",
    OUTSIDE: "NA",
}
JANUARY, FEBRUARY = datetime(2023, 1, 10, 8, 30), datetime(2023, 2, 1)
FIRST, LAST = "2022-12-01|green", "2023-03-01|yellow"


def trip(at: datetime, miles: float | None = 2.5, payment: int | None = 1, **values: Any) -> Trip:  # noqa: ANN401
    return Trip(at, **({"pickup_zone_id": MIDTOWN} | values), trip_distance=miles, payment_type=payment)


MONTHS = {
    "2023-01-01|green": [
        *(trip(JANUARY, payment=payment, fare_amount=10.1 + (payment or 9)) for payment in (None, *range(7))),
        *(trip(JANUARY, miles) for miles in (None, 0.0, 0.01, 0.99, 1.0, 1.99, 2.0, 3.0, 4.99, 5.0, 10.0, 19.99, 20.0)),
        trip(JANUARY, 999.9, payment=2, tip_amount=0.0),
        trip(datetime(2022, 12, 31, 23, 59, 59)),
        trip(FEBRUARY - timedelta(seconds=1), lasts=timedelta(hours=3, seconds=1)),
        trip(FEBRUARY),
        trip(JANUARY, pickup_zone_id=JFK),
        trip(JANUARY, pickup_zone_id=JFK, dropoff_zone_id=LAGUARDIA, fare_amount=0.1, total_amount=0.2),
        trip(JANUARY, pickup_zone_id=JFK, dropoff_zone_id=JFK, fare_amount=None),
        trip(JANUARY + timedelta(days=1), dropoff_zone_id=NEWARK, pickup_zone_id=OUTSIDE, tip_amount=None),
    ],
    "2023-02-01|green": [
        trip(FEBRUARY - timedelta(hours=1), dropoff_zone_id=JFK, lasts=timedelta(hours=2)),
        trip(datetime(2023, 2, 28, 23, 59), dropoff_zone_id=LAGUARDIA, tolls_amount=6.55),
        trip(datetime(2023, 3, 1, 0, 1), dropoff_zone_id=LAGUARDIA, tolls_amount=None),
    ],
    "2023-01-01|yellow": [trip(JANUARY, total_amount=0.7, pickup_zone_id=LAGUARDIA) for _ in range(10)],
}
PAYMENTS = {
    None: "not reported",
    0: "flex fare",
    1: "card",
    2: "cash",
    3: "no charge",
    4: "dispute",
    5: "unknown",
    6: "voided",
}
EDGES = [0, 1, 2, 3, 5, 10, 20]
BANDS = [(float(low), high, f"{low} to {high}") for low, high in pairwise(EDGES)]


def total(trips: list[Trip], column: str) -> float | None:
    known = [Decimal(str(value)) for value in (getattr(trip, column) for trip in trips) if value is not None]
    return float(sum(known)) if known else None


def seconds(trips: list[Trip]) -> int:
    return int(sum(trip.lasts.total_seconds() for trip in trips))


def by_payment(service: str, trips: list[Trip]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    groups = grouped(trips, lambda trip: [(service, month(trip), PAYMENTS[trip.payment_type])])
    return {
        key: (
            len(found),
            total(found, "trip_distance"),
            seconds(found),
            *(total(found, f"{amount}_amount") for amount in ("fare", "tip", "tolls", "total")),
        )
        for key, found in groups.items()
    }


def by_distance(service: str, trips: list[Trip]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    def band(trip: Trip) -> tuple[str, float | None]:
        if not trip.trip_distance:
            return "none recorded", None
        for low, high, name in BANDS:
            if low <= trip.trip_distance < high:
                return name, low
        return "20 and more", 20.0

    groups = grouped(trips, lambda trip: [(service, month(trip), *band(trip))])
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for key, members in groups.items():
        by_card = [trip for trip in members if trip.payment_type == 1]
        found[key] = (
            len(members),
            total(members, "trip_distance"),
            total(members, "fare_amount"),
            total(members, "total_amount"),
            len(by_card),
            total(by_card, "fare_amount"),
            total(by_card, "tip_amount"),
        )
    return found


def by_airport(service: str, trips: list[Trip]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    def ends(trip: Trip) -> list[tuple[Any, ...]]:
        day = trip.pickup_at.date()
        zones = (("from", trip.pickup_zone_id), ("to", trip.dropoff_zone_id))
        return [(service, day, NAMES[zone], end) for end, zone in zones if "Airport" in NAMES.get(zone, "")]

    return {
        key: (
            len(found),
            total(found, "trip_distance"),
            seconds(found),
            *(total(found, f"{amount}_amount") for amount in ("fare", "tip", "total")),
        )
        for key, found in grouped(trips, ends).items()
    }


def month(trip: Trip) -> date:
    return trip.pickup_at.date().replace(day=1)


def grouped(trips: list[Trip], keys: Callable[[Trip], list[tuple[Any, ...]]]) -> dict[tuple[Any, ...], list[Trip]]:
    found: dict[tuple[Any, ...], list[Trip]] = defaultdict(list)
    for trip in trips:
        for key in keys(trip):
            found[key].append(trip)
    return found


@dataclass(frozen=True)
class Case:
    """A mart, its asset, and the same from what it means."""

    mart: Mart
    asset: AssetsDefinition
    by_hand: Callable[[str, list[Trip]], dict[tuple[Any, ...], tuple[Any, ...]]]

    def of_all(self, months: dict[str, list[Trip]]) -> list[tuple[Any, ...]]:
        rows = []
        for service in ("green", "yellow"):
            trips = [trip for key, found in months.items() if key.endswith(service) for trip in found]
            rows += [key + values for key, values in self.by_hand(service, trips).items()]
        return sorted(rows, key=str)


CASES = [
    Case(FARE_ECONOMICS, marts.fare_economics, by_payment),
    Case(FARES_BY_DISTANCE, marts.fares_by_distance, by_distance),
    Case(AIRPORT_TRIPS, marts.airport_trips, by_airport),
]
each_mart = pytest.mark.parametrize("case", CASES, ids=[case.mart.name for case in CASES])


@pytest.fixture
def months(ingestion: Warehouse) -> dict[str, list[Trip]]:
    """What ingestion has loaded, and the zones beside it."""
    load_months(ingestion, MONTHS)
    load_zones(ingestion, NAMES)
    return dict(MONTHS)


@each_mart
def test_every_trip_counts_where_it_belongs(
    case: Case, months: dict[str, list[Trip]], run: Run, warehouse: Warehouse
) -> None:
    assert run(case.asset, FIRST, LAST).success
    found = content(warehouse, case.mart.table.table)
    assert sorted(found, key=str) == case.of_all(months)
    keys = [tuple(row[: len(case.mart.table.key)]) for row in found]
    assert len(set(keys)) == len(keys)


@each_mart
def test_months_one_by_one_are_the_same_as_all_together(
    case: Case, months: dict[str, list[Trip]], run: Run, warehouse: Warehouse
) -> None:
    assert run(case.asset, FIRST, LAST).success
    together = content(warehouse, case.mart.table.table)
    for key in ("2023-01-01|green", "2023-02-01|green", "2023-01-01|yellow"):
        assert run(case.asset, key).success
    assert content(warehouse, case.mart.table.table) == together


@each_mart
def test_a_corrected_month_replaces_the_old_numbers(
    case: Case, months: dict[str, list[Trip]], ingestion: Warehouse, run: Run, warehouse: Warehouse
) -> None:
    assert run(case.asset, FIRST, LAST).success
    months["2023-01-01|green"] = [trip(JANUARY, pickup_zone_id=NEWARK, total_amount=99.99)]
    load_months(ingestion, {"2023-01-01|green": months["2023-01-01|green"]})
    assert run(case.asset, FIRST, LAST).success
    assert sorted(content(warehouse, case.mart.table.table), key=str) == case.of_all(months)


@each_mart
def test_each_month_shows_its_rows_trips_and_busiest_rows(
    case: Case, months: dict[str, list[Trip]], run: Run, warehouse: Warehouse
) -> None:
    found = metadata(run(case.asset, FIRST, LAST), case.mart.table.asset_key)
    rows = [row for row in case.of_all(months) if row[0] == "yellow"]
    values = found["2023-01-01|yellow"]
    trips = [column.name for column in case.mart.table.columns].index("trips")
    assert values["dagster/partition_row_count"] == len(rows)
    assert values["trips"] == sum(row[trips] for row in rows)
    assert [record.data["trips"] for record in values["preview"].records] == [row[trips] for row in rows]
    assert "](data:image/png;base64,iVBORw0KGgo" in values["chart"]
    assert values["report"] == "http://127.0.0.1:3001/reports/report.html"
    assert found["2022-12-01|yellow"]["preview"].records == []
    assert "chart" not in found["2022-12-01|yellow"]


def upstream_of(lineage: TableColumnLineage, column: str) -> set[str]:
    return {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in lineage.deps_by_column[column]}


def test_columns_are_traced_to_the_other_locations_columns(months: dict[str, list[Trip]], run: Run) -> None:
    found = metadata(run(marts.airport_trips, "2023-01-01|green"), AIRPORT_TRIPS.table.asset_key)
    lineage = found["2023-01-01|green"]["dagster/column_lineage"]
    assert list(lineage.deps_by_column) == [column.name for column in AIRPORT_TRIPS.table.columns]
    assert upstream_of(lineage, "airport") == {"raw/taxi_zones.zone"}
    assert upstream_of(lineage, "day") == {"raw/taxi_trips.pickup_at"}
    assert upstream_of(lineage, "duration_seconds") == {"raw/taxi_trips.pickup_at", "raw/taxi_trips.dropoff_at"}
    shown = {
        row.data["column"]: row.data["made_from"] for row in found["2023-01-01|green"]["columns_made_from"].records
    }
    assert list(shown) == list(lineage.deps_by_column)
    assert shown["duration_seconds"] == "raw/taxi_trips.dropoff_at, raw/taxi_trips.pickup_at"


# -- what was loaded ------------------------------------------------------------------------------

LOADS, QUARANTINE = contract("raw.taxi_trips_loads"), contract("raw.taxi_trips_quarantine")


def load_record(ingestion: Warehouse, key: str, kept: int, odd: dict[str, int], at: datetime) -> None:
    """What ingestion writes of a month's load beside the trips."""
    month, service = key.split("|")
    quarantined = sum(odd.values())
    with ingestion.write(LOADS, QUARANTINE) as connection:
        for table in (LOADS, QUARANTINE):
            connection.execute(f"DELETE FROM {table.table} WHERE file_month || '|' || service = $1", [key])
        columns = [column.name for column in LOADS.columns if column.name not in ("code_version", "run_id")]
        record = [service, month, at, kept + quarantined, kept, quarantined, "http://tlc/file", None, "0" * 64, "1"]
        insert(connection, LOADS.table, columns, [record])
        reasons = [reason for reason, rows in odd.items() for _ in range(rows)]
        rows = [[service, month, row, reason] for row, reason in enumerate(reasons)]
        insert(connection, QUARANTINE.table, ["service", "file_month", "source_row", "reason"], rows)


def test_every_row_of_a_file_stands_under_what_became_of_it(
    ingestion: Warehouse, run: Run, warehouse: Warehouse
) -> None:
    first, again = datetime(2023, 4, 1, 10), datetime(2023, 4, 2, 11, 30)
    load_record(ingestion, "2023-01-01|green", 90, {"no_duration": 7, "negative_amount": 3}, first)
    load_record(ingestion, "2023-01-01|yellow", 0, {"missing_value": 2}, first)
    load_record(ingestion, "2023-02-01|green", 5, {}, first)
    result = run(marts.load_quality, "2023-01-01|green", "2023-02-01|yellow")
    january, february = date(2023, 1, 1), date(2023, 2, 1)
    others = [
        ("green", february, "kept", 5, first),
        ("yellow", january, "kept", 0, first),
        ("yellow", january, "missing_value", 2, first),
    ]
    assert content(warehouse, LOAD_QUALITY.table.table) == [
        ("green", january, "kept", 90, first),
        ("green", january, "negative_amount", 3, first),
        ("green", january, "no_duration", 7, first),
        *others,
    ]
    values = metadata(result, AssetKey(["marts", "load_quality"]))["2023-01-01|green"]
    assert (values["dagster/partition_row_count"], values["row_count"]) == (3, 100)

    load_record(ingestion, "2023-01-01|green", 99, {"no_duration": 1}, again)
    assert run(marts.load_quality, "2023-01-01|green").success
    assert content(warehouse, LOAD_QUALITY.table.table) == [
        ("green", january, "kept", 99, again),
        ("green", january, "no_duration", 1, again),
        *others,
    ]
