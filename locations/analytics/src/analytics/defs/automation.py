"""What keeps the marts up to date: they follow ingestion's tables, across the locations."""

from dagster import (
    AssetSelection,
    AutomationCondition,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
)
from taxi_shared.contracts import contract

ZONES = AssetSelection.assets(contract("raw.taxi_zones").asset_key)

TRIPS_UPDATED = AutomationCondition.any_deps_updated().ignore(ZONES) | (
    # Trips that were loaded before the automation looked for the first time.
    AutomationCondition.initial_evaluation()
    & AutomationCondition.missing()
    & AutomationCondition.any_deps_match(~AutomationCondition.missing()).ignore(ZONES)
)

# Dagster's eager(), but for every partition and not only the newest one (a re-uploaded old month
# changes old weeks), and also where some of the files beside a period are not loaded: the last week
# of the last month would otherwise wait for a file that does not exist yet. A change of the zones'
# names does not rebuild every month; but there must be zones before there is a mart by zone.
# Stock Dagster lets a failed blocking check stop only its own run, hence the last line.
# eager()'s since_last_handled() would forget trips that land right after a request, or while the mart
# is being rebuilt from those before: it takes that rebuild's end for the answer to them. Here only a
# request answers them, and only one that came after them.
FOLLOW_TRIPS = (
    TRIPS_UPDATED.since(AutomationCondition.newly_requested() & ~TRIPS_UPDATED)
    & ~AutomationCondition.any_deps_missing().allow(ZONES)
    & ~AutomationCondition.any_deps_in_progress()
    & ~AutomationCondition.in_progress()
    & AutomationCondition.all_deps_blocking_checks_passed()
).with_label("follow_trips")

analytics_automation = AutomationConditionSensorDefinition(
    "analytics_automation",
    target=AssetSelection.all(),
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Rebuilds the periods of each mart whose trips changed in ingestion's tables.",
)
