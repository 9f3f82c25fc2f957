"""TLC's trips in the warehouse: each month in one schema, odd rows kept apart, and which file each month came from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetSpec,
    BackfillPolicy,
    MaterializeResult,
    MetadataValue,
    TableColumnDep,
    TableColumnLineage,
    TableRecord,
    TableSchema,
    multi_asset,
)
from dagster._core.errors import DagsterExecutionInterruptedError
from taxi_shared.charts import picture
from taxi_shared.contracts import Column, TableContract, contract
from taxi_shared.lineage import lineage_metadata
from taxi_shared.partitions import EARLY_REPORTING, FILE_MONTHS, LATE_REPORTING
from taxi_shared.previews import PREVIEW_ROWS, preview, records
from taxi_shared.quality import (
    EXAMPLES,
    Finding,
    RefusedError,
    check_results,
    check_specs,
    compared,
    earlier_figures,
    keep,
    measure,
    refused,
    require,
    results_contract,
    without_materialization,
)
from taxi_shared.release import release_metadata
from taxi_shared.warehouse import Draft, Files, Warehouse

from ingestion import charts
from ingestion.canonical import UnsupportedSchemaError, finite, projection, source_of, unknown_columns
from ingestion.defs.common import OWNERS, mending, refused_months
from ingestion.defs.files import taxi_trips_file
from ingestion.landing import LandingStore
from ingestion.source import Download, TripFile

TRIPS = contract("raw.taxi_trips")
QUARANTINE = contract("raw.taxi_trips_quarantine")
LOADS = contract("raw.taxi_trips_loads")
TABLES = (TRIPS, QUARANTINE, LOADS)
RESULTS = results_contract()

# What DuckDB says of a file that is whole and has values which it cannot read, or not keep.
BAD_CONTENT = (duckdb.DataError, duckdb.InvalidInputException)

# Months before one whose figures say what is usual.
EARLIER_MONTHS = 24

# Checks of the trips that are not about the rows in the table: what the contract says of those is checked beside them.
SCHEMA, ROW_ACCOUNTING, SOURCE_FILE = "schema", "row_accounting", "source_file"
UNACCOUNTED = "rows lost between the file and the tables, or doubled"
# Of a file's rows, in percent. TLC's months have 0.1 to 2.
MOST_QUARANTINED = 20
# How far a month may be from what it replaces, in percent of that.
SAME_SIZE = 20
OWN_CHECKS = {
    SCHEMA: "The file has every column that all of TLC's files since 2011 have.",
    ROW_ACCOUNTING: "Each row of the file is either a trip or in the quarantine,"
    f" and at most {MOST_QUARANTINED} percent are in the quarantine.",
    SOURCE_FILE: "The file's content can be read, and is not that of another month.",
}


def _spec(table: TableContract) -> AssetSpec:
    return AssetSpec(
        table.asset_key,
        deps=[taxi_trips_file],
        description=table.description,
        group_name="raw",
        owners=OWNERS,
        kinds={"duckdb", "ducklake"},
        metadata=table.asset_metadata,
        freshness_policy=table.freshness,
        partitions_def=FILE_MONTHS,
    )


@dataclass(frozen=True)
class LoadedMonth:
    """What became of one file's rows. `reasons` counts the quarantined ones by reason."""

    read: int
    kept: int
    quarantined: int
    reasons: dict[str, int]
    columns: list[str]

    @property
    def unknown_columns(self) -> list[str]:
        """Columns of the file that the contract does not have."""
        return unknown_columns(self.columns)


@dataclass(frozen=True)
class ReadyMonth:
    """A month's rows beside the tables, in the order of these, what was found out about them, and trips by day."""

    loaded: LoadedMonth
    files: tuple[Files, Files]
    findings: list[Finding]
    days: list[tuple[date, int]]


class RowsUnaccountedError(Exception):
    """Rows were lost or doubled between file and tables; the transaction was undone."""

    def __init__(self, message: str, difference: int) -> None:
        super().__init__(message)
        self.difference = difference


class OvertakenError(Exception):
    """The file is not the one any more that was read."""


class MonthRefusedError(Exception):
    """A month was not loaded, and trying again does not help: it stays as it was."""


