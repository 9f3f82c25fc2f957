"""Real TLC months, served over HTTP, through the whole platform: schema drift, late trips, odd rows, re-uploads."""

from pathlib import Path

import pytest
from counting import trips_per_week
from mart_counting import COUNTED

from conftest import Platform

# Months of three years: the marts of all of them follow before the first test.
pytestmark = [pytest.mark.tlc_data, pytest.mark.timeout(1500)]

# Green crosses a change of schema between its months; the yellow ones cover the Null-typed columns.
PARTITIONS = [
    "2023-01-01|green",
    "2023-02-01|green",
    "2018-12-01|yellow",
    "2019-01-01|yellow",
    "2020-10-01|yellow",
    "2020-11-01|yellow",
    "2025-02-01|yellow",
]


def source_file(tlc_data: Path, partition: str) -> Path:
    month, service = partition.split("|")
    return tlc_data / "trip-data" / f"{service}_tripdata_{month[:7]}.parquet"


@pytest.fixture(scope="module")
def loaded(real: Platform) -> Platform:
    # The marts follow once all is there: what a month and the ones beside it feed is made once, not three times.
    with real.turned_off("analytics_automation"):
        runs = [real.launch("zone_update_job"), *(real.launch_month(partition) for partition in PARTITIONS)]
        assert [real.finished(run) for run in runs] == ["SUCCESS"] * len(runs)
    real.settled()
    return real


@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_row_of_a_month_is_kept_or_quarantined(loaded: Platform, tlc_data: Path, partition: str) -> None:
    loaded.assert_accounted(source_file(tlc_data, partition), partition)


@pytest.mark.parametrize("service", ["green", "yellow"])
def test_the_weeks_follow_and_count_every_trip_once(loaded: Platform, tlc_data: Path, service: str) -> None:
    expected = trips_per_week([source_file(tlc_data, found) for found in PARTITIONS if found.endswith(service)])
    assert loaded.weeks(service) == expected


@pytest.mark.parametrize("service", ["green", "yellow"])
@pytest.mark.parametrize("mart", COUNTED)
def test_a_mart_is_what_the_source_files_come_to(loaded: Platform, tlc_data: Path, mart: str, service: str) -> None:
    loaded.assert_mart(mart, [source_file(tlc_data, found) for found in PARTITIONS if found.endswith(service)])


def test_manhattan_is_what_the_source_files_come_to(loaded: Platform, tlc_data: Path) -> None:
    files = [source_file(tlc_data, found) for found in PARTITIONS]
    loaded.assert_manhattan(files, tlc_data / "misc" / "taxi_zone_lookup.csv")


def test_a_month_that_is_not_published_fails_with_a_clear_error_and_is_not_tried_again(loaded: Platform) -> None:
    run = loaded.launch_month("2012-05-01|green")
    assert loaded.finished(run) == "FAILURE"
    assert "dagster/auto_retry_run_id" not in loaded.run(run)["tags"]
    events = loaded.graphql(
        """query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
            ... on ExecutionStepFailureEvent { failureMetadata { description } error { message } } } } } } }""",
        id=run,
    )["runOrError"]["eventConnection"]["events"]
    messages = " ".join(str(event) for event in events if event)
    assert "green_tripdata_2012-05.parquet: not published (HTTP 404)" in messages
    assert "green files begin with 2013-08" in messages


def test_zones_of_the_real_files_are_all_there_once(loaded: Platform) -> None:
    assert loaded.warehouse(
        "SELECT count(*), count(DISTINCT zone_id), count(geometry_wkt) FROM ingestion.raw.taxi_zones"
    ) == [[265, 265, 263]]
    assert loaded.warehouse("SELECT zone FROM ingestion.raw.taxi_zones WHERE zone_id = 265") == [["NA"]]
