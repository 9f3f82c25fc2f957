"""Run by ingestion's environment: months of trips loaded as the asset does it, and as others would; what that took."""

import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import dagster
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dagster_duckdb import DuckDBResource
from ingestion import sample
from ingestion.defs.trips import taxi_trips
from ingestion.landing import LandingStore
from ingestion.source import Download, TripFile
from taxi_shared.warehouse import Warehouse

# As many rows as TLC's own files have in a row group, which is what one thread reads.
ROW_GROUP = 1_000_000
MONTH = TripFile("yellow", date(2023, 2, 1))
# Of a platform, by default.
THREADS = 2


def main(what: str, folder: Path, *numbers: str) -> None:
    """Do it, and print what is to be known of it as JSON."""
    told = WHAT[what](folder, *map(int, numbers))
    sys.stdout.write(json.dumps(told) + "\n")


def make_month(folder: Path, rows: int) -> dict[str, object]:
    """Put the file of `MONTH` into the landing store."""
    return _make(folder, rows, [MONTH])


def make_months(folder: Path, count: int, rows: int) -> dict[str, object]:
    """Put the files of the months before it into the landing store."""
    return _make(folder, rows, _months(count))


def _make(folder: Path, rows: int, files: list[TripFile]) -> dict[str, object]:
    landing = _landing(folder)
    Path(landing.folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        path = landing.path(file.name)
        _write(path, file, rows)
        # As a download leaves it. No content is that of another month.
        record = Download(f"http://127.0.0.1/{file.url_path}", None, None, file.name, path.stat().st_size, rows)
        landing.path(f"{file.name}.json").write_text(json.dumps(asdict(record)), encoding="utf-8")
    return {"files": len(files)}


def _write(path: Path, file: TripFile, rows: int) -> None:
    month = f"{file.month:%Y-%m}"
    with pq.ParquetWriter(path, sample.month_schema("yellow", month), compression="zstd") as writer:
        number = 0
        while rows:
            group = min(rows, ROW_GROUP)
            # Made once for all groups of one size.
            if sample.ROWS["yellow"].get(month) != group:
                sample.ROWS["yellow"][month] = group
                table = sample.month_table("yellow", month)
            writer.write_table(_later(table, number), row_group_size=group)
            rows -= group
            number += 1


def _later(table: pa.Table, seconds: int) -> pa.Table:
    """The same trips some seconds later: a month is refused whose trips are there twice."""
    shift = pa.scalar(timedelta(seconds=seconds), pa.duration("us"))
    for number, name in enumerate(table.column_names):
        if name.endswith("_datetime"):
            table = table.set_column(number, name, pc.add(table[name], shift))
    return table


def asset(folder: Path) -> dict[str, object]:
    """The month replaced by the asset: casts, quarantine, rules, checks and what the UI shows of it."""
    # A run has an instance from its process' start; making one is no part of it.
    with dagster.DagsterInstance.ephemeral() as instance:
        _materialize(folder, MONTH, instance)
        return {"cpu": _cpu(lambda: _materialize(folder, MONTH, instance))}


def peak(folder: Path) -> dict[str, object]:
    """The month replaced once, the most memory that this process ever had."""
    with dagster.DagsterInstance.ephemeral() as instance:
        _materialize(folder, MONTH, instance)
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def months(folder: Path, count: int) -> dict[str, object]:
    """One month after another, each a materialization of its own."""
    with dagster.DagsterInstance.ephemeral() as instance:
        return {"cpu": [_cpu(partial(_materialize, folder, file, instance)) for file in _months(count)]}


def copy(folder: Path) -> dict[str, object]:
    """The month's file written again by DuckDB and nothing else: the limit."""
    source, target = _landing(folder).path(MONTH.name), folder / "copy.parquet"

    def write() -> None:
        with duckdb.connect(config={"threads": THREADS}) as connection:
            connection.execute(
                f"COPY (SELECT * FROM read_parquet('{source}')) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
            )

    write()
    return {"cpu": _cpu(write)}


def course(folder: Path) -> dict[str, object]:
    """The month replaced as the course "Dagster Essentials" does it, but with all of the file's columns."""
    source, key = _landing(folder).path(MONTH.name), f"{MONTH.month:%Y-%m-%d}"

    @dagster.asset(name="trips")
    def trips(database: DuckDBResource) -> None:
        with database.get_connection() as connection:
            connection.execute(
                f"""CREATE TABLE IF NOT EXISTS trips AS
                SELECT *, '{key}' AS partition_date FROM read_parquet('{source}') LIMIT 0;
                DELETE FROM trips WHERE partition_date = '{key}';
                INSERT INTO trips SELECT *, '{key}' AS partition_date FROM read_parquet('{source}')"""
            )

    database = DuckDBResource(database=str(folder / "course.duckdb"), connection_config={"threads": THREADS})

    with dagster.DagsterInstance.ephemeral() as instance:

        def materialize() -> None:
            dagster.materialize([trips], instance=instance, resources={"database": database})

        materialize()
        return {"cpu": _cpu(materialize)}


def _months(count: int) -> list[TripFile]:
    """So many before `MONTH`, the oldest first."""
    return list(MONTH.before(count))[::-1]


def _landing(folder: Path) -> LandingStore:
    return LandingStore(folder=str(folder / "landing"))


def _materialize(folder: Path, file: TripFile, instance: dagster.DagsterInstance) -> None:
    warehouse = Warehouse(
        lake="ingestion",
        catalog=os.environ["WAREHOUSE_CATALOG"],
        # Of all folders one: they share the catalog, too.
        data_root=str(folder.parent / "lakes"),
        threads=THREADS,
        temp_directory=str(folder),
    )
    dagster.materialize(
        [taxi_trips],
        partition_key=file.partition_key,
        instance=instance,
        resources={"landing": _landing(folder), "warehouse": warehouse},
    )


def _cpu(work: Callable[[], None]) -> float:
    """Seconds of CPU that it takes, of this process and those that it starts."""
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


WHAT: dict[str, Callable[..., dict[str, object]]] = {
    "make_month": make_month,
    "make_months": make_months,
    "asset": asset,
    "peak": peak,
    "months": months,
    "copy": copy,
    "course": course,
}

if __name__ == "__main__":
    main(*sys.argv[1:2], Path(sys.argv[2]), *sys.argv[3:])
