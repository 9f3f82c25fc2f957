"""The location as Dagster loads it: what it defines and when it runs by itself."""

from datetime import datetime
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData
from ingestion.definitions import defs
from ingestion.defs.jobs import ENOUGH_FAULTS
from ingestion.defs.resources import TlcServer
from ingestion.landing import LandingStore
from ingestion.source import TripFile, open_client, parquet_rows
from taxi_shared.contracts.promised import problems

from conftest import Source, of_month

# Dagster's own: it makes runs of partitions with two dimensions in a way it has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*run_request_for_partition:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def loaded() -> Definitions:
    return defs()


@pytest.mark.parametrize(
    ("job", "assets"),
    [
        (
            "trip_update_job",
            {"landing/taxi_trips_file", "raw/taxi_trips", "raw/taxi_trips_quarantine", "raw/taxi_trips_loads"},
        ),
        ("zone_update_job", {"landing/taxi_zones_file", "landing/taxi_zone_lookup_file", "raw/taxi_zones"}),
    ],
)
def test_each_job_runs_what_it_says(loaded: Definitions, job: str, assets: set[str]) -> None:
    selected = loaded.resolve_job_def(job).asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in selected} == assets


def test_the_jobs_cover_every_asset(loaded: Definitions) -> None:
    covered: set[AssetKey] = set()
    for job in ("trip_update_job", "zone_update_job", "ingestion_lake_job"):
        covered |= set(loaded.resolve_job_def(job).asset_layer.selected_asset_keys)
    assert covered == set(loaded.resolve_all_asset_keys())


def test_nothing_reaches_the_internet_unasked(loaded: Definitions) -> None:
    repository = loaded.get_repository_def()
    assert {found.name: found.default_status for found in repository.schedule_defs} == {
        "trip_update_schedule": DefaultScheduleStatus.STOPPED,
        # These stay within the platform.
        "ingestion_lake_schedule": DefaultScheduleStatus.RUNNING,
    }
    assert {found.name: found.default_status for found in repository.sensor_defs} == {
        "tlc_release_sensor": DefaultSensorStatus.STOPPED,
        "ingestion_failure_alerts": DefaultSensorStatus.RUNNING,
    }


@pytest.mark.parametrize(
    ("tick", "month"),
    [
        (datetime(2023, 5, 5, 5), "2023-03-01"),
        (datetime(2024, 1, 5, 5), "2023-11-01"),
        (datetime(2024, 2, 5, 5), "2023-12-01"),
        (datetime(2011, 3, 5, 5), "2011-01-01"),
    ],
)
def test_the_schedule_asks_for_the_newest_month_of_both_services(
    loaded: Definitions, tick: datetime, month: str
) -> None:
    schedule = loaded.resolve_schedule_def("trip_update_schedule")
    assert schedule.cron_schedule == "0 5 5 * *"
    context = build_schedule_context(scheduled_execution_time=tick, repository_def=loaded.get_repository_def())
    requests = schedule.evaluate_tick(context).run_requests or []
    assert [request.partition_key for request in requests] == [f"{month}|green", f"{month}|yellow"]
    assert len({request.run_key for request in requests}) == 2


# -- the sensor that watches for releases -------------------------------------------------------------


class Tick:
    """One look of the sensor at the server."""

    def __init__(self, tlc: TlcServer, landing: LandingStore, loaded: Definitions) -> None:
        self._resources = {"tlc": tlc, "landing": landing}
        self._repository = loaded.get_repository_def()

    def __call__(self) -> SensorExecutionData:
        context = build_sensor_context(resources=self._resources, repository_def=self._repository)
        return self._repository.get_sensor_def("tlc_release_sensor").evaluate_tick(context)

    def requested(self) -> list[str | None]:
        return [request.partition_key for request in self().run_requests or []]


@pytest.fixture
def tick(tlc: TlcServer, landing: LandingStore, loaded: Definitions) -> Tick:
    return Tick(tlc, landing, loaded)


def release(source: Source, *keys: str, rows: int = 1) -> None:
    for key in keys:
        file = TripFile.of_partition(key)
        source.publish(file, of_month("green", "2023-03", [{"trip_distance": float(miles)} for miles in range(rows)]))


def land(landing: LandingStore, source: Source, *keys: str) -> None:
    """What the files' asset does for `keys`."""
    with open_client() as client:
        for key in keys:
            file = TripFile.of_partition(key)
            landing.update(client, f"{source.url}/{file.url_path}", file.name, parquet_rows)
    source.requests.clear()


NEVER = "nothing new or uploaded again"


