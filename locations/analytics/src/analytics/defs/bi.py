"""The marts once more as ordinary Postgres tables, for BI tools; each follows its mart, period by period."""

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    BackfillPolicy,
    MetadataValue,
    TableColumnDep,
    TableColumnLineage,
    asset,
)
from taxi_shared.warehouse import Warehouse

from analytics.defs.automation import FOLLOW_MART
from analytics.defs.marts import MARTS, OWNERS, Mart
from analytics.periods import Period
from analytics.publishing import BiDatabase, publish


def _published(mart: Mart) -> AssetsDefinition:
    """The asset that publishes the mart."""
    table = mart.table
    lineage = TableColumnLineage(
        {column.name: [TableColumnDep(table.asset_key, column.name)] for column in table.columns}
    )

    @asset(
        key=["bi", mart.name],
        description=f"{table.description}: as a Postgres table for BI tools. `./codeloc bi` tells how to connect.",
        deps=[table.asset_key],
        metadata=table.asset_metadata | {"dagster/table_name": f"warehouse.{table.table}"},
        group_name="bi",
        owners=OWNERS,
        kinds={"postgres"},
        partitions_def=mart.partitions,
        backfill_policy=BackfillPolicy.single_run(),
        automation_condition=FOLLOW_MART,
    )
    def publish_mart(context: AssetExecutionContext, warehouse: Warehouse, bi_database: BiDatabase) -> None:
        periods = {key: Period.of(mart.partitions, key) for key in context.partition_keys}
        done = publish(warehouse, bi_database, table, mart.time_column, list(periods.values()))
        if done.made_anew:
            context.log.info("%s was made anew with all %s rows of the mart", table.table, done.all_rows)
        for key, period in periods.items():
            context.log.info("%s: %s rows", key, done.rows[period])
            context.add_asset_metadata({"dagster/partition_row_count": done.rows[period]}, partition_key=key)
        context.add_asset_metadata(
            {
                "rows_in_all": done.all_rows,
                "database": MetadataValue.url(bi_database.address),
                "preview": done.newest,
                "dagster/column_lineage": lineage,
            }
        )

    return publish_mart


published_marts = [_published(mart) for mart in MARTS]
