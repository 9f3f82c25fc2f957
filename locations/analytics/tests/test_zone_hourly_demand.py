"""Pickups by zone and hour: every trip once in the month of its pickup, each zone named, nothing doubled."""

from collections import defaultdict
from datetime import date, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from analytics.defs import marts
from analytics.defs.marts import ZONE_HOURLY_DEMAND, zone_hourly_demand
from taxi_shared.warehouse import Warehouse

from conftest import Run, Trip, content, failure, load_months, load_zones, metadata

MART = ZONE_HOURLY_DEMAND.table.table
NAMES = {zone: f"Zone {zone}" for zone in range(1, 266)} | {264: "NV", 265: "NA"}
MONTHS = {
    "2023-01-01|green": [
        Trip(datetime(2022, 12, 31, 23, 59, 59), 74),
        Trip(datetime(2023, 1, 1, 0, 0), 74, total_amount=0.1),
        Trip(datetime(2023, 1, 1, 0, 59, 59), 74, total_amount=0.2),
        Trip(datetime(2023, 1, 1, 1, 0), 74, total_amount=None),
        Trip(datetime(2023, 1, 1, 0, 30), 75),
        Trip(datetime(2023, 1, 31, 23, 59, 59), 264),
        Trip(datetime(2023, 2, 1, 0, 10), 264),
    ],
    "2023-02-01|green": [
        Trip(datetime(2023, 1, 31, 23, 10), 264, total_amount=-0.0),
        Trip(datetime(2023, 1, 25, 0, 0), 265),
        Trip(datetime(2023, 2, 28, 23, 59), 56),
        Trip(datetime(2023, 2, 28, 23, 1), 57),
        Trip(datetime(2023, 3, 1, 3, 0), 103),
    ],
    "2023-01-01|yellow": [Trip(datetime(2023, 1, 1, 0, minute), 74, total_amount=0.7) for minute in range(10)],
}
FIRST, LAST = "2022-12-01|green", "2023-03-01|yellow"


@pytest.fixture
def months(ingestion: Warehouse) -> dict[str, list[Trip]]:
    """What ingestion has loaded, and the zones beside it."""
    load_months(ingestion, MONTHS)
    load_zones(ingestion, NAMES)
    return dict(MONTHS)


def by_hand(months: dict[str, list[Trip]], names: dict[int, str] = NAMES) -> list[tuple[Any, ...]]:
    """The mart of all months, from what it means."""
    found: dict[tuple[str, int, datetime], list[Trip]] = defaultdict(list)
    for key, trips in months.items():
        for trip in trips:
            hour = trip.pickup_at.replace(minute=0, second=0)
            found[key.split("|")[1], trip.pickup_zone_id, hour].append(trip)
    return sorted(
        (service, zone, hour, names[zone], f"{names[zone]} borough", len(trips), charged(trips))
        for (service, zone, hour), trips in found.items()
    )


def charged(trips: list[Trip]) -> float | None:
    known = [Decimal(str(trip.total_amount)) for trip in trips if trip.total_amount is not None]
    return float(sum(known)) if known else None


def test_every_trip_counts_once_in_the_month_of_its_pickup(
    months: dict[str, list[Trip]], run: Run, warehouse: Warehouse
) -> None:
    found = metadata(run(zone_hourly_demand, FIRST, LAST), ZONE_HOURLY_DEMAND.table.asset_key)
    mart = content(warehouse, MART)
    assert mart == by_hand(months)
    assert sum(row[5] for row in mart) == sum(len(trips) for trips in months.values())
    counts = {key: (values["dagster/partition_row_count"], values["trips"]) for key, values in found.items()}
    assert counts == {
        "2022-12-01|green": (1, 1),
        "2023-01-01|green": (5, 7),
        "2023-02-01|green": (3, 3),
        "2023-03-01|green": (1, 1),
        "2022-12-01|yellow": (0, 0),
        "2023-01-01|yellow": (1, 10),
        "2023-02-01|yellow": (0, 0),
        "2023-03-01|yellow": (0, 0),
    }


def test_zones_are_named_and_borough_stands_beside(
    months: dict[str, list[Trip]], run: Run, warehouse: Warehouse
) -> None:
    assert run(zone_hourly_demand, "2023-01-01|green").success
    named = {(row[1], row[3], row[4]) for row in content(warehouse, MART)}
    assert named == {
        (74, "Zone 74", "Zone 74 borough"),
        (75, "Zone 75", "Zone 75 borough"),
        (264, "NV", "NV borough"),
        (265, "NA", "NA borough"),
    }


