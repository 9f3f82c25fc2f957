"""`./codeloc sql` and its notebook counterpart on a platform: every lake, read-only, from a role that can only read."""

import csv
import json
import stat
import subprocess
from pathlib import Path

from conftest import CODELOC, ROOT, Platform, environment

ANALYTICS_PYTHON = str(ROOT / "locations" / "analytics" / ".venv" / "bin" / "python")


def sql(platform: Platform, *arguments: str, piped: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CODELOC, "sql", *arguments, "--home", str(platform.home)],
        input=piped,
        capture_output=True,
        text=True,
        timeout=300,  # the first one makes the environment
        check=False,
        env=environment(),
    )


def test_tables_of_all_lakes_are_there(sample: Platform) -> None:
    trips = "SELECT count(*) FROM ingestion.raw.taxi_trips"
    query = f"SELECT ({trips}) AS loaded, (SELECT sum(trips)::BIGINT FROM analytics.marts.trips_by_week) AS counted"
    done = sql(sample, query, "--format", "json")
    assert done.returncode == 0, done.stderr
    ((expected,),) = sample.warehouse(trips)
    assert json.loads(done.stdout) == [{"loaded": expected, "counted": expected}]


def test_a_query_that_is_piped_in_is_printed_as_a_table(sample: Platform) -> None:
    done = sql(sample, piped="SELECT DISTINCT service FROM analytics.marts.trips_by_week ORDER BY 1;\n")
    assert done.returncode == 0, done.stderr
    assert [line.strip("│ ") for line in done.stdout.splitlines()][4:6] == ["green", "yellow"]
    assert done.stdout.endswith("2 rows\n")


def test_csv_and_parquet_files_hold_every_row(sample: Platform, tmp_path: Path) -> None:
    query = "SELECT * FROM ingestion.raw.taxi_zones ORDER BY zone_id"
    for name in ("zones.csv", "zones.parquet"):
        done = sql(sample, query, "-o", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"265 rows in {tmp_path / name}\n"
    with (tmp_path / "zones.csv").open(encoding="utf-8", newline="") as file:
        csv.field_size_limit(10_000_000)  # the shapes
        rows = list(csv.DictReader(file))
    assert [int(row["zone_id"]) for row in rows] == list(range(1, 266))
    back = sql(sample, f"SELECT count(*) AS n FROM '{tmp_path}/zones.parquet'", "--format", "csv")
    assert back.stdout == "n\n265\n"


def test_the_list_of_tables_is_complete_at_the_first_look(sample: Platform) -> None:
    expected = sample.postgres(
        "SELECT 'ingestion', table_name FROM lake_ingestion.ducklake_table WHERE end_snapshot IS NULL UNION ALL"
        " SELECT 'analytics', table_name FROM lake_analytics.ducklake_table WHERE end_snapshot IS NULL",
        "reader",
    )
    for _ in range(3):
        done = sql(sample, "SHOW ALL TABLES")
        cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines()]
        assert {(row[1], row[3]) for row in cells if len(row) > 3} >= set(expected)
        assert done.stdout.endswith(f"\n{len(expected)} rows\n")


def test_nothing_can_be_written(sample: Platform) -> None:
    for statement in (
        "CREATE TABLE ingestion.raw.mine AS SELECT 1 AS n",
        "CREATE TABLE analytics.marts.mine AS SELECT 1 AS n",
        "DELETE FROM ingestion.raw.taxi_trips",
        "INSERT INTO analytics.marts.trips_by_week (service) VALUES ('mine')",
    ):
        refused = sql(sample, statement)
        assert refused.returncode == 1
        assert "read-only" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_postgres_refuses_it_too_when_a_lake_is_attached_for_writing(sample: Platform) -> None:
    reader = json.loads((sample.home / "reader.json").read_text())
    catalog = reader["catalog"].replace("'", "''")
    attach = f"ATTACH 'ducklake:postgres:{catalog}' AS mine (METADATA_SCHEMA 'lake_analytics')"
    for statement in ("CREATE TABLE mine.marts.mine (n INTEGER)", "DELETE FROM mine.marts.trips_by_week"):
        refused = sql(sample, f"{attach}; {statement}")
        assert refused.returncode == 1
        assert "permission denied" in refused.stderr


def test_the_password_is_in_a_file_of_the_owners_alone_and_is_not_shown(sample: Platform) -> None:
    for name in ("reader.json", "reader.pgpass"):
        assert stat.S_IMODE((sample.home / name).stat().st_mode) == 0o600
    assert sample.secret("reader") not in (sample.home / "reader.json").read_text()
    shown = sql(sample, "FROM duckdb_databases()", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert "user=reader" in shown.stdout
    assert sample.secret("reader") not in shown.stdout


def test_a_notebook_in_analytics_environment_reads_the_same(sample: Platform) -> None:
    code = (
        "import sys; from taxi_shared.explore import connect; warehouse = connect(sys.argv[1]);"
        "print(warehouse.sql('SELECT * FROM analytics.marts.trips_by_week').df()['trips'].sum())"
    )
    done = subprocess.run(
        [ANALYTICS_PYTHON, "-c", code, str(sample.home)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    ((expected,),) = sample.warehouse("SELECT sum(trips)::BIGINT FROM marts.trips_by_week")
    assert float(done.stdout) == expected


def test_a_folder_in_which_no_platform_was_started_is_named(tmp_path: Path) -> None:
    refused = sql(Platform(tmp_path, 0), "SELECT 1")
    assert refused.returncode == 1
    assert f"there is no {tmp_path}/reader.json" in refused.stderr
    assert "./codeloc up" in refused.stderr


def test_a_platform_that_is_down_is_told_with_what_to_do(sample: Platform, tmp_path: Path) -> None:
    reader = json.loads((sample.home / "reader.json").read_text())
    # Port 9 is the discard service's; nothing listens there.
    reader["catalog"] = " ".join("port=9" if part.startswith("port=") else part for part in reader["catalog"].split())
    (tmp_path / "reader.json").write_text(json.dumps(reader))
    refused = sql(Platform(tmp_path, 0), "SELECT 1")
    assert refused.returncode == 1
    assert f"the platform in {tmp_path} does not answer. Is it down? ./codeloc up" in refused.stderr
    assert "Traceback" not in refused.stderr