def test_without_a_loaded_month_nothing_is_asked_for(source: Source, tick: Tick) -> None:
    release(source, "2023-03-01|green")
    found = tick()
    assert (found.run_requests, found.skip_message) == ([], NEVER)
    assert source.requests == []


def test_a_month_that_is_still_the_same_is_not_requested(source: Source, landing: LandingStore, tick: Tick) -> None:
    release(source, "2023-03-01|green")
    land(landing, source, "2023-03-01|green")
    found = tick()
    assert (found.run_requests, found.skip_message) == ([], NEVER)
    paths = [f"/trip-data/green_tripdata_2023-{month:02}.parquet" for month in (3, 4, 5, 6)]
    assert source.requests == [("HEAD", path, 200 if path == paths[0] else 404) for path in paths]


def test_a_month_uploaded_again_is_requested_and_nothing_else(
    source: Source, landing: LandingStore, tick: Tick
) -> None:
    release(source, "2023-02-01|green", "2023-03-01|green", "2023-03-01|yellow")
    land(landing, source, "2023-02-01|green", "2023-03-01|green", "2023-03-01|yellow")
    release(source, "2023-02-01|green", rows=2)
    assert tick.requested() == ["2023-02-01|green"]
    land(landing, source, "2023-02-01|green")
    assert tick.requested() == []


def test_each_version_is_requested_under_a_key_of_its_own(source: Source, landing: LandingStore, tick: Tick) -> None:
    release(source, "2023-03-01|green")
    land(landing, source, "2023-03-01|green")
    keys = []
    for rows in (2, 2, 3):
        release(source, "2023-03-01|green", rows=rows)
        (request,) = tick().run_requests or []
        assert request.run_key is not None
        keys.append(request.run_key)
    assert keys[0] == keys[1] != keys[2]
    assert all(key.startswith("green_tripdata_2023-03.parquet:") for key in keys)


def test_months_released_after_the_newest_loaded_one_are_requested(
    source: Source, landing: LandingStore, tick: Tick
) -> None:
    release(source, "2023-03-01|yellow")
    land(landing, source, "2023-03-01|yellow")
    release(source, "2023-04-01|yellow", "2023-05-01|yellow", "2023-04-01|green", "2023-01-01|yellow")
    assert tick.requested() == ["2023-04-01|yellow", "2023-05-01|yellow"]


def test_only_the_newest_24_loaded_months_are_watched(source: Source, landing: LandingStore, tick: Tick) -> None:
    months = [f"{2021 + month // 12}-{month % 12 + 1:02}-01|green" for month in range(26)]
    release(source, *months)
    land(landing, source, *months)
    release(source, *months, rows=2)
    assert tick.requested() == months[2:]
    assert len(source.requests) == 24 + 3


def test_a_server_without_etags_is_told_apart_by_its_dates(source: Source, landing: LandingStore, tick: Tick) -> None:
    file = TripFile.of_partition("2023-03-01|green")
    path = f"/{file.url_path}"
    dates = ["Mon, 20 Mar 2023 10:00:00 GMT", "Tue, 21 Mar 2023 10:00:00 GMT"]

    def dated(date: str) -> None:
        source.status(path, 200, {"Last-Modified": date})

    dated(dates[0])
    with open_client() as client:
        landing.update(client, source.url + path, file.name, lambda _file: 0)
    assert tick.requested() == []
    dated(dates[1])
    assert tick.requested() == [file.partition_key]


def test_an_unreachable_server_is_the_reason_to_skip(
    source: Source, landing: LandingStore, loaded: Definitions
) -> None:
    release(source, "2023-03-01|green")
    land(landing, source, "2023-03-01|green")
    nowhere = TlcServer(base_url="http://127.0.0.1:1", zones_url="http://127.0.0.1:1/zones.csv")
    found = Tick(nowhere, landing, loaded)()
    assert found.run_requests == []
    assert found.skip_message is not None
    assert found.skip_message.count("ConnectError") == ENOUGH_FAULTS
    assert "http://127.0.0.1:1/trip-data/green_tripdata_2023-03.parquet: ConnectError" in found.skip_message


def test_one_month_that_cannot_be_asked_for_does_not_stop_the_others(
    source: Source, landing: LandingStore, tick: Tick
) -> None:
    release(source, "2023-02-01|green", "2023-03-01|green")
    land(landing, source, "2023-02-01|green", "2023-03-01|green")
    source.status("/trip-data/green_tripdata_2023-02.parquet", 503)
    release(source, "2023-03-01|green", rows=2)
    found = tick()
    assert [request.partition_key for request in found.run_requests or []] == ["2023-03-01|green"]
    assert found.skip_message is None


def test_nothing_that_others_use_goes_from_our_contracts() -> None:
    assert problems(Path(__file__).parents[2], "ingestion") == []
