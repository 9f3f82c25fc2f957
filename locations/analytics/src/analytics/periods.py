"""What one partition of a mart stands for, as dates that SQL can be given."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from dagster import MultiPartitionsDefinition

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Period:
    """One service's days from `first_day` to before `day_after`."""

    service: str
    first_day: date
    day_after: date

    @classmethod
    def of(cls, partitions: MultiPartitionsDefinition, key: str) -> "Period":
        """The period of a partition, which has a service and a week or month."""
        dimensions = partitions.get_partition_key_from_str(key)
        window = partitions.time_window_for_partition_key(dimensions)
        return cls(dimensions.keys_by_dimension["service"], window.start.date(), window.end.date())

    @property
    def bounds(self) -> dict[str, str | date]:
        """The period as parameters of a query."""
        return {"service": self.service, "first_day": self.first_day, "day_after": self.day_after}


def request_periods(connection: "duckdb.DuckDBPyConnection", periods: Iterable[Period]) -> None:
    """Put the periods into the temporary table `requested` (service VARCHAR, first_day DATE, day_after DATE)."""
    connection.execute("CREATE TEMP TABLE requested (service VARCHAR, first_day DATE, day_after DATE)")
    connection.executemany(
        "INSERT INTO requested VALUES ($1, $2, $3)",
        [(period.service, period.first_day, period.day_after) for period in periods],
    )


def is_requested(row: str, time_column: str) -> str:
    """SQL that says whether `row`, a table or its alias, lies by its `time_column` in a `requested` period."""
    return (
        f"EXISTS (FROM requested WHERE requested.service = {row}.service"
        f" AND {row}.{time_column} >= requested.first_day AND {row}.{time_column} < requested.day_after)"
    )