@dataclass
class Quality:
    """What a run found out about its months, by table and partition, and which months any run has refused."""

    findings: dict[TableContract, dict[str, Sequence[Finding]]] = field(
        default_factory=lambda: {table: {} for table in TABLES}
    )
    still_refused: Sequence[tuple[str, str, str]] = ()
    refused: dict[str, Download] = field(default_factory=dict)

    def add(self, key: str, findings: Mapping[TableContract, Sequence[Finding]]) -> None:
        """Remember what was found of a month."""
        for table, of_table in findings.items():
            self.findings[table][key] = of_table

    @property
    def what_then(self) -> str:
        """What it means that months broke a rule, and what to do."""
        if not self.refused:
            return ""
        beside = "Nothing is made of that downstream, nor of the periods beside it that have trips of its file too."
        return f"{beside} {mending(self.refused)}"

    def checks(self) -> Iterator[AssetCheckResult]:
        """For the UI."""
        remedy = {
            **{f"file of {key}": MetadataValue.url(download.url) for key, download in self.refused.items()},
            "what_to_do": f"The rows of before are still there. {mending(self.refused)}",
        }
        for table, by_partition in self.findings.items():
            yield from check_results(table, by_partition, self.still_refused if table is TRIPS else (), remedy)


@multi_asset(
    name="taxi_trips",
    specs=[_spec(table) for table in TABLES],
    check_specs=[
        *check_specs(TRIPS, **OWN_CHECKS),
        *(spec for table in (QUARANTINE, LOADS) for spec in check_specs(table)),
    ],
    backfill_policy=BackfillPolicy.single_run(),
)
def taxi_trips(
    context: AssetExecutionContext, landing: LandingStore, warehouse: Warehouse
) -> Iterator[MaterializeResult[None] | AssetMaterialization | AssetCheckResult | AssetCheckEvaluation]:
    """One file at a time, each replaced whole or not at all: a month run again changes nothing.

    A month that breaks a blocking rule stays as it was; the others of the run are loaded all the same.
    """
    done: dict[str, dict[AssetKey, dict[str, Any]]] = {}
    refusals: dict[str, str] = {}
    quality = Quality()
    try:
        for key in context.partition_keys:
            try:
                metadata = _replace_month(context, landing, warehouse, key, quality)
            except MonthRefusedError as error:
                context.log.error("%s: %s", key, error)
                refusals[key] = str(error)
                continue
            for asset_key, entries in metadata.items():
                context.add_asset_metadata(entries, asset_key=asset_key, partition_key=key)
            done[key] = metadata
        if refusals:
            raise refused_months(refusals, len(done), quality.what_then)
    except (Exception, DagsterExecutionInterruptedError):
        # The months that were loaded are in the warehouse to stay; without an event of their own nothing downstream
        # would follow them.
        for key, metadata in done.items():
            for asset_key, entries in metadata.items():
                yield AssetMaterialization(asset_key, partition=key, metadata=release_metadata() | entries)
        yield from without_materialization(quality.checks())
        raise
    # The metadata above is each month's own; these stand for all months of the run.
    for table in TABLES:
        yield MaterializeResult(asset_key=table.asset_key)
    yield from quality.checks()


def _replace_month(
    context: AssetExecutionContext, landing: LandingStore, warehouse: Warehouse, key: str, quality: Quality
) -> dict[AssetKey, dict[str, Any]]:
    """Load one partition's file and return what the UI is to show of it, by asset.

    Raises
    ------
    MonthRefusedError
        The month stays as it was.
    """
    while True:
        try:
            return _try_month(context, landing, warehouse, key, quality)
        except OvertakenError as error:
            context.log.info("%s It is read again.", error)


