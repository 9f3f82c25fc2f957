"""Real TLC months, served over HTTP, through the whole platform: schema drift, late trips, odd rows, re-uploads."""

from pathlib import Path

import pytest
from counting import trips_per_week

from conftest import Platform, wait_for

pytestmark = pytest.mark.tlc_data

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
    runs = [real.launch("zone_update_job"), *(real.launch_month(partition) for partition in PARTITIONS)]
    assert [real.finished(run) for run in runs] == ["SUCCESS"] * len(runs)
    # Analytics' lake, through which the tests ask, is there once the first mart is.
    wait_for(lambda: real.materialized_at("marts/zone_hourly_demand", PARTITIONS), "the marts to follow", 180)
    return real


@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_row_of_a_month_is_kept_or_quarantined(loaded: Platform, tlc_data: Path, partition: str) -> None:
    loaded.assert_accounted(source_file(tlc_data, partition), partition)


@pytest.mark.parametrize("service", ["green", "yellow"])
def test_the_weeks_follow_and_count_every_trip_once(loaded: Platform, tlc_data: Path, service: str) -> None:
    expected = trips_per_week([source_file(tlc_data, found) for found in PARTITIONS if found.endswith(service)])

    wait_for(
        lambda: loaded.materialized_at("marts/trips_by_week", [f"{service}|{expected[-1][0]}"]), "the last week", 180
    )
    loaded.quiet()
    assert loaded.weeks(service) == expected


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
