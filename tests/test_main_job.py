"""The main job on the sample: what `./codeloc up` loads, against counts made from the source files by themselves."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from counting import count_file, trips_per_week
from mart_counting import COUNTED

from conftest import Platform, wait_for

MONTHS = ("2023-01-01", "2023-02-01", "2023-03-01")
# Made when somebody asks for it, and once a week.
NOT_SEEDED = ("reports/adhoc_request", "lakes/ingestion", "lakes/analytics")
PARTITIONS = [f"{month}|{service}" for month in MONTHS for service in ("green", "yellow")]


def source_file(platform: Platform, partition: str) -> Path:
    month, service = partition.split("|")
    return platform.home / "served" / "sample" / "trip-data" / f"{service}_tripdata_{month[:7]}.parquet"


def test_the_summary_tells_address_rows_and_how_to_stop(first_start: tuple[Platform, str]) -> None:
    platform, printed = first_start
    rows = sum(count_file(source_file(platform, partition)).kept for partition in PARTITIONS)
    assert platform.url in printed
    assert f"{rows:,} trips (made up) loaded" in printed
    assert f"{platform.files_url}/reports/report.html" in printed
    assert "./codeloc down" in printed


def test_both_locations_are_loaded_and_every_asset_is_materialized(sample: Platform) -> None:
    assert sample.loaded_locations() == {"ingestion": True, "analytics": True}
    assets = sample.graphql("{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }")[
        "assetNodes"
    ]
    there = {"/".join(asset["assetKey"]["path"]): len(asset["assetMaterializations"]) for asset in assets}
    for key in NOT_SEEDED:
        del there[key]
    landing = ("landing/taxi_trips_file", "landing/taxi_zones_file", "landing/taxi_zone_lookup_file")
    raw = ("raw/taxi_trips", "raw/taxi_trips_quarantine", "raw/taxi_trips_loads", "raw/taxi_zones")
    reports = ("reports/report", "reports/manhattan_stats", "reports/manhattan_map")
    marts = [f"{schema}/{mart}" for schema in ("marts", "bi") for mart in COUNTED]
    assert there == dict.fromkeys((*landing, *raw, *marts, *reports), 1)


def test_every_asset_shows_what_a_person_wants_to_see(sample: Platform) -> None:
    nodes = sample.graphql(
        """{ assetNodes { assetKey { path } groupName metadataEntries { label }
            assetMaterializations(limit: 30) { metadataEntries { label } } } }"""
    )["assetNodes"]
    for node in nodes:
        key, group = "/".join(node["assetKey"]["path"]), node["groupName"]
        if key in NOT_SEEDED:
            continue
        declared = {entry["label"] for entry in node["metadataEntries"]}
        newest = {entry["label"] for entry in node["assetMaterializations"][0]["metadataEntries"]}
        # Months with a few stray trips have no picture worth drawing.
        ever = {entry["label"] for event in node["assetMaterializations"] for entry in event["metadataEntries"]}
        if group == "reports":
            assert newest & {"link", "map"}, key
            assert newest & {"trips"}, key
            continue
        assert newest & {"dagster/row_count", "dagster/partition_row_count"}, key
        assert "preview" in newest, key
        assert "dagster/column_schema" in declared | newest, key
        if group in ("marts", "bi") or key in ("raw/taxi_trips", "raw/taxi_trips_quarantine"):
            assert {"dagster/column_lineage", "columns_made_from"} <= newest, key
        if group == "marts":
            assert {"chart", "report"} <= ever, key
        if group in ("landing", "raw"):
            assert "source" in newest, key


def test_every_table_with_a_contract_has_checks_and_all_of_them_passed(sample: Platform) -> None:
    nodes = sample.graphql(
        "{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks { name } } } } }"
    )["assetNodes"]
    checks = {"/".join(node["assetKey"]["path"]): node["assetChecksOrError"]["checks"] for node in nodes}
    # The newest of all, and not that of the newest materialization: of two runs at once it may be the other one's.
    query = """query ($key: AssetKeyInput!, $check: String!) {
        assetCheckExecutions(assetKey: $key, checkName: $check, limit: 1) {
            status evaluation { metadataEntries { label } } } }"""
    # A run that is under way tells of its table before it tells of its checks.
    sample.quiet()
    raw = ("raw/taxi_trips", "raw/taxi_trips_quarantine", "raw/taxi_trips_loads", "raw/taxi_zones")
    for key in (*raw, *(f"marts/{mart}" for mart in COUNTED)):
        assert {check["name"] for check in checks[key]} >= {"uniqueness", "conformity"}, key
        for check in checks[key]:
            found = sample.graphql(query, key={"path": key.split("/")}, check=check["name"])["assetCheckExecutions"]
            assert [execution["status"] for execution in found] == ["SUCCEEDED"], (key, check["name"])
            assert "measured" in {entry["label"] for entry in found[0]["evaluation"]["metadataEntries"]}


def test_the_lakes_are_kept_small_and_no_row_changes(sample: Platform) -> None:
    sample.quiet()
    tables = ("ingestion.raw.taxi_trips", "marts.zone_hourly_demand")
    before = [sample.fingerprint(table) for table in tables]
    runs = [sample.launch_asset(f"lakes/{location}", location) for location in ("ingestion", "analytics")]
    assert {sample.finished(run) for run in runs} == {"SUCCESS"}
    assert [sample.fingerprint(table) for table in tables] == before


def test_lineage_crosses_the_locations(sample: Platform) -> None:
    nodes = sample.graphql(
        "{ assetNodes { assetKey { path } repository { location { name } } dependencyKeys { path } } }"
    )["assetNodes"]
    owner = {"/".join(node["assetKey"]["path"]): node["repository"]["location"]["name"] for node in nodes}
    crossing = {
        ("/".join(above["path"]), "/".join(node["assetKey"]["path"]))
        for node in nodes
        for above in node["dependencyKeys"]
        if owner["/".join(above["path"])] != owner["/".join(node["assetKey"]["path"])]
    }
    of_trips = ("trips_by_week", "zone_hourly_demand", "fare_economics", "fares_by_distance", "airport_trips")
    assert crossing == {
        *(("raw/taxi_trips", f"marts/{mart}") for mart in of_trips),
        ("raw/taxi_trips_loads", "marts/load_quality"),
        ("raw/taxi_trips_loads", "reports/report"),
        ("raw/taxi_trips_quarantine", "marts/load_quality"),
        *(
            ("raw/taxi_zones", reader)
            for reader in (
                "marts/zone_hourly_demand",
                "marts/airport_trips",
                "reports/manhattan_stats",
                "reports/report",
            )
        ),
    }


def test_the_runs_went_through_queue_and_daemon(sample: Platform) -> None:
    runs = sample.graphql(
        """{ runsOrError(filter: {pipelineName: "trip_update_job"}) { ... on Runs { results {
            eventConnection { events { __typename } } } } } }"""
    )["runsOrError"]["results"]
    assert len(runs) >= 2
    for run in runs:
        events = [event["__typename"] for event in run["eventConnection"]["events"]]
        assert events.index("RunEnqueuedEvent") < events.index("RunStartingEvent") < events.index("RunStartEvent")


@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_row_of_a_month_is_kept_or_quarantined(sample: Platform, partition: str) -> None:
    sample.assert_accounted(source_file(sample, partition), partition)


@pytest.mark.parametrize("service", ["green", "yellow"])
def test_every_trip_counts_once_in_the_week_of_its_pickup(sample: Platform, service: str) -> None:
    files = [source_file(sample, partition) for partition in PARTITIONS if partition.endswith(service)]
    expected = trips_per_week(files)
    assert sample.weeks(service) == expected
    # March's last day is in the week that ends in April, which no loaded month covers to its end.
    assert expected[-1][0] == date(2023, 3, 27)


@pytest.mark.parametrize("service", ["green", "yellow"])
@pytest.mark.parametrize("mart", COUNTED)
def test_a_mart_is_what_the_source_files_come_to(sample: Platform, mart: str, service: str) -> None:
    sample.assert_mart(
        mart, [source_file(sample, partition) for partition in PARTITIONS if partition.endswith(service)]
    )


def test_manhattan_is_what_the_source_files_come_to(sample: Platform) -> None:
    sample.assert_manhattan(
        [source_file(sample, partition) for partition in PARTITIONS],
        sample.home / "served" / "sample" / "misc" / "taxi_zone_lookup.csv",
    )


def test_zones_are_all_there_once(sample: Platform) -> None:
    assert sample.warehouse(
        "SELECT count(*), count(DISTINCT zone_id), count(geometry_wkt) FROM ingestion.raw.taxi_zones"
    ) == [[265, 265, 263]]


# -- running months again -------------------------------------------------------------------------


def test_a_month_run_again_changes_nothing_and_downloads_nothing(sample: Platform) -> None:
    sample.quiet()
    before = [sample.fingerprint(f"ingestion.raw.{table}") for table in ("taxi_trips", "taxi_trips_quarantine")]
    run = sample.launch_month("2023-01-01|yellow")
    assert sample.finished(run) == "SUCCESS"
    after = [sample.fingerprint(f"ingestion.raw.{table}") for table in ("taxi_trips", "taxi_trips_quarantine")]
    assert after == before
    assert file_metadata(sample, run)["downloaded"] is False


def file_metadata(platform: Platform, run_id: str) -> dict[str, Any]:
    """Metadata with which a run recorded the file it fetched."""
    events = platform.graphql(
        """query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
            ... on MaterializationEvent { assetKey { path } metadataEntries {
                label ... on BoolMetadataEntry { boolValue } ... on TextMetadataEntry { text } } } } } } } }""",
        id=run_id,
    )["runOrError"]["eventConnection"]["events"]
    entries = next(
        event["metadataEntries"]
        for event in events
        if event.get("assetKey", {}).get("path") == ["landing", "taxi_trips_file"]
    )
    return {entry["label"]: entry.get("boolValue", entry.get("text")) for entry in entries}


def test_the_marts_follow_a_month_across_the_locations(sample: Platform) -> None:
    sample.quiet()
    weeks = [f"green|{date(2023, 1, 30) + timedelta(weeks=number)}" for number in range(5)]
    far_away = "green|2023-01-02"
    before = sample.materialized_at("marts/trips_by_week", [*weeks, far_away])
    run = sample.launch_month("2023-02-01|green")
    assert sample.finished(run) == "SUCCESS"

    def followed() -> bool:
        now = sample.materialized_at("marts/trips_by_week", weeks)
        months = sample.materialized_at("marts/zone_hourly_demand", ["2023-02-01|green"])
        trips = sample.materialized_at("raw/taxi_trips", ["2023-02-01|green"])["2023-02-01|green"]
        return all(now[week] > before[week] for week in weeks) and months["2023-02-01|green"] > trips

    wait_for(followed, "the weeks and the month to follow", 180)
    sample.quiet()
    assert sample.materialized_at("marts/trips_by_week", [far_away])[far_away] == before[far_away]
    files = [source_file(sample, partition) for partition in PARTITIONS if partition.endswith("green")]
    assert sample.weeks("green") == trips_per_week(files)


def test_four_months_at_once_leave_exactly_the_right_rows(sample: Platform) -> None:
    sample.quiet()
    before = sample.fingerprint("ingestion.raw.taxi_trips")
    # One of them twice.
    runs = [sample.launch_month(partition) for partition in [*PARTITIONS[:3], PARTITIONS[0]]]
    assert {sample.finished(run) for run in runs} == {"SUCCESS"}
    assert sample.fingerprint("ingestion.raw.taxi_trips") == before


def test_a_writer_killed_in_mid_write_loses_nothing_and_is_tried_again(sample: Platform) -> None:
    sample.quiet()
    before = sample.fingerprint("ingestion.raw.taxi_trips")
    run = sample.launch_month("2023-03-01|yellow")
    pid = wait_for(lambda: writer_in_transaction(sample), "the run to write", 60)
    psutil.Process(pid).kill()
    assert sample.finished(run) == "FAILURE"
    assert sample.fingerprint("ingestion.raw.taxi_trips") == before
    retry = wait_for(lambda: sample.run(run)["tags"].get("dagster/auto_retry_run_id"), "the daemon to retry the run")
    assert sample.finished(retry) == "SUCCESS"
    assert sample.fingerprint("ingestion.raw.taxi_trips") == before


def writer_in_transaction(platform: Platform) -> int | None:
    """Pid of the process that holds a table's lock, found by the port its connection comes from."""
    held = platform.postgres(
        """SELECT a.client_port FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND a.usename = 'ingestion' LIMIT 1"""
    )
    if not held:
        return None
    for process in platform.processes():
        try:
            ports = [connection.laddr.port for connection in process.net_connections("tcp") if connection.laddr]
        except psutil.Error:
            continue
        if held[0][0] in ports:
            return process.pid
    return None


