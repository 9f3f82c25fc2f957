"""The marts' tables in Postgres: their partitions, and what a run leaves there."""

from datetime import date, datetime

import pytest
from analytics.definitions import defs
from analytics.defs.marts import TRIPS_BY_WEEK, trips_by_week
from analytics.periods import Period
from analytics.publishing import BiDatabase
from dagster import AssetKey, MultiPartitionsDefinition
from taxi_shared.partitions import FILE_MONTHS, SERVICE_WEEKS
from taxi_shared.warehouse import Warehouse

from conftest import Run, Trip, content, execute, failure, load_months, metadata


@pytest.mark.parametrize(
    ("partitions", "key", "period"),
    [
        (SERVICE_WEEKS, "green|2022-12-26", Period("green", date(2022, 12, 26), date(2023, 1, 2))),
        (FILE_MONTHS, "2023-12-01|yellow", Period("yellow", date(2023, 12, 1), date(2024, 1, 1))),
        (FILE_MONTHS, "2024-02-01|green", Period("green", date(2024, 2, 1), date(2024, 3, 1))),
    ],
)
def test_a_partition_is_a_period(partitions: MultiPartitionsDefinition, key: str, period: Period) -> None:
    assert Period.of(partitions, key) == period


def test_every_mart_of_the_location_is_published_with_its_own_partitions() -> None:
    specs = {spec.key: spec for spec in defs().resolve_all_asset_specs()}
    marts = {key for key, spec in specs.items() if spec.group_name == "marts"}
    assert len(marts) == 6
    for key in marts:
        published = specs[AssetKey(["bi", key.path[-1]])]
        assert published.partitions_def == specs[key].partitions_def
        assert [dependency.asset_key for dependency in published.deps] == [key]


def test_a_run_publishes_its_periods_of_the_mart(
    ingestion: Warehouse, warehouse: Warehouse, bi_database: BiDatabase, run: Run
) -> None:
    load_months(ingestion, {"2023-01-01|green": [Trip(datetime(2023, 1, day)) for day in (3, 10, 10, 17)]})
    found = metadata(run(trips_by_week, "green|2023-01-02", "green|2023-01-16"), TRIPS_BY_WEEK.bi_key)
    assert {key: values["dagster/partition_row_count"] for key, values in found.items()} == {
        "green|2023-01-02": 1,
        "green|2023-01-09": 1,
        "green|2023-01-16": 1,
    }
    rows = execute(bi_database.connection_string, "SELECT * FROM marts.trips_by_week ORDER BY week")
    assert rows == content(warehouse, "marts.trips_by_week")
    assert [row[2] for row in rows] == [1, 2, 1]
    (newest, *_) = found["green|2023-01-02"]["preview"].records
    assert (newest.data["week"], newest.data["trips"]) == ("2023-01-16", 1)
    lineage = found["green|2023-01-02"]["dagster/column_lineage"].deps_by_column
    assert [(dep.asset_key, dep.column_name) for dep in lineage["trips"]] == [(TRIPS_BY_WEEK.table.asset_key, "trips")]


def test_a_mart_that_cannot_be_published_is_there_all_the_same(
    ingestion: Warehouse, warehouse: Warehouse, bi_database: BiDatabase, run: Run
) -> None:
    load_months(ingestion, {"2023-01-01|green": [Trip(datetime(2023, 1, 3))]})
    execute(bi_database.connection_string, "DROP SCHEMA marts")
    result = run(trips_by_week, "green|2023-01-02")
    assert "there is no schema 'marts' in the database of BI tools" in failure(result)
    recorded = {event.asset_key for event in result.get_asset_materialization_events()}
    assert recorded == {TRIPS_BY_WEEK.table.asset_key}
    assert [row[2] for row in content(warehouse, "marts.trips_by_week")] == [1]
