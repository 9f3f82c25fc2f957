"""The partitions that producers and consumers share, and how one maps onto the other.

They live here because a partition key is part of a table's contract: a consumer that spelled it
differently would silently follow nothing.
"""

from datetime import timedelta
from typing import Final

from dagster import (
    DimensionPartitionMapping,
    IdentityPartitionMapping,
    MonthlyPartitionsDefinition,
    MultiPartitionMapping,
    MultiPartitionsDefinition,
    StaticPartitionsDefinition,
    TimeWindowPartitionMapping,
    WeeklyPartitionsDefinition,
)

SERVICES: Final = StaticPartitionsDefinition(["green", "yellow"])

# TLC publishes a month in the second month after it: on 5 November the newest file is September's.
# 2009 and 2010 used another schema (coordinates instead of zones) and are left out.
FILE_MONTHS: Final = MultiPartitionsDefinition(
    {"month": MonthlyPartitionsDefinition(start_date="2011-01-01", end_offset=-1), "service": SERVICES}
)

# Monday to Sunday. The first one holds 1 January 2011.
SERVICE_WEEKS: Final = MultiPartitionsDefinition(
    {"service": SERVICES, "week": WeeklyPartitionsDefinition(start_date="2010-12-27", day_offset=1)}
)

# A month's file carries trips that were reported late, and clocks differ at midnight. Rows further
# away from the file's month than this are quarantined; consumers look one file to each side.
LATE_REPORTING: Final = timedelta(days=7)
EARLY_REPORTING: Final = timedelta(days=1)

_NEIGHBOURING_FILES: Final = TimeWindowPartitionMapping(
    start_offset=-1, end_offset=1, allow_nonexistent_upstream_partitions=True
)
_SAME_SERVICE: Final = DimensionPartitionMapping("service", IdentityPartitionMapping())

# For a consumer partitioned by pickup month, and for one partitioned by pickup week: the trips of a
# period stand in that period's own file and, late or early, in the files beside it.
FILES_OF_MONTH: Final = MultiPartitionMapping(
    {
        "month": DimensionPartitionMapping("month", _NEIGHBOURING_FILES),
        "service": _SAME_SERVICE,
    }
)
FILES_OF_WEEK: Final = MultiPartitionMapping(
    {
        "month": DimensionPartitionMapping("week", _NEIGHBOURING_FILES),
        "service": _SAME_SERVICE,
    }
)
