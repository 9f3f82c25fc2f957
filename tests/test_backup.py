"""Backup and restore of a platform on this machine, held against what the platform itself says of that moment."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from conftest import CODELOC, LOCATIONS, ROOT, Platform, environment, free_port, start, wait_for

HOST_PYTHON = str(ROOT / "host" / ".venv" / "bin" / "python")
CUT_OFF = "2023-01-01|green"
MONTHS = [f"2023-0{month}-01|{service}" for month in (1, 2, 3) for service in ("green", "yellow")]
# As `codeloc.dumps.BACKUP_LOCK` documents it for whoever removes files of lakes.
BACKUP_LOCK = "codeloc backup"

# Owner and rights of every schema and table, and the rights that tables to come will have.
RIGHTS = """
SELECT name, pg_get_userbyid(owner), ARRAY(SELECT entry::text FROM unnest(acl) AS entry ORDER BY 1) FROM (
    SELECT nspname::text AS name, nspowner AS owner, nspacl AS acl FROM pg_namespace
    UNION ALL
    SELECT oid::regclass::text, relowner, relacl FROM pg_class WHERE relkind = 'r'
    UNION ALL
    SELECT 'in ' || defaclnamespace::regnamespace, defaclrole, defaclacl FROM pg_default_acl
) AS things WHERE name !~ '^(pg_|information_schema)' ORDER BY 1
"""


@dataclass
class Before:
    """What a platform said of itself while a backup of it was taken."""

    backup: Path
    snapshots: dict[str, int]
    tables: dict[str, dict[str, list[list[Any]]]]
    bi: dict[str, Any]
    runs: dict[str, tuple[str, int]]
    files: dict[str, str]
    months: dict[str, float]
    under_way: str


@contextlib.contextmanager
def locked(platform: Platform, name: str) -> Iterator[None]:
    """Hold one of the platform's locks in Postgres."""
    connection = psycopg2.connect(platform.connection_string("postgres"))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
            yield
    finally:
        connection.close()


