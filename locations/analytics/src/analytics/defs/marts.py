"""The marts: ingestion's trips, summed up by week, zone and hour, payment, distance and airport; and what was loaded.

Each mart's table is its contract, and each mart's content is one SELECT in a `.sql` file of its name. A
run replaces the periods it was asked for, all in one transaction, and then publishes them for BI tools.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import duckdb
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetsDefinition,
    AssetSpec,
    BackfillPolicy,
    Failure,
    MaterializeResult,
    MetadataValue,
    MultiPartitionsDefinition,
    PartitionMapping,
    TableColumnDep,
    TableColumnLineage,
    multi_asset,
)
from taxi_shared.alerts import CAUSE, FAILED_PARTITIONS
from taxi_shared.charts import picture
from taxi_shared.contracts import TableContract, contract
from taxi_shared.conventions import NO_CONTRACT
from taxi_shared.description import sql_metadata
from taxi_shared.lineage import column_lineage, lineage_metadata
from taxi_shared.partitions import FILE_MONTHS, FILES_OF_MONTH, FILES_OF_WEEK, SERVICE_WEEKS
from taxi_shared.previews import PREVIEW_ROWS, preview
from taxi_shared.quality import (
    Finding,
    RefusedError,
    check_results,
    check_specs,
    measure,
    refused,
    require,
    without_materialization,
)
from taxi_shared.release import release_metadata
from taxi_shared.warehouse import Warehouse

from analytics import charts
from analytics.defs.automation import FOLLOW_TRIPS
from analytics.periods import Period, is_requested, request_periods
from analytics.publishing import BiDatabase, publish
from analytics.served import REPORT_FILE, ServedFiles

if TYPE_CHECKING:
    import altair
    import pandas

# Periods of each service that a run draws, counted from the newest.
PICTURES = 6

OWNERS = ["team:analytics"]
FOR_PEOPLE = {NO_CONTRACT: "For people to look at: programs read the marts"}
TRIPS = contract("raw.taxi_trips")
QUARANTINE = contract("raw.taxi_trips_quarantine")
LOADS = contract("raw.taxi_trips_loads")
ZONES = contract("raw.taxi_zones")


@dataclass(frozen=True)
class Mart:
    """A mart's table, and how it is split into partitions of a service and a week or month.

    Attributes
    ----------
    time_column
        Column whose values, dates or times, lie within the period of their partition.
    chart
        Draws the rows of `charted`, a query that may use the period's `$service`, `$first_day` and `$day_after`.
    most
        Column by which the rows worth showing come first.
    """

    table: TableContract
    partitions: MultiPartitionsDefinition
    time_column: str
    charted: str
    chart: Callable[[list[dict[str, Any]]], "altair.Chart | altair.LayerChart"]
    most: str = "trips"

    @property
    def name(self) -> str:
        """The table's name without its schema."""
        return self.table.table.split(".")[1]

    @property
    def bi_key(self) -> AssetKey:
        """The asset that is the mart's table in Postgres."""
        return AssetKey(["bi", self.name])


_TWO_YEARS = "BETWEEN $first_day::DATE - INTERVAL 2 YEAR AND $first_day"
_OF_THE_MONTH = "service = $service AND month BETWEEN $first_day AND $day_after::DATE - 1"