# -- one location away ----------------------------------------------------------------------------


def test_ingestion_works_while_analytics_is_away(sample: Platform) -> None:
    sample.quiet()
    with away(sample, "analytics"):
        assert sample.finished(sample.launch_month("2023-01-01|green")) == "SUCCESS"


def test_analytics_works_while_ingestion_is_away(sample: Platform) -> None:
    sample.quiet()
    with away(sample, "ingestion"):
        run = sample.launch("weekly_update_job", location="analytics", service="green", week="2023-02-06")
        assert sample.finished(run) == "SUCCESS"


@contextmanager
def away(platform: Platform, location: str) -> Iterator[None]:
    """The location's server is down inside, is up again afterwards, and the other's never noticed."""
    (other,) = {"ingestion", "analytics"} - {location}
    pid = platform.pid(other)
    with platform.stopped(location):
        wait_for(lambda: not platform.loaded_locations()[location], f"the webserver to notice {location} is away")
        yield
        assert platform.loaded_locations() == {other: True, location: False}
    wait_for(lambda: all(platform.loaded_locations().values()), f"{location} to be back")
    assert platform.pid(other) == pid


def test_a_queued_run_does_not_need_its_code_server(sample: Platform) -> None:
    sample.quiet()
    with ExitStack() as ended:
        with sample.stopped("daemon"):
            run = sample.launch("zone_update_job")
            ended.enter_context(away(sample, "ingestion"))
        assert sample.finished(run) == "SUCCESS"


# -- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["analytics", "reader"])
def test_other_roles_read_ingestions_catalog_and_cannot_change_it(sample: Platform, role: str) -> None:
    assert sample.postgres("SELECT count(*) FROM lake_ingestion.ducklake_table", role)[0][0] >= 3
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sample.postgres("DELETE FROM lake_ingestion.ducklake_data_file", role)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sample.postgres("CREATE TABLE lake_ingestion.mine (n int)", role)
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        sample.postgres("SELECT 1", role, database="dagster")
