"""The marts: ingestion's trips, summed up by week and by zone and hour."""

from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING

from dagster import AssetDep, AssetExecutionContext, BackfillPolicy, MetadataValue, TableRecord, asset
from taxi_shared.contracts import TableContract, contract
from taxi_shared.partitions import FILE_MONTHS, FILES_OF_MONTH, FILES_OF_WEEK, SERVICE_WEEKS
from taxi_shared.warehouse import Warehouse

from analytics.defs.automation import FOLLOW_TRIPS

if TYPE_CHECKING:
    import pandas

OWNERS = ["team:analytics"]
TRIPS = contract("raw.taxi_trips")
ZONES = contract("raw.taxi_zones")
TRIPS_BY_WEEK = contract("marts.trips_by_week")
ZONE_HOURLY_DEMAND = contract("marts.zone_hourly_demand")


@dataclass(frozen=True)
class Period:
    """A service and the first day of a week or month: what one partition of a mart holds."""

    partition_key: str
    service: str
    first_day: date


@asset(
    key=TRIPS_BY_WEEK.asset_key,
    description=TRIPS_BY_WEEK.description,
    deps=[AssetDep(TRIPS.asset_key, partition_mapping=FILES_OF_WEEK)],
    metadata=TRIPS_BY_WEEK.asset_metadata,
    group_name="marts",
    owners=OWNERS,
    kinds={"duckdb", "ducklake"},
    partitions_def=SERVICE_WEEKS,
    backfill_policy=BackfillPolicy.single_run(),
    automation_condition=FOLLOW_TRIPS,
)
def trips_by_week(context: AssetExecutionContext, warehouse: Warehouse) -> None:
    """Every trip once, in the week of its pickup."""
    weeks = [_period(key, day="week") for key in context.partition_keys]
    day_after = max(week.first_day for week in weeks) + timedelta(weeks=1)
    _rebuild(context, warehouse, TRIPS_BY_WEEK, weeks, day_after)


@asset(
    key=ZONE_HOURLY_DEMAND.asset_key,
    description=ZONE_HOURLY_DEMAND.description,
    deps=[AssetDep(TRIPS.asset_key, partition_mapping=FILES_OF_MONTH), ZONES.asset_key],
    metadata=ZONE_HOURLY_DEMAND.asset_metadata,
    group_name="marts",
    owners=OWNERS,
    kinds={"duckdb", "ducklake"},
    partitions_def=FILE_MONTHS,
    backfill_policy=BackfillPolicy.single_run(),
    automation_condition=FOLLOW_TRIPS,
)
def zone_hourly_demand(context: AssetExecutionContext, warehouse: Warehouse) -> None:
    """Every trip once, in the month of its pickup."""
    months = [_period(key, day="month") for key in context.partition_keys]
    last = max(month.first_day for month in months)
    day_after = (last + timedelta(days=31)).replace(day=1)
    _rebuild(context, warehouse, ZONE_HOURLY_DEMAND, months, day_after)


def _period(key: str, day: str) -> Period:
    # The dimensions of a key stand in the order of their names: month|service, service|week.
    parts = dict(zip(sorted(["service", day]), key.split("|"), strict=True))
    return Period(key, parts["service"], date.fromisoformat(parts[day]))


def _rebuild(
    context: AssetExecutionContext,
    warehouse: Warehouse,
    table: TableContract,
    periods: list[Period],
    day_after: date,
) -> None:
    """Run the mart's SQL for `periods` in one transaction and report each one's rows.

    The SQL finds the periods in the temporary table `requested` (service VARCHAR, first_day DATE) and
    the days they span in the variables `first_day` and `day_after`.
    """
    name = table.table.split(".")[1]
    with warehouse.write(table) as connection:
        connection.execute("CREATE TEMP TABLE requested (service VARCHAR, first_day DATE)")
        connection.executemany(
            "INSERT INTO requested VALUES ($1, $2)",
            [(period.service, period.first_day) for period in periods],
        )
        connection.execute("SET VARIABLE first_day = $1", [min(period.first_day for period in periods)])
        connection.execute("SET VARIABLE day_after = $1", [day_after])
        counts = connection.execute(files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")).fetchall()
        preview = connection.execute(f"FROM {table.table} ORDER BY trips DESC LIMIT 10").df(date_as_object=True)
    by_period = {(service, first_day): (rows, trips) for service, first_day, rows, trips in counts}
    for period in periods:
        rows, trips = by_period[period.service, period.first_day]
        context.log.info("%s: %s rows, %s trips", period.partition_key, rows, trips)
        context.add_asset_metadata(
            {"dagster/partition_row_count": rows, "trips": trips, "busiest_of_all": _as_table(preview, table)},
            partition_key=period.partition_key,
        )


def _as_table(frame: "pandas.DataFrame", table: TableContract) -> MetadataValue:
    return MetadataValue.table(
        [TableRecord({str(name): _plain(value) for name, value in row.items()}) for row in frame.to_dict("records")],
        schema=table.dagster_schema,  # Dagster insists on one for an empty table
    )


def _plain(value: object) -> str | int | float | bool | None:
    if value != value:  # pandas' nulls; the UI cannot read NaN
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