def _try_month(
    context: AssetExecutionContext, landing: LandingStore, warehouse: Warehouse, key: str, quality: Quality
) -> dict[AssetKey, dict[str, Any]]:
    file = TripFile.of_partition(key)
    path = landing.path(file.name)
    download = landing.record(file.name)
    if download is None:
        raise MonthRefusedError(
            f"{path} is missing or is not the file that was downloaded: materialize"
            f" landing/taxi_trips_file for {key} first."
        )
    snapshots: list[int] = []
    findings: dict[TableContract, Sequence[Finding]] = {}
    try:
        with ExitStack() as stack:
            draft = stack.enter_context(warehouse.draft())
            ready = make_ready(draft, file, path)
            # From here on other runs that write these tables wait.
            connection = stack.enter_context(warehouse.write(*TABLES, appends=[RESULTS], on_commit=snapshots.append))
            if landing.record(file.name) != download:
                raise OvertakenError(f"{file.name} was downloaded anew while it was being loaded.")
            loaded = ready.loaded
            put(connection, draft, file, ready)
            # Before the load's record is replaced.
            told = [_size(connection, file, loaded), _unknown(loaded)]
            _record_load(connection, file, download, loaded, context.run.run_id)
            findings |= _findings(connection, file, download, ready)
            findings[TRIPS] = [*findings[TRIPS], *told]
            require([finding for of_table in findings.values() for finding in of_table])
            keep(connection, key, findings, context.run.run_id)
            quality.add(key, findings)
            quality.still_refused = refused(connection, TRIPS)
            previews = {table: _preview(connection, table, file) for table in TABLES}
    except (UnsupportedSchemaError, RowsUnaccountedError, RefusedError, *BAD_CONTENT) as error:
        why = str(error)
        if not isinstance(error, RefusedError):
            # Its rows were not measured, or nothing that was found of them is why.
            broken = _why(error)
            findings, why = {TRIPS: [broken]}, broken.detail
        with warehouse.write(*TABLES, appends=[RESULTS], message=f"notes why {key} was refused") as connection:
            keep(connection, key, findings, context.run.run_id)
            quality.still_refused = refused(connection, TRIPS)
        quality.add(key, findings)
        quality.refused[key] = download
        raise MonthRefusedError(f"{file.name}: {why} The month stays as it was.") from error
    context.log.info("%s: %s read, %s kept, %s quarantined", file.name, loaded.read, loaded.kept, loaded.quarantined)
    if loaded.unknown_columns:
        context.log.warning("%s has columns the contract does not: %s", file.name, loaded.unknown_columns)
    common = {
        "rows_read": loaded.read,
        "source": MetadataValue.url(download.url),
        "source_etag": download.etag or "none",
        "source_sha256": download.sha256,
        "unknown_columns": loaded.unknown_columns,
        "contract_version": TRIPS.version,
        "snapshot_id": snapshots[0],
    }
    lineage = lineage_metadata(_column_lineage(loaded))
    named = f"{file.service}, file of {file.month:%B %Y}"
    return {
        TRIPS.asset_key: {
            "dagster/partition_row_count": loaded.kept,
            "trips_per_day": picture(charts.trips_per_day(ready.days, file.service), f"Trips per day: {named}"),
            "preview": previews[TRIPS],
            **common,
            **lineage,
        },
        QUARANTINE.asset_key: {
            "dagster/partition_row_count": loaded.quarantined,
            "share": loaded.quarantined / loaded.read if loaded.read else 0.0,
            "reasons": _as_table(loaded.reasons),
            "rows_by_reason": picture(charts.quarantined_rows(loaded.reasons), f"Quarantined rows: {named}"),
            "preview": previews[QUARANTINE],
            **common,
            **lineage,
        },
        LOADS.asset_key: {
            "dagster/partition_row_count": 1,
            "rows_kept": loaded.kept,
            "preview": previews[LOADS],
            **common,
        },
    }


def _findings(
    connection: duckdb.DuckDBPyConnection, file: TripFile, download: Download, ready: ReadyMonth
) -> dict[TableContract, Sequence[Finding]]:
    """What is to be said of a month that was just loaded, by table."""
    month = {"service": file.service, "month": file.month}
    of_month = "service = $service AND file_month = $month"
    earlier = earlier_figures(connection, TRIPS, [before.partition_key for before in file.before(EARLIER_MONTHS)])
    twins = connection.execute(
        f"SELECT service, file_month FROM {LOADS.table} WHERE sha256 = $sha256 AND NOT ({of_month}) ORDER BY ALL",
        month | {"sha256": download.sha256},
    ).fetchall()
    own = [
        _own(SCHEMA, "columns that the file lacks", "columns", 0),
        _own(ROW_ACCOUNTING, UNACCOUNTED, "rows", 0),
        _own(
            SOURCE_FILE,
            "other months of the same content",
            "months",
            len(twins),
            f"Its content is also that of {', '.join(TripFile(*twin).name for twin in twins)}." if twins else "",
        ),
    ]
    return {
        TRIPS: [*own, *compared(TRIPS, ready.findings, earlier)],
        QUARANTINE: measure(connection, QUARANTINE, of_month, month),
        LOADS: measure(connection, LOADS, of_month, month),
    }


def _why(error: Exception) -> Finding:
    if isinstance(error, UnsupportedSchemaError):
        return _own(SCHEMA, "columns that the file lacks", "columns", max(1, len(error.missing)), str(error))
    if isinstance(error, RowsUnaccountedError):
        return _own(ROW_ACCOUNTING, UNACCOUNTED, "rows", error.difference, str(error))
    if isinstance(error, BAD_CONTENT):
        said = f"DuckDB cannot read or keep what is in it: {' '.join(str(error).split())[:300]}."
        return _own(SOURCE_FILE, "faults of its content", "faults", 1, said)
    raise error


