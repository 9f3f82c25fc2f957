"""Assets of few and of many partitions, of days and services as our tables are of months and services."""

from datetime import date, timedelta

from dagster import (
    AssetsDefinition,
    AutomationCondition,
    BackfillPolicy,
    DailyPartitionsDefinition,
    MultiPartitionsDefinition,
    StaticPartitionsDefinition,
    asset,
)

SIZES = (12, 180, 5000)
_SERVICES = StaticPartitionsDefinition(["green", "yellow"])
_FIRST = date(2011, 1, 1)
# As eager(), but for every partition: that is how our marts follow their sources.
_EAGER = AutomationCondition.eager().without(AutomationCondition.in_latest_time_window())


def _pair(size: int) -> list[AssetsDefinition]:
    keys = MultiPartitionsDefinition(
        {
            "day": DailyPartitionsDefinition(_FIRST.isoformat(), (_FIRST + timedelta(days=size // 2)).isoformat()),
            "service": _SERVICES,
        }
    )

    @asset(name=f"of_{size}", partitions_def=keys, backfill_policy=BackfillPolicy.single_run())
    def source() -> None:
        """Nothing, of all its partitions at once."""

    @asset(name=f"follows_{size}", partitions_def=keys, deps=[source], automation_condition=_EAGER)
    def follower() -> None:
        """Follows it partition by partition."""

    return [source, follower]


partitioned = [one for size in SIZES for one in _pair(size)]