TRIPS_BY_WEEK = Mart(
    contract("marts.trips_by_week"),
    SERVICE_WEEKS,
    "week",
    f"SELECT service, week::VARCHAR AS week, trips FROM marts.trips_by_week WHERE week {_TWO_YEARS}",
    charts.weekly_trend,
)
ZONE_HOURLY_DEMAND = Mart(
    contract("marts.zone_hourly_demand"),
    FILE_MONTHS,
    "pickup_hour",
    """SELECT strftime(pickup_hour, '%a') AS weekday, hour(pickup_hour) AS hour, sum(trips) / any_value(days) AS pickups
    FROM marts.zone_hourly_demand
    JOIN (
      SELECT isodow(day) AS weekday, count(*) AS days
      FROM (SELECT unnest(range($first_day::DATE, $day_after::DATE, INTERVAL 1 DAY)) AS day) GROUP BY ALL
    ) AS such_days ON such_days.weekday = isodow(pickup_hour)
    WHERE service = $service AND pickup_hour >= $first_day::DATE AND pickup_hour < $day_after::DATE
    GROUP BY ALL""",
    charts.hour_of_week,
)
FARE_ECONOMICS = Mart(
    contract("marts.fare_economics"),
    FILE_MONTHS,
    "month",
    f"FROM marts.fare_economics WHERE {_OF_THE_MONTH}",
    charts.fares_by_payment,
)
FARES_BY_DISTANCE = Mart(
    contract("marts.fares_by_distance"),
    FILE_MONTHS,
    "month",
    f"FROM marts.fares_by_distance WHERE {_OF_THE_MONTH}",
    charts.fares_by_distance,
)
AIRPORT_TRIPS = Mart(
    contract("marts.airport_trips"),
    FILE_MONTHS,
    "day",
    f"FROM marts.airport_trips WHERE {_OF_THE_MONTH.replace('month', 'day')}",
    charts.airport_trips,
)
LOAD_QUALITY = Mart(
    contract("marts.load_quality"),
    FILE_MONTHS,
    "file_month",
    f"""SELECT service, file_month::VARCHAR AS file_month, outcome, row_count
    FROM marts.load_quality WHERE file_month {_TWO_YEARS}""",
    charts.quarantine_share,
    most="row_count",
)


def _assets_of(mart: Mart, reads: Mapping[TableContract, PartitionMapping | None]) -> AssetsDefinition:
    """The mart's table in the lake, and the same table in Postgres for BI tools.

    They are made in one step. As assets of their own the tables in Postgres would cost a run each time a mart
    is rebuilt; in a run together with the mart, Dagster takes only the run's last partition for one whose mart
    was rebuilt along with what follows it, and has all others published a second time.

    Parameters
    ----------
    reads
        The tables it is made from, and which of their partitions; None: the same ones, or all.
    """
    table = mart.table
    common: dict[str, Any] = {"owners": OWNERS, "partitions_def": mart.partitions}

    @multi_asset(
        name=mart.name,
        specs=[
            AssetSpec(
                table.asset_key,
                description=table.description,
                deps=[AssetDep(source.asset_key, partition_mapping=mapping) for source, mapping in reads.items()],
                metadata=table.asset_metadata | sql_metadata(__package__, f"{mart.name}.sql"),
                group_name="marts",
                kinds={"duckdb", "ducklake"},
                automation_condition=FOLLOW_TRIPS,
                freshness_policy=table.freshness,
                **common,
            ),
            AssetSpec(
                mart.bi_key,
                description=f"{table.description}: for BI tools, in Postgres. `./codeloc bi` tells how to connect.",
                deps=[table.asset_key],
                metadata=table.asset_metadata | {"dagster/table_name": f"warehouse.{table.table}"},
                group_name="bi",
                kinds={"postgres"},
                **common,
            ),
        ],
        check_specs=check_specs(table),
        backfill_policy=BackfillPolicy.single_run(),
    )
    def rebuild(
        context: AssetExecutionContext, warehouse: Warehouse, bi_database: BiDatabase, served: ServedFiles
    ) -> Iterator[MaterializeResult[None] | AssetMaterialization | AssetCheckResult | AssetCheckEvaluation]:
        periods = {key: Period.of(mart.partitions, key) for key in context.partition_keys}
        named = next(iter(periods)) if len(periods) == 1 else f"{min(periods)} to {max(periods)}"
        report = MetadataValue.url(served.url(REPORT_FILE))
        context.add_asset_metadata({"report": report}, asset_key=table.asset_key)
        try:
            findings, refusals = _replace(context, warehouse, mart, periods, reads)
        except RefusedError as error:
            yield from without_materialization(check_results(table, {named: error.findings}))
            raise Failure(
                f"{named}: {error} The mart stays as it was. Look at {mart.name}.sql and at the periods' trips.",
                allow_retries=False,
            ) from error
        made = {key: period for key, period in periods.items() if key not in refusals}
        # Before it is published: if that fails, the mart is there all the same.
        yield from _materialized(table.asset_key, made, all_of_run=not refusals)
        yield from check_results(table, {named: findings})
        _publish(context, warehouse, bi_database, mart, made)
        yield from _materialized(mart.bi_key, made, all_of_run=not refusals)
        if refusals:
            raise _refused_sources(refusals)

    return rebuild


