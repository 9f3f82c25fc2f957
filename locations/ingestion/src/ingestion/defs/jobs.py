"""What runs the location's assets: two jobs, a monthly schedule, a sensor that watches for releases."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from dagster import (
    AssetSelection,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    SensorEvaluationContext,
    SkipReason,
    build_schedule_from_partitioned_job,
    define_asset_job,
    in_process_executor,
    sensor,
)
from taxi_shared.partitions import FILE_MONTHS

from ingestion.defs.files import taxi_trips_file, taxi_zone_lookup_file, taxi_zones_file
from ingestion.defs.resources import TlcServer
from ingestion.defs.trips import taxi_trips
from ingestion.defs.zones import taxi_zones
from ingestion.landing import LandingStore
from ingestion.source import SourceError, TripFile, current_etag, open_client

# Its steps follow one another, so a process for each would only add its start.
trip_update_job = define_asset_job(
    "trip_update_job",
    AssetSelection.assets(taxi_trips_file, taxi_trips),
    description="Downloads one service's file of one month and replaces that month in the warehouse.",
    executor_def=in_process_executor,
)

zone_update_job = define_asset_job(
    "zone_update_job",
    AssetSelection.assets(taxi_zones_file, taxi_zone_lookup_file, taxi_zones),
    description="Downloads the taxi zones' names and shapes and replaces them in the warehouse.",
    executor_def=in_process_executor,
)

# Off until somebody turns them on: they would reach the internet unasked.
trip_update_schedule = build_schedule_from_partitioned_job(
    trip_update_job,
    name="trip_update_schedule",
    description="On the 5th at 05:00 UTC, the newest month TLC has by then, for each service.",
    day_of_month=5,
    hour_of_day=5,
    default_status=DefaultScheduleStatus.STOPPED,
)

# Of each service: loaded months looked at for a new upload, and months looked for after the newest one.
WATCHED_MONTHS = 24
AWAITED_MONTHS = 3
# The source is taken to be away then: asking on would outlast Dagster's limit for a sensor.
ENOUGH_FAULTS = 3


@sensor(
    job=trip_update_job,
    minimum_interval_seconds=6 * 60 * 60,
    default_status=DefaultSensorStatus.STOPPED,
    description=f"Asks the source for the ETags of the newest {WATCHED_MONTHS} loaded months of each service"
    f" and of the {AWAITED_MONTHS} months after them; requests those that are new or were uploaded again.",
)
def tlc_release_sensor(
    context: SensorEvaluationContext, tlc: TlcServer, landing: LandingStore
) -> Iterator[RunRequest | SkipReason]:
    """A run for each file whose ETag is not the one at hand; some faults do not stop the others."""
    requested = 0
    faults: list[str] = []
    with open_client() as client:
        for file in _watched(landing):
            try:
                etag = current_etag(client, tlc.trips(file))
            except SourceError as error:
                faults.append(str(error))
                if len(faults) == ENOUGH_FAULTS:
                    break
                continue
            at_hand = landing.record(file.name)
            if etag is None or (at_hand is not None and etag in (at_hand.etag, at_hand.last_modified)):
                continue
            requested += 1
            # Each version once a day until it is at hand: a run that failed is not the end of it.
            version = hashlib.sha256(etag.encode()).hexdigest()[:16]
            yield RunRequest(
                run_key=f"{file.name}:{version}:{datetime.now(UTC):%Y-%m-%d}",
                partition_key=file.partition_key,
            )
    for fault in faults:
        context.log.warning("not asked for: %s", fault)
    if not requested:
        yield SkipReason("; ".join(faults) or "nothing new or uploaded again")


def _watched(landing: LandingStore) -> Iterator[TripFile]:
    """Of each service the newest loaded months and the ones that come after them."""
    files = [TripFile.of_partition(key) for key in FILE_MONTHS.get_partition_keys()]
    for service in ("green", "yellow"):
        of_service = [file for file in files if file.service == service]
        loaded = [position for position, file in enumerate(of_service) if landing.record(file.name)]
        if loaded:
            yield from (of_service[position] for position in loaded[-WATCHED_MONTHS:])
            yield from of_service[loaded[-1] + 1 :][:AWAITED_MONTHS]
