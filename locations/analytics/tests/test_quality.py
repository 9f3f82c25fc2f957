"""What broke a contract: nothing is made of what ingestion refused, and no mart takes rows that break its own."""

from datetime import date, datetime

import pytest
from analytics.defs.marts import TRIPS_BY_WEEK, trips_by_week, zone_hourly_demand
from dagster import ExecuteInProcessResult
from taxi_shared.contracts import contract
from taxi_shared.quality import Finding, keep, results_contract
from taxi_shared.warehouse import Warehouse

from conftest import TRIPS, ZONES, Run, Trip, content, load_months, load_zones

JANUARY, FEBRUARY = "2023-01-01|green", "2023-02-01|green"
IN_JANUARY, IN_FEBRUARY = "green|2023-01-09", "green|2023-02-13"
# Monday to Sunday, with days of both months.
BETWEEN = "green|2023-01-30"
WEEKS_WITH_FEBRUARY = [f"green|2023-{day}" for day in ("01-23", "01-30", "02-06", "02-13")]


@pytest.fixture
def months(ingestion: Warehouse) -> None:
    load_zones(ingestion, {236: "Upper East Side North"})
    load_months(
        ingestion,
        {JANUARY: [Trip(datetime(2023, 1, 10, 8))], FEBRUARY: [Trip(datetime(2023, 2, 14, 8))]},
    )


def judge(ingestion: Warehouse, table: str, partition: str, passed: bool) -> None:
    """As ingestion keeps what came of a check."""
    found = Finding("completeness", "days of the month without a trip", True, passed, 14, "days", "0 days")
    with ingestion.write(contract(table), appends=[results_contract()]) as connection:
        keep(connection, partition, {contract(table): [found]}, "a run")


def said(result: ExecuteInProcessResult) -> str:
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failed.user_failure_data is not None
    return str(failed.user_failure_data.description)


@pytest.mark.usefixtures("months")
def test_nothing_is_made_of_a_month_that_was_refused_until_it_is_mended(
    ingestion: Warehouse, warehouse: Warehouse, run: Run
) -> None:
    assert run(trips_by_week, IN_FEBRUARY).success
    before = content(warehouse, TRIPS_BY_WEEK.table.table)
    judge(ingestion, TRIPS.table, FEBRUARY, passed=False)
    load_months(ingestion, {FEBRUARY: [Trip(datetime(2023, 2, 14, 8))] * 5})
    for key in (IN_FEBRUARY, BETWEEN):
        assert said(run(trips_by_week, key)) == (
            f"{key}: stays as it was, because nothing is made of what was refused. raw/taxi_trips for {FEBRUARY}, which"
            " has trips of the periods beside it too, did not pass ingestion's checks: completeness (days of the month"
            " without a trip: observed 14 days, expected 0 days). Once that is mended, the period is made again by"
            " itself."
        )
    assert content(warehouse, TRIPS_BY_WEEK.table.table) == before
    # What is made of other months goes on, in a backfill of all of them too, and is recorded as made.
    backfill = run(trips_by_week, IN_JANUARY, last_key=IN_FEBRUARY)
    assert said(backfill).startswith(f"{', '.join(WEEKS_WITH_FEBRUARY)}: stays as it was")
    made = {(event.asset_key, event.partition) for event in backfill.get_asset_materialization_events()}
    healthy = ["green|2023-01-09", "green|2023-01-16"]
    assert made == {(key, week) for key in (TRIPS_BY_WEEK.table.asset_key, TRIPS_BY_WEEK.bi_key) for week in healthy}
    assert [row[:3] for row in content(warehouse, TRIPS_BY_WEEK.table.table)] == [
        ("green", date(2023, 1, 9), 1),
        ("green", date(2023, 2, 13), 1),
    ]
    judge(ingestion, TRIPS.table, FEBRUARY, passed=True)
    assert run(trips_by_week, IN_FEBRUARY).success
    assert content(warehouse, TRIPS_BY_WEEK.table.table)[1][:3] == ("green", date(2023, 2, 13), 5)


@pytest.mark.usefixtures("months")
def test_a_table_without_partitions_that_was_refused_stops_all_that_read_it(ingestion: Warehouse, run: Run) -> None:
    judge(ingestion, ZONES.table, "", passed=False)
    assert "raw/taxi_zones did not pass ingestion's checks: completeness (" in said(run(zone_hourly_demand, JANUARY))
    assert run(trips_by_week, IN_JANUARY).success


@pytest.mark.usefixtures("months")
def test_a_mart_does_not_take_rows_that_break_its_contract(
    ingestion: Warehouse, warehouse: Warehouse, run: Run
) -> None:
    assert run(trips_by_week, IN_JANUARY).success
    before = content(warehouse, TRIPS_BY_WEEK.table.table)
    load_months(ingestion, {JANUARY: [Trip(datetime(2023, 1, 10, 8), total_amount=-5.0)]})
    result = run(trips_by_week, IN_JANUARY)
    assert said(result).startswith(f"{IN_JANUARY}: total_amount below 0: observed 1 rows, expected 0 rows")
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"uniqueness": True, "conformity": False}
    assert content(warehouse, TRIPS_BY_WEEK.table.table) == before
