"""Keeps a location's lake small: old states are forgotten, small files joined, unused ones removed, once a week."""

from datetime import timedelta
from typing import Final

from dagster import (
    AssetsDefinition,
    AssetSelection,
    DefaultScheduleStatus,
    Definitions,
    MaterializeResult,
    ScheduleDefinition,
    asset,
    define_asset_job,
    in_process_executor,
)

from taxi_shared.conventions import NO_CONTRACT, OWNER_PREFIX
from taxi_shared.warehouse import Warehouse

KEPT: Final = timedelta(days=30)
"""How far back a table can be read as it was."""


def lake_maintenance(location: str) -> Definitions:
    """An asset that stands for the state of a location's lake, its job, and a weekly schedule.

    Parameters
    ----------
    location
        Its name; its resource `warehouse` is the lake's.
    """
    lake = _asset(location)
    job = define_asset_job(
        f"{location}_lake_job",
        AssetSelection.assets(lake),
        description=f"Forgets states of the lake older than {KEPT.days} days, joins small files, removes unused ones.",
        executor_def=in_process_executor,
    )
    schedule = ScheduleDefinition(
        name=f"{location}_lake_schedule",
        job=job,
        cron_schedule="0 4 * * 0",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Sundays at 04:00 UTC: keeps the lake small.",
    )
    return Definitions(assets=[lake], jobs=[job], schedules=[schedule])


def _asset(location: str) -> AssetsDefinition:
    @asset(
        key=["lakes", location],
        description=f"The files of the lake {location}. A table can be read as it was in the last {KEPT.days} days."
        " Materialized, old states are forgotten, small files joined and unused ones removed; no row changes.",
        group_name="lakes",
        owners=[f"{OWNER_PREFIX}{location}"],
        kinds={"ducklake"},
        metadata={NO_CONTRACT: "Files of tables that have contracts of their own"},
    )
    def lake(warehouse: Warehouse) -> MaterializeResult[None]:
        done = warehouse.maintain(KEPT)
        return MaterializeResult(
            metadata={
                "expired_snapshots": done.expired_snapshots,
                "files_before": done.files_before,
                "files_after": done.files_after,
                "removed_files": done.removed_files,
            }
        )

    return lake
