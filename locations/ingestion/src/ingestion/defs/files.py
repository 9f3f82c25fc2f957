"""The source's files as assets of the landing store: fetched over HTTP, checked, never half-written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
from dagster import (
    AssetExecutionContext,
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

from ingestion.defs.common import OWNERS, faults_of_the_source
from ingestion.defs.resources import TlcServer
from ingestion.landing import LandingStore
from ingestion.source import (
    Download,
    FileNotPublishedError,
    TripFile,
    csv_rows,
    open_client,
    parquet_rows,
)

AS_PUBLISHED = {NO_CONTRACT: "A file as its source publishes it; what is promised is the table made of it"}

# The first months TLC has in the schema with zones.
FIRST_MONTHS = {"yellow": "2011-01", "green": "2013-08"}


@asset(
    key_prefix="landing",
    group_name="landing",
    owners=OWNERS,
    kinds={"parquet"},
    metadata=AS_PUBLISHED,
    partitions_def=FILE_MONTHS,
    backfill_policy=BackfillPolicy.single_run(),
    pool="tlc_server",
)
def taxi_trips_file(context: AssetExecutionContext, tlc: TlcServer, landing: LandingStore) -> None:
    """TLC's trip records of one service and month, as published.

    A file whose ETag has not changed is not downloaded again.
    """
    with open_client() as client:
        for key in context.partition_keys:
            file = TripFile.of_partition(key)
            with faults_of_the_source(context.retry_number):
                try:
                    download, fetched = landing.update(client, tlc.trips(file), file.name, parquet_rows)
                except FileNotPublishedError as error:
                    raise FileNotPublishedError(
                        f"{error}. TLC publishes about two months after a month ended; {file.service} files"
                        f" begin with {FIRST_MONTHS[file.service]}."
                    ) from None
            context.log.info("%s: %s, %s rows", file.name, "downloaded" if fetched else "unchanged", download.rows)
            path = landing.path(file.name)
            shown = _content("FROM read_parquet($path, hive_partitioning = false)", path)
            context.add_asset_metadata(_metadata(download, fetched, path) | shown, partition_key=key)


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
