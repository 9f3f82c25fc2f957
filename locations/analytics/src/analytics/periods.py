"""What one partition of a mart stands for, as dates that SQL can be given."""

from dataclasses import dataclass
from datetime import date

from dagster import MultiPartitionsDefinition


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
