"""The marts once more as ordinary Postgres tables, for BI tools; each follows its mart, period by period."""

from dataclasses import dataclass

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    BackfillPolicy,
    MetadataValue,
    MultiPartitionsDefinition,
    TableRecord,
    asset,
)
from taxi_shared.contracts import TableContract, contract
from taxi_shared.partitions import FILE_MONTHS, SERVICE_WEEKS
from taxi_shared.warehouse import Warehouse

from analytics.defs.automation import FOLLOW_TRIPS
from analytics.publishing import BiDatabase, Period, publish


@dataclass(frozen=True)
class Mart:
    """A mart that is published: its table, its asset's partitions, and the column its rows' periods are told by."""

    table: TableContract
    partitions: MultiPartitionsDefinition
    time_column: str


MARTS = (
    Mart(contract("marts.trips_by_week"), SERVICE_WEEKS, "week"),
    Mart(contract("marts.zone_hourly_demand"), FILE_MONTHS, "pickup_hour"),
    Mart(contract("marts.fare_economics"), FILE_MONTHS, "month"),
    Mart(contract("marts.fares_by_distance"), FILE_MONTHS, "month"),
    Mart(contract("marts.airport_trips"), FILE_MONTHS, "day"),
    Mart(contract("marts.load_quality"), FILE_MONTHS, "file_month"),
)


def _published(mart: Mart) -> AssetsDefinition:
    """The asset that publishes the mart."""
    table = mart.table

    @asset(
        key=["bi", table.asset_key.path[-1]],
        description=f"{table.description}: as a Postgres table for BI tools. `./codeloc bi` tells how to connect.",
        deps=[table.asset_key],
        metadata={
            "dagster/column_schema": table.dagster_schema,
            "dagster/table_name": f"warehouse.{table.table}",
            "contract": f"{table.table} {table.version}",
        },
        group_name="bi",
        owners=[f"team:{table.owner}"],
        kinds={"postgres"},
        partitions_def=mart.partitions,
        backfill_policy=BackfillPolicy.single_run(),
        automation_condition=FOLLOW_TRIPS,
    )
    def publish_mart(context: AssetExecutionContext, warehouse: Warehouse, bi_database: BiDatabase) -> None:
        periods = {key: _period(mart.partitions, key) for key in context.partition_keys}
        done = publish(warehouse, bi_database, table, mart.time_column, list(periods.values()))
        if done.made_anew:
            context.log.info("%s was made anew with all %s rows of the mart", table.table, done.all_rows)
        records = [TableRecord({name: _plain(value) for name, value in row.items()}) for row in done.newest]
        preview = MetadataValue.table(records, schema=table.dagster_schema)
        for key, period in periods.items():
            context.log.info("%s: %s rows", key, done.rows[period])
            context.add_asset_metadata(
                {
                    "dagster/partition_row_count": done.rows[period],
                    "rows_in_all": done.all_rows,
                    "database": MetadataValue.url(bi_database.address),
                    "newest_rows": preview,
                },
                partition_key=key,
            )

    return publish_mart


published_marts = [_published(mart) for mart in MARTS]


def _period(partitions: MultiPartitionsDefinition, key: str) -> Period:
    dimensions = partitions.get_partition_key_from_str(key)
    window = partitions.time_window_for_partition_key(dimensions)
    return Period(dimensions.keys_by_dimension["service"], window.start.date(), window.end.date())


def _plain(value: object) -> str | int | float | bool | None:
    if value != value:  # not a number; the UI cannot read it
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
