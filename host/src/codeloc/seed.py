"""What an empty platform is filled with: the example's sources, and the runs that load them.

A team that puts its own data in replaces this module, `requests.py`, the settings of the source, and the
words of `up`'s summary; nothing else of the host knows the example.
"""

import urllib.parse
from dataclasses import dataclass

from codeloc.errors import CodelocError

SAMPLE = "sample"
# Writes files in the source's own format, made up, so that a first start needs no internet.
SAMPLE_LOCATION = "ingestion"
SAMPLE_MODULE = "ingestion.sample"

_TLC = {
    "TLC_BASE_URL": "https://d37ci6vzurychx.cloudfront.net",
    "TAXI_ZONES_URL": "https://community-engineering-artifacts.s3.us-west-2.amazonaws.com/dagster-university/data/taxi_zones.csv",
}


@dataclass(frozen=True)
class SeedRun:
    """A run of a job, and the asset that is there once it has succeeded.

    Attributes
    ----------
    partitions
        Those of the asset that the run makes, in their order and without a gap; empty for an asset without any.
    """

    location: str
    job: str
    asset: str
    partitions: tuple[str, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        """What tells the run its partitions."""
        if not self.partitions:
            return {}
        return {
            "dagster/asset_partition_range_start": self.partitions[0],
            "dagster/asset_partition_range_end": self.partitions[-1],
        }


MONTHS = ("2023-01-01", "2023-02-01", "2023-03-01")
SERVICES = ("green", "yellow")

# A run for each service, and not for each month: what follows is then made once, from all of them.
SEED = (
    SeedRun("ingestion", "zone_update_job", "raw/taxi_zones"),
    *(
        SeedRun("ingestion", "trip_update_job", "raw/taxi_trips_loads", tuple(f"{month}|{service}" for month in MONTHS))
        for service in SERVICES
    ),
)


# The page that a person is shown first, below the platform's reports.
REPORT = "report.html"

# What follows the seed by itself; `up` waits for it.
FOLLOWING = (
    "marts/trips_by_week",
    "marts/zone_hourly_demand",
    "marts/fare_economics",
    "marts/fares_by_distance",
    "marts/airport_trips",
    "marts/load_quality",
    "bi/trips_by_week",
    "reports/manhattan_map",
    "reports/report",
)


def source_environment(source: str, sample_url: str, zones_url: str | None) -> dict[str, str]:
    """Where ingestion downloads from.

    Parameters
    ----------
    source
        `sample`, `tlc`, or the address of a mirror of TLC's file server.
    sample_url
        Where the platform serves the sample.
    zones_url
        The zones' shapes, where they do not lie on the mirror as `misc/taxi_zones.csv`.
    """
    if source == "tlc":
        return _TLC | ({"TAXI_ZONES_URL": zones_url} if zones_url else {})
    base = sample_url if source == SAMPLE else source
    address = urllib.parse.urlsplit(base)
    if address.username or address.password:
        raise CodelocError("--source: leave user and password out of the address: it is shown in the UI and the report")
    if address.scheme not in ("http", "https") or not address.hostname:
        raise CodelocError(f"--source {source}: must be 'sample', 'tlc', or an address such as https://mirror/tlc")
    base = base.rstrip("/")
    return {"TLC_BASE_URL": base, "TAXI_ZONES_URL": zones_url or f"{base}/misc/taxi_zones.csv"}