def _quarantined(connection: duckdb.DuckDBPyConnection, loaded: LoadedMonth, quarantine: Files) -> Finding:
    """Not too many rows are odd: a column without values would else empty a month, row by row."""
    share = 100 * loaded.quarantined / loaded.read if loaded.read else 0.0
    found = Finding(
        ROW_ACCOUNTING,
        "rows in the quarantine",
        True,
        share <= MOST_QUARANTINED,
        share,
        "percent",
        f"at most {MOST_QUARANTINED} percent",
    )
    if found.passed:
        return found
    examples = records(
        connection.execute(
            f"""SELECT source_row, reason, pickup_at, dropoff_at, pickup_zone_id, dropoff_zone_id, trip_distance,
              total_amount
            FROM {quarantine.content} WHERE reason = $reason LIMIT {EXAMPLES}""",
            {"reason": next(iter(loaded.reasons))},
        )
    )
    reasons = ", ".join(f"{rows:,} with {reason}" for reason, rows in loaded.reasons.items())
    detail = f"Of {loaded.read:,} rows read {loaded.quarantined:,} are in the quarantine: {reasons}."
    keys = ("pickup_at", "dropoff_at", "pickup_zone_id", "dropoff_zone_id")
    nulls = connection.execute(
        f"SELECT {', '.join(f'count(*) - count({key})' for key in keys)} FROM {quarantine.content}"
    ).fetchone()
    without = [f"{key} in {rows:,}" for key, rows in zip(keys, nulls or (), strict=True) if rows]
    detail += f" There is no {', no '.join(without)} of them." if without else ""
    return replace(found, examples=examples, detail=detail)


def _unknown(loaded: LoadedMonth) -> Finding:
    """Nothing came that nobody knows: a column that TLC began to publish, or renamed."""
    unknown = loaded.unknown_columns
    return Finding(
        "consistency",
        "columns that the contract does not have",
        False,
        not unknown,
        len(unknown),
        "columns",
        "0 columns",
        detail=f"The file has {', '.join(unknown)}, of which nothing is loaded." if unknown else "",
    )


def _size(connection: duckdb.DuckDBPyConnection, file: TripFile, loaded: LoadedMonth) -> Finding:
    """About as many trips as the version of the month that is replaced, if there is one."""
    (before,) = connection.execute(
        f"SELECT max(rows_kept) FROM {LOADS.table} WHERE service = $service AND file_month = $month",
        {"service": file.service, "month": file.month},
    ).fetchone() or (None,)
    least, most = ((before or 0) * (100 + sign * SAME_SIZE) / 100 for sign in (-1, 1))
    return Finding(
        "consistency",
        "trips, against what is replaced",
        False,
        not before or least <= loaded.kept <= most,
        loaded.kept,
        "rows",
        f"between {least:,.10g} and {most:,.10g} rows: {before:,} were there before"
        if before
        else "anything: the month was not there before",
    )


def _own(check: str, rule: str, unit: str, observed: int, detail: str = "") -> Finding:
    return Finding(check, rule, True, observed == 0, observed, unit, f"0 {unit}", detail=detail)


