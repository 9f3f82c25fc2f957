"""Bad days on a platform that runs: a bad file, and writers that die; nothing is lost, and nothing wrong is seen."""

import json
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from counting import rows_of

from conftest import ROOT, Alerts, Platform, environment, wait_for

KEY = "2023-03-01|yellow"
TABLES = ("ingestion.raw.taxi_trips", "ingestion.raw.taxi_trips_quarantine", "marts.trips_by_week")

# Loads a month again and again, each time in a process of its own, which is killed at some moment; tells how it went.
KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
from ingestion.defs.trips import RESULTS, TABLES, make_ready, put
from ingestion.source import TripFile
from taxi_shared.warehouse import Warehouse
import psycopg2

asked = json.loads(sys.stdin.readline())
file = TripFile.of_partition(asked["key"])
warehouse = Warehouse(lake="ingestion", catalog=asked["catalog"], data_root=asked["data_root"])

def load():
    with warehouse.draft() as draft:
        ready = make_ready(draft, file, Path(asked["file"]))
        with warehouse.write(*TABLES, appends=[RESULTS]) as connection:
            put(connection, draft, file, ready)

def state():
    with warehouse.read() as connection:
        counted = [
            connection.execute(f"SELECT count(*), sum(hash(t)::HUGEINT)::VARCHAR FROM {table} AS t").fetchone()
            for table in ("raw.taxi_trips", "raw.taxi_trips_quarantine")
        ]
    return json.dumps(counted)

began = time.monotonic()
load()
takes = time.monotonic() - began
before, killed, wrong = state(), 0, []
for number in range(asked["times"]):
    child = os.fork()
    if child == 0:
        load()
        os._exit(0)
    time.sleep(random.Random(number).uniform(0.2, 1.1) * takes)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed += os.WIFSIGNALED(status)
    if state() != before:
        wrong.append(number)
print(json.dumps({"killed": killed, "wrong": wrong, "takes": takes}))
"""


@pytest.fixture
def quiet(sample: Platform) -> list[list[list[Any]]]:
    """What the tables hold when nothing is under way."""
    sample.settled()
    return state(sample)


def state(platform: Platform) -> list[list[list[Any]]]:
    return [platform.fingerprint(table) for table in TABLES]


def check(platform: Platform, key: str, name: str) -> dict[str, Any]:
    """How an asset's check went the last time."""
    nodes = platform.graphql(
        """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { assetChecksOrError {
            ... on AssetChecks { checks { name executionForLatestMaterialization { status evaluation {
                severity description } } } } } } } }""",
        key={"path": key.split("/")},
    )["assetNodeOrError"]["assetChecksOrError"]["checks"]
    (found,) = [node["executionForLatestMaterialization"] for node in nodes if node["name"] == name]
    latest: dict[str, Any] = found
    return latest


def test_half_a_month_is_refused_told_and_healed(
    sample: Platform, alerts: Alerts, quiet: list[list[list[Any]]], tmp_path: Path
) -> None:
    source = sample.home / "served" / "sample" / "trip-data" / "yellow_tripdata_2023-03.parquet"
    good = source.read_bytes()
    half = tmp_path / source.name
    with duckdb.connect() as connection:
        first_days = f"SELECT * EXCLUDE (pickup, dropoff) FROM {rows_of(source)} WHERE pickup < DATE '2023-03-15'"
        connection.execute(f"COPY ({first_days}) TO '{half}'", {"file": str(source)})
    days = [f"yellow|{date(2023, 2, 27) + timedelta(weeks=number)}" for number in range(5)]
    before = sample.materialized_at("marts/trips_by_week", days)
    try:
        source.write_bytes(half.read_bytes())
        assert sample.finished(sample.launch_month(KEY)) == "FAILURE"
        # The UI shows a red check that says what is wrong.
        red = check(sample, "raw/taxi_trips", "completeness")
        assert red["status"] == "FAILED"
        assert red["evaluation"]["severity"] == "ERROR"
        said = f"{KEY}: days of the month without a trip: observed 17 days, expected at most 7 days"
        assert red["evaluation"]["description"] == said
        # The owner is told.
        title = f"[ingestion] raw/taxi_trips failed for {KEY}"
        told = wait_for(lambda: [alert for alert in alerts.told if alert["title"] == title], "the alert")
        assert f"Check raw/taxi_trips.completeness: {said}" in told[0]["message"]
        assert f"{sample.url}/runs/" in told[0]["message"]
        # Nothing is made of it, asked for or not.
        run = sample.launch("weekly_update_job", location="analytics", service="yellow", week="2023-03-13")
        assert sample.finished(run) == "FAILURE"
        sample.settled()
        assert sample.materialized_at("marts/trips_by_week", days) == before
        assert state(sample) == quiet
    finally:
        source.write_bytes(good)
    assert sample.finished(sample.launch_month(KEY)) == "SUCCESS"
    assert check(sample, "raw/taxi_trips", "completeness")["status"] == "SUCCEEDED"
    wait_for(
        lambda: all(now > before[week] for week, now in sample.materialized_at("marts/trips_by_week", days).items()),
        "the marts to follow",
        300,
    )
    sample.settled()
    assert state(sample) == quiet


def loading(platform: Platform, times: int) -> "subprocess.Popen[str]":
    """A process that loads a month of the sample again and again, as ingestion's assets do, and is killed each time."""
    started = subprocess.Popen(
        [str(ROOT / "locations" / "ingestion" / ".venv" / "bin" / "python"), "-c", KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert started.stdin is not None
    asked = {
        "catalog": platform.connection_string("ingestion"),
        "data_root": str(platform.home / "lakes"),
        "file": str(platform.home / "files" / "ingestion" / "yellow_tripdata_2023-03.parquet"),
        "key": KEY,
        "times": times,
    }
    started.stdin.write(json.dumps(asked) + "\n")
    started.stdin.flush()
    return started


def test_fifty_writers_killed_at_any_moment_lose_nothing(sample: Platform, quiet: list[list[list[Any]]]) -> None:
    done = loading(sample, 50)
    out, errors = done.communicate(timeout=500)
    assert done.returncode == 0, errors
    told = json.loads(out)
    print(f"{told['killed']} of 50 writers were killed before they had ended; a load takes {told['takes']:.1f} s")  # noqa: T201
    assert told["killed"] >= 25
    assert told["wrong"] == []
    assert state(sample) == quiet


def test_a_writer_that_loses_postgres_changes_nothing(sample: Platform, quiet: list[list[list[Any]]]) -> None:
    writer = loading(sample, 0)

    def cut() -> bool:
        ended = sample.postgres(
            """SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_stat_activity USING (pid)
            WHERE l.locktype = 'advisory' AND l.granted AND usename = 'ingestion'"""
        )
        return bool(ended)

    wait_for(cut, "the writer to hold its locks")
    _, errors = writer.communicate(timeout=120)
    assert writer.returncode != 0
    assert "was ended: nothing was changed. Run this again." in errors
    assert state(sample) == quiet