def waiting(platform: Platform) -> int:
    """How many sessions wait for a lock that another one holds."""
    return len(platform.postgres("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))


def bi_tables(platform: Platform) -> dict[str, Any]:
    """Number of rows and a hash of each table for BI tools, but for when the month in question was loaded."""
    found = {}
    for (name,) in platform.postgres("SELECT tablename FROM pg_tables WHERE schemaname = 'marts'"):
        # It alone tells when a month was loaded, and the run that is cut off loads its month again.
        rows = "(to_jsonb(t) - 'loaded_at')::text" if name == "load_quality" else "t::text"
        statement = f"SELECT count(*), md5(string_agg({rows}, E'\\n' ORDER BY {rows})) FROM marts.{name} AS t"
        (found[name],) = platform.postgres(statement)
    return found


def finished_runs(platform: Platform) -> dict[str, tuple[str, int]]:
    """Status and number of events of each run that has ended."""
    rows = platform.postgres(
        "SELECT run_id, status, (SELECT count(*) FROM event_logs WHERE event_logs.run_id = runs.run_id) FROM runs"
        " WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED')",
        database="dagster",
    )
    return {run: (status, events) for run, status, events in rows}


def files_of(home: Path, runs: set[str]) -> dict[str, str]:
    """Checksums of what the locations keep and serve, and of what these runs printed."""
    found = {}
    for top in ("files", "served/reports", *(f"dagster/storage/{run}" for run in sorted(runs))):
        for file in (home / top).rglob("*"):
            if file.is_file() and not file.name.endswith(".part"):
                found[str(file.relative_to(home))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def lake_tables(platform: Platform, lake: str, snapshot: int) -> dict[str, list[list[Any]]]:
    """Number of rows and a hash of every table of a lake, as it was at a snapshot."""
    names = platform.warehouse(
        f"SELECT DISTINCT s.schema_name, t.table_name FROM __ducklake_metadata_{lake}.lake_{lake}.ducklake_table AS t"
        f" JOIN __ducklake_metadata_{lake}.lake_{lake}.ducklake_schema AS s USING (schema_id)"
        f" WHERE t.begin_snapshot <= {snapshot} AND (t.end_snapshot IS NULL OR t.end_snapshot > {snapshot})"
    )
    return {
        f"{schema}.{table}": platform.warehouse(
            "SELECT count(*), sum(hash(t)::HUGEINT) FROM"
            f" (FROM {lake}.{schema}.{table} AT (VERSION => {snapshot})) AS t"
        )
        for schema, table in names
    }


@pytest.fixture(scope="module")
def before(sample: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """A backup that was taken while one ingestion run was in the middle of its work and another one was beginning."""
    sample.settled()
    folder = tmp_path_factory.mktemp("backups")
    with locked(sample, "lake:ingestion.raw.taxi_trips"):
        under_way = sample.launch_month(CUT_OFF)
        wait_for(lambda: waiting(sample), "the run to reach its table")
        runs = finished_runs(sample)
        bi, files = bi_tables(sample), files_of(sample.home, set(runs))
        months = sample.materialized_at("raw/taxi_trips", MONTHS)
        beside = sample.launch("zone_update_job")
        made = sample.codeloc("backup", str(folder))
        assert made.returncode == 0, made.stderr
        assert sample.finished(beside) == "SUCCESS"
        assert bi_tables(sample) == bi
    assert sample.finished(under_way) == "SUCCESS"
    (backup,) = folder.glob("2*")
    manifest = json.loads((backup / "manifest.json").read_text())
    snapshots = {name: lake["snapshot"] for name, lake in manifest["lakes"].items()}
    tables = {lake: lake_tables(sample, lake, snapshot) for lake, snapshot in snapshots.items()}
    yield Before(backup, snapshots, tables, bi, runs, files, months, under_way)
    sample.settled()


@pytest.fixture(scope="module")
def restored(before: Before, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """That backup in another folder; it is not up yet."""
    platform = Platform(tmp_path_factory.mktemp("restored") / "home", free_port())
    done = platform.codeloc("restore", str(before.backup))
    assert done.returncode == 0, done.stderr
    assert "Restored and compared" in done.stdout
    yield platform
    platform.codeloc("down")
    assert platform.processes() == []


def test_files_reports_and_output_are_those_of_the_moment(restored: Platform, before: Before) -> None:
    assert restored.processes() == []
    found = files_of(restored.home, set(before.runs))
    assert found == before.files
    assert {path.split("/")[0] for path in found} == {"files", "served", "dagster"}
    assert (restored.home / "files" / "analytics" / "requests").is_dir()


def test_no_password_is_in_a_backup(sample: Platform, before: Before) -> None:
    secrets = list(json.loads((sample.home / "secrets.json").read_text()).values())
    assert secrets
    for file in before.backup.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), file
    asked = "from codeloc import postgres; print(postgres.programs())"
    programs = subprocess.run([HOST_PYTHON, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    for dump in before.backup.glob("*.dump"):
        script = subprocess.run(
            [f"{programs}/pg_restore", "-f", "-", str(dump)], capture_output=True, text=True, check=True
        ).stdout
        assert "COPY " in script
        assert not any(text in script for text in (*secrets, "SCRAM-SHA-256", "PASSWORD")), dump


def test_the_restored_platform_goes_on_where_the_backup_was_taken(
    restored: Platform, before: Before, sample: Platform
) -> None:
    started = start(restored, "--empty")
    assert f"run {before.under_way[:8]}" in started.stdout  # cut off, to be tried again
    assert restored.loaded_locations() == dict.fromkeys(LOCATIONS, True)
    assert restored.codeloc("status").returncode == 0

    newest = {
        lake: sample.warehouse(f"SELECT max(snapshot_id) FROM ducklake_snapshots('{lake}')")[0][0]
        for lake in before.snapshots
    }
    assert newest["ingestion"] > before.snapshots["ingestion"]  # the source went on: this compares two moments
    for lake, snapshot in before.snapshots.items():
        assert before.tables[lake]
        assert lake_tables(restored, lake, snapshot) == before.tables[lake]
    assert before.tables["ingestion"].keys() >= {"raw.taxi_trips", "raw.taxi_zones"}
    assert before.runs
    assert before.runs.items() <= finished_runs(restored).items()

    retry = wait_for(lambda: restored.run(before.under_way)["tags"].get("dagster/auto_retry_run_id"), "the retry")
    assert restored.finished(retry) == "SUCCESS"
    months = restored.materialized_at("raw/taxi_trips", MONTHS)
    assert {month for month in MONTHS if months[month] != before.months[month]} == {CUT_OFF}
    where = "service = 'green' AND file_month = DATE '2023-01-01'"
    assert restored.fingerprint("ingestion.raw.taxi_trips", f"NOT ({where})") == sample.fingerprint(
        "ingestion.raw.taxi_trips", f"NOT ({where})"
    )
    restored.settled()
    assert bi_tables(restored) == before.bi


def test_roles_can_do_in_the_restored_databases_what_they_could(
    restored: Platform, sample: Platform, before: Before
) -> None:
    table = next(name for name in before.bi if name.startswith("trips"))
    (counted,) = restored.postgres(f"SELECT count(*) FROM marts.{table}", role="bi")
    assert counted[0] == before.bi[table][0]
    for role, statement in (
        ("bi", f"DELETE FROM marts.{table}"),
        ("bi", "SELECT 1 FROM lake_ingestion.ducklake_table"),
        ("analytics", "DELETE FROM lake_ingestion.ducklake_table"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            restored.postgres(statement, role=role)
    assert restored.postgres(RIGHTS) == sample.postgres(RIGHTS)


def test_a_platform_that_is_down_can_be_backed_up_and_is_not_restored_over(
    restored: Platform, before: Before, tmp_path: Path
) -> None:
    up = restored.codeloc("restore", str(before.backup))
    assert up.returncode == 1
    assert "codeloc down --home" in up.stderr
    assert restored.codeloc("down").returncode == 0
    made = restored.codeloc("backup", str(tmp_path))
    assert made.returncode == 0, made.stderr
    assert len(list(tmp_path.glob("2*/manifest.json"))) == 1
    refused = restored.codeloc("restore", str(before.backup))
    assert refused.returncode == 1
    assert "empty platform only" in refused.stderr
    assert "another folder with --home" in refused.stderr
    assert restored.processes() == []


@pytest.mark.parametrize("damage", ["a dump is cut", "a byte is another", "a file is missing", "no manifest"])
def test_a_damaged_backup_is_refused_by_name_and_nothing_is_written(
    before: Before, tmp_path: Path, damage: str
) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(before.backup, backup)
    lake_file = max((backup / "home" / "lakes").rglob("*.parquet"), key=lambda file: file.stat().st_size)
    damaged = {
        "a dump is cut": backup / "dagster.dump",
        "a byte is another": lake_file,
        "a file is missing": lake_file,
        "no manifest": backup / "manifest.json",
    }[damage]
    content = bytearray(damaged.read_bytes())
    if damage == "a dump is cut":
        damaged.write_bytes(content[:-100])
    elif damage == "a byte is another":
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
    else:
        damaged.unlink()
    platform = Platform(tmp_path / "home", free_port())
    refused = platform.codeloc("restore", str(backup))
    assert refused.returncode == 1
    assert damaged.name in refused.stderr
    assert not platform.home.exists()


def test_an_interrupted_restore_is_no_platform_until_it_is_repeated(before: Before, tmp_path: Path) -> None:
    platform = Platform(tmp_path / "home", free_port())
    arguments = [CODELOC, "restore", str(before.backup), "--home", str(platform.home)]
    for kill in (signal.SIGKILL, signal.SIGINT):
        first = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True
        )
        assert first.stdout is not None
        for line in first.stdout:
            if "restoring the databases" in line:
                break
        os.kill(first.pid, kill)
        first.communicate(timeout=90)
        refused = platform.codeloc("up", "--empty")
        assert refused.returncode == 1
        assert "restore" in refused.stderr
    assert str(before.backup) in refused.stderr
    again = platform.codeloc("restore", str(before.backup))
    assert again.returncode == 0, again.stderr
    assert "beginning anew" in again.stdout
    assert files_of(platform.home, set(before.runs)) == before.files
    assert platform.processes() == []


def test_an_interrupted_backup_leaves_nothing_or_a_draft_that_the_next_one_removes(
    sample: Platform, tmp_path: Path
) -> None:
    def begin(others: int) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [CODELOC, "backup", str(tmp_path), "--home", str(sample.home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        wait_for(lambda: waiting(sample) > others, "the backup to wait for whoever removes files")
        return process

    def drafts() -> list[Path]:
        return list(tmp_path.glob(".codeloc-backup-*.part"))

    with locked(sample, BACKUP_LOCK):
        interrupted = begin(0)
        assert len(drafts()) == 1
        beside = sample.codeloc("backup", str(tmp_path))
        assert beside.returncode == 1
        assert "another backup is being made" in beside.stderr
        interrupted.send_signal(signal.SIGINT)
        interrupted.communicate(timeout=60)
        assert interrupted.returncode == 130
        assert drafts() == []
        # A server notices that somebody left only once it has an answer for him.
        killed = begin(waiting(sample))
        killed.kill()
        killed.communicate(timeout=60)
        assert len(drafts()) == 1
    made = sample.codeloc("backup", str(tmp_path))
    assert made.returncode == 0, made.stderr
    assert "which an interrupted backup left" in made.stdout
    assert drafts() == []
    assert len(list(tmp_path.glob("2*"))) == 1