def make_ready(draft: Draft, file: TripFile, path: Path) -> ReadyMonth:
    """Bring one file's rows to the schema, tell trips from quarantine, and measure the trips by their contract.

    Raises
    ------
    UnsupportedSchemaError
        The file cannot be brought to the canonical schema.
    RowsUnaccountedError
        Rows read are not rows kept plus rows quarantined.
    """
    connection = draft.connection
    for name, value in {
        "source_path": str(path),
        "service": file.service,
        "file_month": file.month,
        "late_reporting": LATE_REPORTING,
        "early_reporting": EARLY_REPORTING,
    }.items():
        connection.execute(f"SET VARIABLE {name} = $1", [value])

    # A folder named like `key=value` on the way to the file is no column of it.
    described = connection.execute(
        "DESCRIBE SELECT * FROM read_parquet(getvariable('source_path'), hive_partitioning = false)"
    ).fetchall()
    columns = [str(name) for name, *_ in described]
    connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW canonical AS
        SELECT {projection(columns)}
        FROM (
          SELECT getvariable('service') AS service, getvariable('file_month') AS file_month,
            file_row_number AS source_row, *
          FROM read_parquet(
            getvariable('source_path'), file_row_number = true, hive_partitioning = false
          )
        )"""
    )
    connection.execute(files(__package__).joinpath("classify_trips.sql").read_text(encoding="utf-8"))

    kept = ", ".join(column.name for column in _own_columns(TRIPS))
    trips = _put(draft, TRIPS, file, f"SELECT {kept} FROM classified WHERE reason IS NULL")
    odd = ", ".join(finite(column) for column in _own_columns(QUARANTINE))
    quarantine = _put(draft, QUARANTINE, file, f"SELECT {odd} FROM classified WHERE reason IS NOT NULL")
    read = _scalar(connection, "SELECT num_rows FROM parquet_file_metadata(getvariable('source_path'))")
    if read != trips.rows + quarantine.rows:
        raise RowsUnaccountedError(
            f"{read:,} rows read but {trips.rows:,} kept and {quarantine.rows:,} quarantined; nothing was changed."
            " This is a fault in ingestion/defs/classify_trips.sql.",
            abs(read - trips.rows - quarantine.rows),
        )
    reasons = connection.execute(
        f"SELECT reason, count(*) FROM {quarantine.content} GROUP BY reason ORDER BY count(*) DESC, reason"
    ).fetchall()
    days = connection.execute(
        f"SELECT pickup_at::DATE AS day, count(*) FROM {trips.content} GROUP BY day ORDER BY day"
    ).fetchall()
    findings = measure(
        connection,
        TRIPS,
        rows=trips.content,
        # All rows are of one service and month, and numbers of rows: as many as bits are set are different.
        key_figure=f"count(*) - coalesce(bit_count(bitstring_agg(source_row, 0, {max(read, 2) - 1})), 0)",
    )
    loaded = LoadedMonth(read, trips.rows, quarantine.rows, dict(reasons), columns)
    # First what says most of why the others are broken.
    findings = [_quarantined(connection, loaded, quarantine), *findings]
    return ReadyMonth(loaded, (trips, quarantine), findings, days)


def put(connection: duckdb.DuckDBPyConnection, draft: Draft, file: TripFile, ready: ReadyMonth) -> None:
    """Replace the month's rows in the trips and the quarantine, within the caller's transaction."""
    for files_of_table in ready.files:
        connection.execute(
            f"DELETE FROM {files_of_table.table.table} WHERE service = $service AND file_month = $month",
            {"service": file.service, "month": file.month},
        )
        draft.add(connection, files_of_table)


def _own_columns(table: TableContract) -> list[Column]:
    """Those that are not the same for all rows of a month."""
    return [column for column in table.columns if column.name not in table.partitioned_by]


def _put(draft: Draft, table: TableContract, file: TripFile, rows: str) -> Files:
    return draft.put(table, rows, service=file.service, file_month=file.month)


def _record_load(
    connection: duckdb.DuckDBPyConnection, file: TripFile, download: Download, loaded: LoadedMonth, run_id: str
) -> None:
    """Say which file the month was made from, in the transaction that makes it."""
    connection.execute(
        f"DELETE FROM {LOADS.table} WHERE service = $service AND file_month = $month",
        {"service": file.service, "month": file.month},
    )
    record = {
        "service": file.service,
        "file_month": file.month,
        "loaded_at": datetime.now(UTC).replace(tzinfo=None),
        "rows_read": loaded.read,
        "rows_kept": loaded.kept,
        "rows_quarantined": loaded.quarantined,
        "source_url": download.url,
        "etag": download.etag,
        "sha256": download.sha256,
        "contract_version": TRIPS.version,
        "code_version": release_metadata().get("codeloc/version"),
        "run_id": run_id,
    }
    connection.execute(
        f"INSERT INTO {LOADS.table} ({', '.join(record)}) VALUES ({', '.join(f'${name}' for name in record)})", record
    )


def _preview(connection: duckdb.DuckDBPyConnection, table: TableContract, file: TripFile) -> MetadataValue:
    return preview(
        connection.execute(
            f"FROM {table.table} WHERE service = $service AND file_month = $month LIMIT {PREVIEW_ROWS}",
            {"service": file.service, "month": file.month},
        )
    )


def _column_lineage(loaded: LoadedMonth) -> TableColumnLineage:
    return TableColumnLineage(
        {column: [TableColumnDep(taxi_trips_file.key, source)] for column, source in source_of(loaded.columns).items()}
    )


def _scalar(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    if row is None:
        raise RuntimeError(f"no answer to: {query}")
    return int(row[0])


def _as_table(reasons: dict[str, int]) -> MetadataValue:
    return MetadataValue.table(
        [TableRecord({"reason": reason, "rows": rows}) for reason, rows in reasons.items()],
        schema=TableSchema.from_name_type_dict({"reason": "string", "rows": "int"}),
    )