def test_a_month_without_trips_has_no_row(months: dict[str, list[Trip]], run: Run, warehouse: Warehouse) -> None:
    found = metadata(run(zone_hourly_demand, "2023-03-01|yellow"), ZONE_HOURLY_DEMAND.table.asset_key)
    assert found["2023-03-01|yellow"]["trips"] == 0
    assert content(warehouse, MART) == []


def test_a_month_run_again_changes_nothing(months: dict[str, list[Trip]], run: Run, warehouse: Warehouse) -> None:
    assert run(zone_hourly_demand, FIRST, LAST).success
    before = content(warehouse, MART)
    assert run(zone_hourly_demand, "2023-01-01|green").success
    assert run(zone_hourly_demand, FIRST, LAST).success
    assert content(warehouse, MART) == before


def test_a_run_touches_only_its_own_months(months: dict[str, list[Trip]], run: Run, warehouse: Warehouse) -> None:
    assert run(zone_hourly_demand, "2023-02-01|green").success
    assert run(zone_hourly_demand, "2023-01-01|yellow").success
    rebuilt = [("green", date(2023, 2, 1)), ("yellow", date(2023, 1, 1))]
    assert content(warehouse, MART) == [
        row for row in by_hand(months) if (row[0], row[2].date().replace(day=1)) in rebuilt
    ]


def test_a_corrected_month_changes_just_its_hours(
    months: dict[str, list[Trip]], ingestion: Warehouse, run: Run, warehouse: Warehouse
) -> None:
    assert run(zone_hourly_demand, FIRST, LAST).success
    before = content(warehouse, MART)
    months["2023-02-01|green"] = [Trip(datetime(2023, 2, 8, 9, 0), 1, total_amount=99.99)]
    load_months(ingestion, {"2023-02-01|green": months["2023-02-01|green"]})
    assert run(zone_hourly_demand, FIRST, LAST).success
    after = content(warehouse, MART)
    assert after == by_hand(months)
    assert {row[:3] for row in set(before) ^ set(after)} == {
        ("green", 265, datetime(2023, 1, 25, 0)),
        ("green", 264, datetime(2023, 1, 31, 23)),
        ("green", 1, datetime(2023, 2, 8, 9)),
        ("green", 56, datetime(2023, 2, 28, 23)),
        ("green", 57, datetime(2023, 2, 28, 23)),
        ("green", 103, datetime(2023, 3, 1, 3)),
    }


def test_new_names_come_with_the_next_run(
    months: dict[str, list[Trip]], ingestion: Warehouse, run: Run, warehouse: Warehouse
) -> None:
    assert run(zone_hourly_demand, FIRST, LAST).success
    renamed = NAMES | {74: "East Harlem North"}
    load_zones(ingestion, renamed)
    assert content(warehouse, MART) == by_hand(months)
    assert run(zone_hourly_demand, FIRST, LAST).success
    assert content(warehouse, MART) == by_hand(months, renamed)


def test_the_busiest_hours_are_shown(months: dict[str, list[Trip]], run: Run) -> None:
    found = metadata(run(zone_hourly_demand, "2023-01-01|yellow"), ZONE_HOURLY_DEMAND.table.asset_key)
    (row,) = found["2023-01-01|yellow"]["preview"].records
    assert (row.data["zone"], row.data["trips"], row.data["total_amount"]) == ("Zone 74", 10, 7.0)


def test_a_run_that_fails_leaves_the_mart_as_it_was(
    months: dict[str, list[Trip]], run: Run, warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(zone_hourly_demand, FIRST, LAST).success
    before = content(warehouse, MART)
    select = files("analytics.defs").joinpath("zone_hourly_demand.sql").read_text(encoding="utf-8")
    broken = select.replace("count(*) AS trips", "error('out of luck') AS trips")
    (tmp_path / "zone_hourly_demand.sql").write_text(broken, encoding="utf-8")
    monkeypatch.setattr(marts, "files", lambda _package: tmp_path)
    assert "out of luck" in failure(run(zone_hourly_demand, FIRST, LAST))
    assert content(warehouse, MART) == before


def test_without_ingestions_lake_the_run_says_what_to_do_first(run: Run) -> None:
    assert "materialize an asset of location 'ingestion' first" in failure(run(zone_hourly_demand, FIRST))


def test_a_lake_without_zones_names_the_table(ingestion: Warehouse, run: Run) -> None:
    load_months(ingestion, MONTHS)
    assert "taxi_zones" in failure(run(zone_hourly_demand, "2023-01-01|green"))
