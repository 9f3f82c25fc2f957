"""Bad days, one table: whatever the source sends, it is told, the warehouse stays as it was, and a good file heals it.

Each case goes over real HTTP through the assets that a run has: a month that is there, the bad file, the good one.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pyarrow as pa
import pytest
from dagster import AssetCheckSeverity, RetryPolicy
from ingestion import sample
from ingestion import source as source_module
from ingestion.defs import common, trips
from ingestion.defs.files import WHOLE_FILE, taxi_trips_file, taxi_zone_lookup_file, taxi_zones_file
from ingestion.defs.trips import LOADS, QUARANTINE, TRIPS, taxi_trips
from ingestion.defs.zones import ZONES, taxi_zones
from ingestion.landing import LandingStore
from ingestion.source import TripFile
from taxi_shared.quality import RESULTS, refused
from taxi_shared.warehouse import Warehouse

from conftest import Run, Source, content, failure, lake_in, of_month, parquet

KEY = "2023-02-01|green"
FILE = TripFile.of_partition(KEY)
PATH = f"/{FILE.url_path}"
OTHER = TripFile.of_partition("2023-01-01|green")
TABLES = (TRIPS.table, QUARANTINE.table, LOADS.table)
Spoil = Callable[[Source], None]

pytestmark = pytest.mark.whole_months


def month(file: TripFile, **values: Any) -> pa.Table:  # noqa: ANN401  (as the file has them)
    """A trip on each day, all with the same values."""
    days = [datetime(file.month.year, file.month.month, day, 12) for day in range(1, 29)]
    days += [day for day in (days[-1] + timedelta(days=n) for n in (1, 2, 3)) if day.month == file.month.month]
    rows = [{"pickup": day, "dropoff": day + timedelta(minutes=10), **values} for day in days]
    return of_month("green", f"{file.month:%Y-%m}", rows)


GOOD = month(FILE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `loaded` to be copied from; it is filled by the first test."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def loaded(prepared: Path, tmp_path: Path, source: Source, run: Run) -> dict[str, list[tuple[Any, ...]]]:
    """The warehouse after January and February were loaded from good files, which the source has."""
    for file in (OTHER, FILE):
        source.publish(file, month(file))
    if not any(prepared.iterdir()):
        assert run(taxi_trips_file, taxi_trips, key=OTHER.partition_key, last_key=KEY).success
        shutil.copytree(tmp_path, prepared, dirs_exist_ok=True)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return content(lake_in(tmp_path), *TABLES)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PASSING_FAULTS", RetryPolicy(max_retries=1, delay=0))
    monkeypatch.setattr(source_module, "_TIMEOUT", httpx.Timeout(1))
    monkeypatch.setattr(source_module, "_PATIENCE", 0.5)


# -- what a server may do ---------------------------------------------------------------------------


def status(number: int, **headers: str) -> Spoil:
    return lambda source: source.status(PATH, number, headers, b"{}")


def body(content: bytes) -> Spoil:
    return lambda source: source.serve(PATH, content)


def table(changed: pa.Table) -> Spoil:
    return lambda source: source.publish(FILE, changed)


def silence(source: Source) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(1.2)
        handler.close_connection = True

    source.answers[PATH] = answer


def reset(source: Source) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.shutdown(2)

    source.serve_half(PATH, parquet(GOOD), answer)


def shorter_than_announced(source: Source) -> None:
    source.serve_half(PATH, parquet(GOOD), lambda handler: setattr(handler, "close_connection", True))


def trickle(source: Source) -> None:
    content = parquet(GOOD)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        try:
            for byte in content[:40]:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass
        handler.close_connection = True

    source.answers[PATH] = answer


def circle(source: Source) -> None:
    source.status(PATH, 302, {"Location": f"{source.url}{PATH}"})


def retyped(column: str, values: pa.Array) -> pa.Table:
    return GOOD.set_column(GOOD.column_names.index(column), column, values)


ROWS = GOOD.num_rows
PAGE = b"<!DOCTYPE html><html><body>Maintenance</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
WHOLE = parquet(GOOD)
DAMAGED = WHOLE[:100] + bytes(200) + WHOLE[300:]
ANCIENT = pa.table({"vendor_name": ["VTS"], "Trip_Pickup_DateTime": ["2009-01-04 02:52:00"], "Start_Lon": [-73.99]})

# What the source sends, what the run's error says, and the checks that are red besides.
REFUSED: dict[str, tuple[Spoil, str, set[str]]] = {
    "403": (status(403), f"{PATH}: not published (HTTP 403). TLC publishes about two months after", {WHOLE_FILE}),
    "404": (status(404), f"{PATH}: not published (HTTP 404). TLC publishes about two months after", {WHOLE_FILE}),
    "429 with Retry-After": (status(429, **{"Retry-After": "0"}), f"{PATH}: HTTP 429", set()),
    "500": (status(500), f"{PATH}: HTTP 500", set()),
    "timeout": (silence, f"{PATH}: ReadTimeout", set()),
    "reset in mid-body": (reset, f"{PATH}: Re", set()),
    "slow trickle": (trickle, f"{PATH}: too slow: ", set()),
    "redirect loop": (circle, f"{PATH}: redirected in circles", {WHOLE_FILE}),
    "wrong length": (shorter_than_announced, f"{PATH}: RemoteProtocolError", set()),
    "HTML page with status 200": (body(PAGE), "does not begin with PAR1, but with b'<!DOCTYPE", {WHOLE_FILE}),
    "JSON error saved as Parquet": (body(b'{"error": "gone"}'), "not a Parquet file", {WHOLE_FILE}),
    "git-lfs pointer": (body(POINTER), "not a Parquet file", {WHOLE_FILE}),
    "truncated Parquet": (
        body(parquet(GOOD)[:-100]),
        "a Parquet file that was cut off: its footer is missing",
        {WHOLE_FILE},
    ),
    "damaged in the middle": (body(DAMAGED), "a Parquet file that is damaged: ", {WHOLE_FILE}),
    "another table": (
        table(pa.table({"LocationID": [1], "Borough": ["EWR"]})),
        "is missing. The file has: LocationID, Borough. Either it is not a file of taxi trips",
        {"schema"},
    ),
    "missing column": (table(GOOD.drop_columns("PULocationID")), "column PULocationID is missing", {"schema"}),
    "renamed column": (
        table(GOOD.rename_columns([name.replace("tip_", "tips_") for name in GOOD.column_names])),
        "column tip_amount is missing",
        {"schema"},
    ),
    "schema of 2009": (table(ANCIENT), "files of 2009 and 2010 give coordinates instead of taxi zones", {"schema"}),
    "times that are texts": (
        table(retyped("lpep_pickup_datetime", pa.array(["noon"] * ROWS))),
        f"Of {ROWS} rows read {ROWS} are in the quarantine: {ROWS} with unreadable_value",
        {"completeness", "row_accounting"},
    ),
    "zones that are texts": (
        table(retyped("PULocationID", pa.array(["Midtown"] * ROWS))),
        f"Of {ROWS} rows read {ROWS} are in the quarantine: {ROWS} with unreadable_value",
        {"completeness", "row_accounting"},
    ),
    "a key column of nulls": (
        table(retyped("PULocationID", pa.nulls(ROWS))),
        "rows in the quarantine: observed 100 percent, expected at most 20 percent, for example"
        ' {"source_row": 0, "reason": "missing_value", "pickup_at": "2023-02-01 12:00:00", "dropoff_at":'
        ' "2023-02-01 12:10:00", "pickup_zone_id": null, "dropoff_zone_id": 237, "trip_distance": 2.5,'
        f' "total_amount": 18.5}}. Of {ROWS} rows read {ROWS} are in the quarantine: {ROWS} with missing_value.'
        f" There is no pickup_zone_id in {ROWS} of them",
        {"completeness", "row_accounting"},
    ),
    "every second zone is null": (
        table(retyped("PULocationID", pa.array([None if row % 2 else 74 for row in range(ROWS)]))),
        f"Of {ROWS} rows read {ROWS // 2} are in the quarantine: {ROWS // 2} with missing_value",
        {"completeness", "row_accounting"},
    ),
    "every row twice": (
        table(pa.concat_tables([GOOD, GOOD])),
        "trips that are there twice: observed 50 percent, expected at most 5 percent",
        {"uniqueness"},
    ),
    "no rows": (table(GOOD.slice(0, 0)), "rows: observed 0 rows, expected more than 0 rows", {"completeness"}),
    "half a month": (
        table(GOOD.slice(0, 14)),
        "days of the month without a trip: observed 14 days, expected at most 7 days",
        {"completeness"},
    ),
    "all rows outside the month": (
        lambda source: source.publish(FILE, month(TripFile.of_partition("2023-05-01|green"))),
        "Of 31 rows read 31 are in the quarantine: 31 with outside_file_month",
        {"completeness", "row_accounting"},
    ),
    "another month's file": (
        lambda source: source.publish(FILE, month(OTHER)),
        f"Its content is also that of {OTHER.name}",
        {"completeness", "row_accounting", "source_file"},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_month_leaves_the_warehouse_as_it_was_and_a_good_file_heals(
    name: str,
    source: Source,
    landing: LandingStore,
    warehouse: Warehouse,
    run: Run,
    loaded: dict[str, list[tuple[Any, ...]]],
) -> None:
    spoil, says, red = REFUSED[name]
    file_before = landing.path(FILE.name).read_bytes()
    spoil(source)
    result = run(taxi_trips_file, taxi_trips, key=KEY)
    assert not result.success
    assert says in failure(result)
    errors = {
        check.check_name
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == AssetCheckSeverity.ERROR
    }
    assert errors == red
    assert content(warehouse, *TABLES) == loaded
    with warehouse.read() as connection:
        told = refused(connection, TRIPS)
    assert {(partition, check) for partition, check, _ in told} == {(KEY, check) for check in red - {WHOLE_FILE}}
    if red <= {WHOLE_FILE}:
        # It never came as far as the landing store.
        assert landing.path(FILE.name).read_bytes() == file_before
    assert [path.name for path in Path(landing.folder).glob(".*")] == []

    source.publish(FILE, GOOD)
    healed = run(taxi_trips_file, taxi_trips, key=KEY)
    assert healed.success
    assert all(check.passed for check in healed.get_asset_check_evaluations())
    with warehouse.read() as connection:
        assert refused(connection, TRIPS) == []


def test_a_check_warns_while_another_month_is_refused(
    source: Source, run: Run, loaded: dict[str, list[tuple[Any, ...]]]
) -> None:
    source.publish(FILE, GOOD.slice(0, 14))
    assert not run(taxi_trips_file, taxi_trips, key=KEY).success
    of_another_month = run(taxi_trips_file, taxi_trips, key=OTHER.partition_key)
    assert of_another_month.success
    (check,) = [check for check in of_another_month.get_asset_check_evaluations() if not check.passed]
    assert (check.check_name, check.severity) == ("completeness", AssetCheckSeverity.WARN)
    assert check.description is not None
    said = f"refused before: {KEY}: days of the month without a trip: observed 14 days"
    assert check.description.startswith(said)
    source.publish(FILE, GOOD)
    healed = run(taxi_trips_file, taxi_trips, key=KEY)
    assert all(check.passed for check in healed.get_asset_check_evaluations())


def test_the_other_months_of_a_run_are_loaded_and_the_refused_ones_named(
    source: Source, run: Run, warehouse: Warehouse, loaded: dict[str, list[tuple[Any, ...]]]
) -> None:
    march = TripFile.of_partition("2023-03-01|green")
    source.publish(OTHER, month(OTHER).slice(0, 14))
    source.publish(FILE, month(FILE, total_amount=21.0))
    source.publish(march, month(march).slice(0, 10))
    result = run(taxi_trips_file, taxi_trips, key=OTHER.partition_key, last_key=march.partition_key)
    text = failure(result)
    refused_keys = f"{OTHER.partition_key}, {march.partition_key}"
    assert text.startswith(f"2 of 3 months failed ({refused_keys}). {OTHER.name}: days of the month")
    assert f"{march.name}: days of the month without a trip: observed 21 days" in text
    mend = f"materialize landing/taxi_trips_file and raw/taxi_trips for {refused_keys}."
    assert mend in text
    check, size = (check for check in result.get_asset_check_evaluations() if not check.passed)
    assert (check.check_name, check.severity) == ("completeness", AssetCheckSeverity.ERROR)
    assert (size.check_name, size.severity) == ("consistency", AssetCheckSeverity.WARN)
    assert check.metadata["what_to_do"].value == (
        f"The rows of before are still there. Once the file or the rule is mended, {mend}"
    )
    assert check.metadata[f"file of {march.partition_key}"].value == f"{source.url}/{march.url_path}"
    made = [event for event in result.get_asset_materialization_events() if event.asset_key == TRIPS.asset_key]
    assert [event.partition for event in made] == [KEY]
    metadata = made[0].step_materialization_data.materialization.metadata
    assert metadata["dagster/partition_row_count"].value == ROWS
    with warehouse.read() as connection:
        counted = connection.execute(
            f"SELECT sum(total_amount) FROM {TRIPS.table} WHERE file_month = DATE '2023-02-01'"
        ).fetchone()
    assert counted == (pytest.approx(ROWS * 21.0),)


def test_content_that_duckdb_refuses_after_it_was_measured_is_told_of_its_month(
    source: Source,
    run: Run,
    warehouse: Warehouse,
    loaded: dict[str, list[tuple[Any, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_arguments: object) -> None:
        raise duckdb.ConversionException("Date out of range in timestamp conversion")

    source.publish(FILE, month(FILE, total_amount=21.0))
    with monkeypatch.context() as patched:
        patched.setattr(trips, "_preview", broken)
        text = failure(run(taxi_trips_file, taxi_trips, key=KEY))
    assert text.startswith(f"{FILE.name}: DuckDB cannot read or keep what is in it: Date out of range")
    assert content(warehouse, *TABLES) == loaded
    with warehouse.read() as connection:
        assert [(partition, check) for partition, check, _ in refused(connection, TRIPS)] == [(KEY, "source_file")]
    assert run(taxi_trips_file, taxi_trips, key=KEY).success


# -- odd, and no reason to refuse a month -----------------------------------------------------------

EXTRA = GOOD.append_column("tip_by_app", pa.array([1.0] * ROWS))
ACCEPTED: dict[str, pa.Table] = {
    "extra column": EXTRA,
    "a column of nulls without a type": retyped("ehail_fee", pa.nulls(ROWS)),
    "other letter case": GOOD.rename_columns([name.upper() for name in GOOD.column_names]),
    "whole numbers as floating point": retyped("passenger_count", pa.array([1.0] * ROWS)),
    "re-uploaded with other amounts": month(FILE, total_amount=21.0),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_only_odd_is_loaded(
    name: str, source: Source, warehouse: Warehouse, run: Run, loaded: dict[str, list[tuple[Any, ...]]]
) -> None:
    source.publish(FILE, ACCEPTED[name])
    result = run(taxi_trips_file, taxi_trips, key=KEY)
    assert result.success
    told = [check.description for check in result.get_asset_check_evaluations() if not check.passed]
    assert told == (
        [
            f"{KEY}: columns that the contract does not have: observed 1 columns, expected 0 columns. The file has"
            " tip_by_app, of which nothing is loaded."
        ]
        if name == "extra column"
        else []
    )
    with warehouse.read() as connection:
        counted = connection.execute(
            f"SELECT count(*), sum(total_amount) FROM {TRIPS.table} WHERE file_month = DATE '2023-02-01'"
        ).fetchone()
    assert counted == (ROWS, pytest.approx(ROWS * (21.0 if "amounts" in name else 18.5)))


def test_what_differs_much_from_the_months_before_is_told_and_loaded(source: Source, run: Run) -> None:
    files = [TripFile.of_partition(f"2022-{number:02}-01|green") for number in (10, 11, 12)]
    for file in files:
        source.publish(file, month(file))
    assert run(taxi_trips_file, taxi_trips, key=files[0].partition_key, last_key=files[-1].partition_key).success
    often = [month(FILE, fare_amount=99.0 + number / 100, passenger_count=None) for number in range(10)]
    source.publish(FILE, pa.concat_tables(often))
    result = run(taxi_trips_file, taxi_trips, key=KEY)
    assert result.success
    (check,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert check.check_name == "consistency"
    assert check.severity == AssetCheckSeverity.WARN
    assert check.description is not None
    assert "trips: observed 280 rows, expected between 15.5 and 46.5 rows: 31 is the median of 3" in check.description
    assert "median fare: observed 99.0" in check.description
    assert "trips without passenger_count: observed 100 percent, expected between -5 and 5" in check.description


def test_a_month_that_lost_half_of_its_rows_is_told_though_nothing_came_before(
    source: Source, run: Run, loaded: dict[str, list[tuple[Any, ...]]]
) -> None:
    often = [month(FILE, fare_amount=15.0 + number) for number in range(10)]
    source.publish(FILE, pa.concat_tables(often))
    for rows, before, passed in ((10, "22.4 and 33.6 rows: 28", False), (5, "224 and 336 rows: 280", False)):
        source.publish(FILE, pa.concat_tables(often[:rows]))
        result = run(taxi_trips_file, taxi_trips, key=KEY)
        assert result.success
        (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "consistency"]
        assert check.passed is passed
        assert check.description == (
            f"{KEY}: trips, against what is replaced: observed {ROWS * rows} rows, expected between {before} were there"
            " before"
        )
    result = run(taxi_trips_file, taxi_trips, key=KEY)
    assert all(check.passed for check in result.get_asset_check_evaluations())


# -- the zones --------------------------------------------------------------------------------------

LOOKUP, SHAPES = "/misc/taxi_zone_lookup.csv", "/misc/taxi_zones.csv"
ZONE_ASSETS = (taxi_zones_file, taxi_zone_lookup_file, taxi_zones)
NAMES = (sample.SAMPLE_DATA / Path(LOOKUP).name).read_bytes()


@pytest.mark.parametrize(
    ("content_of_lookup", "says"),
    [
        (NAMES.replace(b"Newark", b"N\xe9wark"), "not a CSV file: 'utf-8' codec can't decode"),
        (
            NAMES.replace(b"\r\n", b"\n").replace(b"\n1,", b"\nshifted,1,", 1),
            "the zones' files cannot be read as tables: ",
        ),
        (PAGE, "column LocationID, Borough, Zone, service_zone is missing from its header"),
        (NAMES.splitlines(keepends=True)[0], "a CSV file without rows"),
    ],
    ids=["not UTF-8", "shifted columns", "HTML page", "no rows"],
)
def test_names_of_zones_that_are_none_leave_the_table_as_it_was(
    source: Source, warehouse: Warehouse, run: Run, content_of_lookup: bytes, says: str
) -> None:
    source.serve(LOOKUP, NAMES)
    source.serve(SHAPES, (sample.SAMPLE_DATA / Path(SHAPES).name).read_bytes())
    assert run(*ZONE_ASSETS).success
    before = content(warehouse, ZONES.table)
    source.serve(LOOKUP, content_of_lookup)
    assert says.lower() in failure(run(*ZONE_ASSETS)).lower()
    assert content(warehouse, ZONES.table) == before
    source.serve(LOOKUP, NAMES)
    assert run(*ZONE_ASSETS).success
    assert content(warehouse, ZONES.table) == before


# -- the machine ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("making a file system of a size takes root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def noise(file: TripFile) -> pa.Table:
    """A month of some megabytes, whatever the compression."""
    repeated = pa.concat_tables([month(file)] * 10_000)
    values = np.random.default_rng(7).uniform(0, 100, repeated.num_rows)
    return repeated.set_column(repeated.column_names.index("total_amount"), "total_amount", pa.array(values))


def test_a_full_disk_while_downloading_leaves_no_half_file(
    source: Source, small_disk: Path, warehouse: Warehouse, run: Run, landing: LandingStore
) -> None:
    source.publish(FILE, noise(FILE))
    Path(landing.folder).symlink_to(small_disk)
    text = failure(run(taxi_trips_file, key=KEY))
    assert "No space left on device" in text
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_writing_leaves_the_month_as_it_was(
    source: Source,
    small_disk: Path,
    tmp_path: Path,
    warehouse: Warehouse,
    run: Run,
    loaded: dict[str, list[tuple[Any, ...]]],
) -> None:
    lakes = tmp_path / "lakes"
    shutil.copytree(lakes, small_disk, dirs_exist_ok=True)
    shutil.rmtree(lakes)
    lakes.symlink_to(small_disk)
    source.publish(FILE, noise(FILE))
    assert "No space left on device" in failure(run(taxi_trips_file, taxi_trips, key=KEY))
    assert content(warehouse, *TABLES) == loaded
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    source.publish(FILE, GOOD)
    assert run(taxi_trips_file, taxi_trips, key=KEY).success


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
def test_the_machines_time_zone_changes_nothing(
    zone: str, warehouse: Warehouse, run: Run, loaded: dict[str, list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert run(taxi_trips_file, taxi_trips, key=OTHER.partition_key, last_key=KEY).success
        again = content(warehouse, *TABLES)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert again[TRIPS.table] == loaded[TRIPS.table]
    hour = timedelta(hours=1)
    assert all(abs(row[2] - datetime.now(UTC).replace(tzinfo=None)) < hour for row in again[LOADS.table])


def test_what_was_found_can_be_asked_for(
    warehouse: Warehouse, loaded: dict[str, list[tuple[Any, ...]]], source: Source, run: Run
) -> None:
    source.publish(FILE, month(FILE, payment_type=9))
    assert run(taxi_trips_file, taxi_trips, key=KEY).success
    with warehouse.read() as connection:
        row = connection.execute(
            f"""SELECT check_name, blocking, observed, unit, expected, examples FROM {RESULTS}
            WHERE partition = $key AND NOT passed""",
            {"key": KEY},
        ).fetchone()
    assert row is not None
    assert row[:5] == ("accuracy", False, 100.0, "percent", "at most 1 percent")
    assert json.loads(row[5])[0]["payment_type"] == 9
