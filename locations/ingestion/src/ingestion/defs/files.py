"""The source's files as assets of the landing store: fetched over HTTP, checked, never half-written."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    BackfillPolicy,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableSchema,
    asset,
)
from taxi_shared.conventions import NO_CONTRACT
from taxi_shared.partitions import FILE_MONTHS
from taxi_shared.previews import PREVIEW_ROWS, preview
from taxi_shared.quality import without_materialization
from taxi_shared.release import release_metadata

from ingestion.defs.common import OWNERS, faults_of_the_source, mending, refused_months
from ingestion.defs.resources import TlcServer
from ingestion.landing import LandingStore
from ingestion.source import (
    Download,
    FileNotPublishedError,
    SourceError,
    SourceUnavailableError,
    TripFile,
    csv_rows,
    open_client,
    parquet_rows,
)

AS_PUBLISHED = {NO_CONTRACT: "A file as its source publishes it; what is promised is the table made of it"}

WHOLE_FILE = "whole_file"

# The first months TLC has in the schema with zones.
FIRST_MONTHS = {"yellow": "2011-01", "green": "2013-08"}


@asset(
    key_prefix="landing",
    group_name="landing",
    owners=OWNERS,
    kinds={"parquet"},
    metadata=AS_PUBLISHED,
    check_specs=[
        AssetCheckSpec(
            WHOLE_FILE,
            asset=["landing", "taxi_trips_file"],
            description="The source has the file, and what it sends is all of a Parquet file.",
            blocking=True,
        )
    ],
    partitions_def=FILE_MONTHS,
    backfill_policy=BackfillPolicy.single_run(),
    pool="tlc_server",
)
def taxi_trips_file(
    context: AssetExecutionContext, tlc: TlcServer, landing: LandingStore
) -> Iterator[MaterializeResult[None] | AssetMaterialization | AssetCheckResult | AssetCheckEvaluation]:
    """TLC's trip records of one service and month, as published.

    A file whose ETag has not changed is not downloaded again. Where one of several cannot be had, the others are.
    """
    done: dict[str, dict[str, Any]] = {}
    refusals: dict[str, str] = {}
    with open_client() as client, faults_of_the_source(context.retry_number):
        for key in context.partition_keys:
            file = TripFile.of_partition(key)
            try:
                download, fetched = landing.update(client, tlc.trips(file), file.name, parquet_rows)
            except SourceUnavailableError:
                raise
            except SourceError as error:
                refusals[key] = _why(error, file)
                context.log.error("%s: %s", key, refusals[key])
                continue
            context.log.info("%s: %s, %s rows", file.name, "downloaded" if fetched else "unchanged", download.rows)
            path = landing.path(file.name)
            shown = _content("FROM read_parquet($path, hive_partitioning = false)", path)
            done[key] = _metadata(download, fetched, path) | shown
            context.add_asset_metadata(done[key], partition_key=key)
    own = {TripFile.of_partition(key).name for key in context.partition_keys}
    elsewhere = {name: why for name, why in landing.refused().items() if name not in own and name.endswith(".parquet")}
    checked = _check(context.asset_key, refusals, elsewhere)
    if refusals:
        for key, metadata in done.items():
            yield AssetMaterialization(context.asset_key, partition=key, metadata=release_metadata() | metadata)
        yield from without_materialization([checked])
        what_then = f"What was there of it before stays as it was. {mending(refusals)}"
        if done:
            what_then += f" The files of {', '.join(done)} are there, and raw/taxi_trips can be made of them."
        raise refused_months(refusals, len(done), what_then)
    yield MaterializeResult(asset_key=context.asset_key)
    yield checked


def _why(error: SourceError, file: TripFile) -> str:
    text = str(error)
    if isinstance(error, FileNotPublishedError):
        text += ". TLC publishes about two months after a month ended;"
        text += f" {file.service} files begin with {FIRST_MONTHS[file.service]}"
    return f"{text.removesuffix('.')}."


def _check(asset: AssetKey, refusals: Mapping[str, str], elsewhere: Mapping[str, str]) -> AssetCheckResult:
    """Of the run's files by partition, and a warning of what earlier runs refused, by file."""
    texts = [f"{key}: {why}" for key, why in refusals.items()]
    texts += [f"refused before: {name}: {why}" for name, why in elsewhere.items()]
    return AssetCheckResult(
        asset_key=asset,
        check_name=WHOLE_FILE,
        passed=not texts,
        severity=AssetCheckSeverity.ERROR if refusals or not elsewhere else AssetCheckSeverity.WARN,
        description="; ".join(texts) or None,
        metadata={"what_to_do": f"What was there before is still there. {mending(refusals)}"} if refusals else None,
    )


@asset(
    key_prefix="landing",
    group_name="landing",
    owners=OWNERS,
    kinds={"csv"},
    metadata=AS_PUBLISHED,
    pool="tlc_server",
)
def taxi_zones_file(context: AssetExecutionContext, tlc: TlcServer, landing: LandingStore) -> MaterializeResult[None]:
    """Shapes of the taxi zones (NYC Open Data), as published: LocationIDs stand twice or are missing."""
    check = csv_rows("OBJECTID", "the_geom", "zone", "LocationID", "borough")
    # The shapes themselves are long.
    columns = "SELECT * REPLACE (left(the_geom, 60) AS the_geom)"
    return _update(context, landing, tlc.zones_url, "taxi_zones.csv", check, columns)


@asset(
    key_prefix="landing",
    group_name="landing",
    owners=OWNERS,
    kinds={"csv"},
    metadata=AS_PUBLISHED,
    pool="tlc_server",
)
def taxi_zone_lookup_file(
    context: AssetExecutionContext, tlc: TlcServer, landing: LandingStore
) -> MaterializeResult[None]:
    """Names and boroughs of all 265 taxi zones, as TLC publishes them."""
    check = csv_rows("LocationID", "Borough", "Zone", "service_zone")
    return _update(context, landing, tlc.zone_lookup, "taxi_zone_lookup.csv", check)


def _update(
    context: AssetExecutionContext,
    landing: LandingStore,
    url: str,
    name: str,
    count_rows: Callable[[Path], int],
    columns: str = "SELECT *",
) -> MaterializeResult[None]:
    with open_client() as client, faults_of_the_source(context.retry_number):
        download, fetched = landing.update(client, url, name, count_rows)
    path = landing.path(name)
    shown = _content(f"{columns} FROM read_csv($path, all_varchar = true, max_line_size = 10000000)", path)
    return MaterializeResult(metadata=_metadata(download, fetched, path) | shown)


def _content(query: str, file: Path) -> dict[str, Any]:
    """The file's columns and first rows."""
    with duckdb.connect() as connection:
        described = connection.execute(f"DESCRIBE {query}", {"path": str(file)}).fetchall()
        columns = [TableColumn(str(name), str(type_)) for name, type_, *_ in described]
        rows = preview(connection.execute(f"{query} LIMIT {PREVIEW_ROWS}", {"path": str(file)}))
    return {"dagster/column_schema": TableSchema(columns), "preview": rows}


def _metadata(download: Download, fetched: bool, file: Path) -> dict[str, Any]:
    return {
        "dagster/row_count": download.rows,
        "bytes": download.bytes,
        "downloaded": fetched,
        "source": MetadataValue.url(download.url),
        "etag": download.etag or "none",
        "last_modified": download.last_modified or "none",
        "sha256": download.sha256,
        "file": MetadataValue.path(file),
    }