trips_by_week = _assets_of(TRIPS_BY_WEEK, reads={TRIPS: FILES_OF_WEEK})
zone_hourly_demand = _assets_of(ZONE_HOURLY_DEMAND, reads={TRIPS: FILES_OF_MONTH, ZONES: None})
fare_economics = _assets_of(FARE_ECONOMICS, reads={TRIPS: FILES_OF_MONTH})
fares_by_distance = _assets_of(FARES_BY_DISTANCE, reads={TRIPS: FILES_OF_MONTH})
airport_trips = _assets_of(AIRPORT_TRIPS, reads={TRIPS: FILES_OF_MONTH, ZONES: None})
load_quality = _assets_of(LOAD_QUALITY, reads={LOADS: None, QUARANTINE: None})


def _materialized(
    asset: AssetKey, periods: Iterable[str], all_of_run: bool
) -> Iterator[MaterializeResult[None] | AssetMaterialization]:
    if all_of_run:
        yield MaterializeResult(asset_key=asset)
    else:
        for key in periods:
            yield AssetMaterialization(asset, partition=key, metadata=release_metadata())


def _replace(
    context: AssetExecutionContext,
    warehouse: Warehouse,
    mart: Mart,
    periods: Mapping[str, Period],
    reads: Mapping[TableContract, PartitionMapping | None],
) -> tuple[list[Finding], dict[str, str]]:
    """Have the mart hold what its SQL makes of the periods, and report each one's rows.

    The SQL finds the periods in the temporary table `requested`, as `request_periods` makes it, and the days
    they span in the variables `first_day` and `day_after`.

    Returns
    -------
    list of Finding
        What came of the rules of the mart's contract.
    dict
        Periods that stay as they were, because what they are made of was refused by its owner, with the reason.

    Raises
    ------
    RefusedError
        The rows break the mart's contract: it stays as it was.
    Failure
        No period could be made.
    """
    select = files(__package__).joinpath(f"{mart.name}.sql").read_text(encoding="utf-8")
    context.add_asset_metadata(lineage_metadata(column_lineage(select, mart.table)), asset_key=mart.table.asset_key)
    with warehouse.write(mart.table) as connection:
        refusals = _refusals(connection, mart, reads, list(periods))
        periods = {key: period for key, period in periods.items() if key not in refusals}
        if not periods:
            raise _refused_sources(refusals)
        # A run may have hundreds of periods; the newest ones have a picture.
        drawn = [
            key
            for service in {period.service for period in periods.values()}
            for key in [key for key, period in periods.items() if period.service == service][-PICTURES:]
        ]
        request_periods(connection, periods.values())
        connection.execute("SET VARIABLE first_day = $1", [min(period.first_day for period in periods.values())])
        connection.execute("SET VARIABLE day_after = $1", [max(period.day_after for period in periods.values())])
        connection.execute(f"DELETE FROM {mart.table.table} AS mart WHERE {is_requested('mart', mart.time_column)}")
        connection.execute(f"INSERT INTO {mart.table.table} BY NAME {select}")
        findings = measure(connection, mart.table, is_requested(mart.name, mart.time_column))
        require(findings)
        of_periods = {key: _shown(connection, mart, period) for key, period in periods.items()}
        frames = {key: _charted(connection, mart, periods[key]) for key in drawn}
    for key, frame in frames.items():
        if not frame.empty:
            # Through JSON, which has a null where pandas has a NaN.
            chart = mart.chart(json.loads(frame.to_json(orient="records", date_format="iso")))
            of_periods[key]["chart"] = picture(chart, f"{mart.table.description}: {key}")
    for key, metadata in of_periods.items():
        context.add_asset_metadata(metadata, asset_key=mart.table.asset_key, partition_key=key)
    return findings, refusals


