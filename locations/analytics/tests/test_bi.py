"""The assets that publish the marts: their partitions, when they run, and what a run leaves in Postgres."""

from datetime import date, datetime

import pytest
from analytics.definitions import defs
from analytics.defs.bi import published_marts
from analytics.defs.marts import MARTS, trips_by_week
from analytics.periods import Period
from analytics.publishing import BiDatabase
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetSelection,
    DagsterInstance,
    Definitions,
    MultiPartitionsDefinition,
    asset,
    evaluate_automation_conditions,
    materialize,
)
from taxi_shared.contracts import contract
from taxi_shared.partitions import FILE_MONTHS, SERVICE_WEEKS
from taxi_shared.warehouse import Warehouse

from conftest import Trip, content, execute, load_months, metadata

TRIPS = contract("raw.taxi_trips")
WEEKLY = AssetKey(["bi", "trips_by_week"])


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
    assert marts == {mart.table.asset_key for mart in MARTS}
    for key in marts:
        published = specs[AssetKey(["bi", key.path[-1]])]
        assert published.partitions_def == specs[key].partitions_def
        assert [dependency.asset_key for dependency in published.deps] == [key]


def test_a_run_publishes_its_periods_of_the_mart(
    ingestion: Warehouse, warehouse: Warehouse, bi_database: BiDatabase
) -> None:
    load_months(ingestion, {"2023-01-01|green": [Trip(datetime(2023, 1, day)) for day in (3, 10, 10, 17)]})
    (publisher,) = [found for found in published_marts if found.key == WEEKLY]
    tags = {
        "dagster/asset_partition_range_start": "green|2023-01-02",
        "dagster/asset_partition_range_end": "green|2023-01-16",
    }
    run = materialize(
        [trips_by_week, publisher], tags=tags, resources={"warehouse": warehouse, "bi_database": bi_database}
    )
    found = metadata(run, WEEKLY)
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


# -- automation -----------------------------------------------------------------------------------


@asset(key=TRIPS.asset_key, partitions_def=FILE_MONTHS)
def taxi_trips() -> None:
    """As ingestion defines it."""


def test_periods_that_were_rebuilt_are_published_once_whoever_rebuilt_them() -> None:
    definitions = Definitions.merge(defs(), Definitions(assets=[taxi_trips]))
    instance = DagsterInstance.ephemeral()
    cursor = None

    def requested() -> tuple[set[str], set[str]]:
        """Weeks of the mart, and of its table for BI tools."""
        nonlocal cursor
        result = evaluate_automation_conditions(
            definitions,
            instance,
            cursor=cursor,
            evaluation_time=datetime(2023, 6, 20),
            asset_selection=AssetSelection.assets(trips_by_week, WEEKLY),
        )
        cursor = result.cursor
        mart, table = (result.get_requested_partitions(key) for key in (trips_by_week.key, WEEKLY))
        return {str(key) for key in mart}, {str(key) for key in table}

    def materialized(key: AssetKey, weeks: set[str]) -> None:
        for week in weeks:
            instance.report_runless_asset_event(AssetMaterialization(key, partition=week))

    assert requested() == (set(), set())
    instance.report_runless_asset_event(AssetMaterialization(TRIPS.asset_key, partition="2023-02-01|green"))
    weeks, table = requested()
    assert len(weeks) == 7
    assert table == set()
    materialized(trips_by_week.key, weeks)
    assert requested() == (set(), weeks)
    assert requested() == (set(), set())
    materialized(WEEKLY, weeks)
    assert requested() == (set(), set())

    materialized(trips_by_week.key, {"green|2023-02-06"})
    assert requested() == (set(), {"green|2023-02-06"})
    assert requested() == (set(), set())
