"""The weekly job and its schedule; day to day the marts follow ingestion's tables by automation."""

from collections.abc import Iterator
from datetime import timedelta

from dagster import (
    AssetSelection,
    MultiPartitionKey,
    RunRequest,
    ScheduleEvaluationContext,
    define_asset_job,
    in_process_executor,
    schedule,
)
from taxi_shared.partitions import SERVICES

from analytics.defs.marts import trips_by_week

weekly_update_job = define_asset_job(
    "weekly_update_job",
    AssetSelection.assets(trips_by_week),
    description="Rebuilds one service's trips of one week.",
    executor_def=in_process_executor,
)

# A month's file is loaded on the 5th of the second month after it, and the next one's brings late
# trips. Twelve weeks back is the newest week that is complete on every Monday of the year.
WEEKS_BACK = 12


@schedule(
    job=weekly_update_job,
    cron_schedule="0 0 * * 1",
    description=f"Every Monday, for each service, the week {WEEKS_BACK} weeks back: the newest one whose"
    " months are surely loaded by then.",
)
def weekly_update_schedule(context: ScheduleEvaluationContext) -> Iterator[RunRequest]:
    """One run per service, each with its partition."""
    week = context.scheduled_execution_time.date() - timedelta(weeks=WEEKS_BACK)
    for service in SERVICES.get_partition_keys():
        key = MultiPartitionKey({"service": service, "week": week.isoformat()})
        yield RunRequest(run_key=key, partition_key=key)