def _refusals(
    connection: duckdb.DuckDBPyConnection,
    mart: Mart,
    reads: Mapping[TableContract, PartitionMapping | None],
    keys: list[str],
) -> dict[str, str]:
    """The periods that are made of what broke a blocking check of its owner's, and what it broke.

    Dagster has no such gate: a failed check stops what follows in its own run, and no other run, backfill or location.
    """
    found: dict[str, str] = {}
    for source, mapping in reads.items():
        broken: dict[str, list[str]] = {}
        for partition, check, what in refused(connection, source, lake=source.owner):
            broken.setdefault(partition, []).append(f"{check} ({what.removesuffix('.')})")
        for key in keys if broken else ():
            made_of = {"", *_upstream(mapping, mart, key)}
            for partition, checks in broken.items():
                if partition in made_of:
                    name = source.asset_key.to_user_string() + (f" for {partition}" if partition else "")
                    # Late trips of a month come with the next one's file.
                    beside = ", which has trips of the periods beside it too," if mapping else ""
                    text = f"{name}{beside} did not pass {source.owner}'s checks: {', '.join(checks)}"
                    found.setdefault(key, text)
    return found


def _refused_sources(refusals: Mapping[str, str]) -> Failure:
    reasons = "; ".join(dict.fromkeys(refusals.values()))
    return Failure(
        f"{', '.join(refusals)}: stays as it was, because nothing is made of what was refused. {reasons}. Once that is"
        " mended, the period is made again by itself.",
        metadata={FAILED_PARTITIONS: MetadataValue.json(list(refusals)), CAUSE: reasons},
        allow_retries=False,
    )


def _upstream(mapping: PartitionMapping | None, mart: Mart, key: str) -> Iterable[str]:
    """Keys of the files that a period is made of."""
    if mapping is None:
        return [key]
    return mapping.get_upstream_mapped_partitions_result_for_partitions(
        mart.partitions.empty_subset().with_partition_keys([key]), mart.partitions, FILE_MONTHS
    ).partitions_subset.get_partition_keys()


def _charted(connection: duckdb.DuckDBPyConnection, mart: Mart, period: Period) -> "pandas.DataFrame":
    bounds = {name: value for name, value in period.bounds.items() if f"${name}" in mart.charted}
    return connection.execute(mart.charted, bounds).df()


def _shown(connection: duckdb.DuckDBPyConnection, mart: Mart, period: Period) -> dict[str, Any]:
    """What a person wants to see of a period of the mart in the UI."""
    where = (
        f"WHERE service = $service AND {mart.time_column} >= $first_day::DATE AND {mart.time_column} < $day_after::DATE"
    )
    counted = connection.execute(
        f"SELECT count(*), coalesce(sum({mart.most}), 0)::BIGINT FROM {mart.table.table} {where}", period.bounds
    ).fetchone()
    rows, total = counted or (0, 0)
    return {
        "dagster/partition_row_count": rows,
        mart.most: total,
        "preview": preview(
            connection.execute(
                f"FROM {mart.table.table} {where} ORDER BY {mart.most} DESC LIMIT {PREVIEW_ROWS}", period.bounds
            )
        ),
    }


def _publish(
    context: AssetExecutionContext,
    warehouse: Warehouse,
    bi_database: BiDatabase,
    mart: Mart,
    periods: Mapping[str, Period],
) -> None:
    """Have the Postgres table hold what the mart has of the periods, or all of it where the table is new."""
    done = publish(warehouse, bi_database, mart.table, mart.time_column, list(periods.values()))
    if done.made_anew:
        context.log.info("%s was made anew with all %s rows of the mart", mart.table.table, done.all_rows)
    for key, period in periods.items():
        context.log.info("%s: %s rows", key, done.rows[period])
        context.add_asset_metadata(
            {"dagster/partition_row_count": done.rows[period]}, asset_key=mart.bi_key, partition_key=key
        )
    lineage = {column.name: [TableColumnDep(mart.table.asset_key, column.name)] for column in mart.table.columns}
    context.add_asset_metadata(
        {
            "rows_in_all": done.all_rows,
            "database": MetadataValue.url(bi_database.address),
            "preview": done.newest,
            **lineage_metadata(TableColumnLineage(lineage)),
        },
        asset_key=mart.bi_key,
    )
