"""What keeps the marts and what is made of them up to date: they follow their sources, across the locations."""

from typing import TYPE_CHECKING

from dagster import (
    AssetSelection,
    AutomationCondition,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
)
from taxi_shared.contracts import contract

if TYPE_CHECKING:
    from dagster import AssetKey
    from dagster._core.definitions.declarative_automation.automation_condition import BuiltinAutomationCondition

ZONES = AssetSelection.assets(contract("raw.taxi_zones").asset_key)
LOADS = AssetSelection.assets(contract("raw.taxi_trips_loads").asset_key)


def _follow(not_these: AssetSelection) -> "BuiltinAutomationCondition[AssetKey]":
    """Dagster's eager(), but for every partition: a re-uploaded old month changes old weeks.

    eager()'s since_last_handled() would forget what lands right after a request, or while the asset is
    being rebuilt from what was there before: it takes that rebuild's end for the answer to them. Here
    only a request answers them, and only one that came after them.

    Parameters
    ----------
    not_these
        Dependencies whose updates are no reason to do anything.
    """
    # What was there before the automation looked for the first time.
    found = (
        AutomationCondition.initial_evaluation()
        & AutomationCondition.missing()
        & AutomationCondition.any_deps_match(~AutomationCondition.missing()).ignore(not_these)
    )
    followed = AutomationCondition.any_deps_updated().ignore(not_these) | found
    return (
        followed.since(AutomationCondition.newly_requested() & ~followed)
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
    )


# Period by period, also where some of the files beside a period are not loaded: the last week of the
# last month would otherwise wait for a file that does not exist yet. A change of the zones' names
# does not rebuild every month; but there must be zones before there is a mart by zone. Nothing is asked of checks:
# Dagster's condition for them knows no partitions, so that one refused month would stop all of them. The marts
# themselves make nothing of what was refused, and that lands only once it is mended.
FOLLOW_TRIPS = (_follow(not_these=ZONES) & ~AutomationCondition.any_deps_missing().allow(ZONES)).with_label(
    "follow_trips"
)

# For what is made of all periods at once: most periods of 15 years may never be loaded. Ingestion's tables
# are not followed: the marts are, and before they have caught up there would be nothing new to show. What
# was made of the marts stays as it is while the rebuild of one has failed.
FOLLOW_MARTS = (
    _follow(not_these=ZONES | LOADS)
    & ~AutomationCondition.any_deps_match(AutomationCondition.execution_failed()).ignore(ZONES | LOADS)
).with_label("follow_marts")

analytics_automation = AutomationConditionSensorDefinition(
    "analytics_automation",
    target=AssetSelection.all(),
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Rebuilds the periods of each mart whose trips changed in ingestion's tables, and what marts feed.",
)
