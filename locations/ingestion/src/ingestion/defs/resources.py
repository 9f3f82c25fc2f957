"""What the location's assets are given: the source, the landing store, the warehouse, the executor."""

from dagster import ConfigurableResource, Definitions, EnvVar
from dagster import definitions as dagster_definitions
from pydantic import Field
from taxi_shared.executor import by_plan
from taxi_shared.warehouse import Warehouse

from ingestion.landing import LandingStore
from ingestion.source import TripFile


class TlcServer(ConfigurableResource[None]):
    """Where TLC's files are served: TLC itself, a mirror of its layout, or the sample on loopback."""

    base_url: str = Field(description="Address that `trip-data/` and `misc/` lie under.")
    zones_url: str = Field(description="Address of the zones' shapes, a CSV that TLC's own server does not have.")

    def trips(self, file: TripFile) -> str:
        """Address of one month's file."""
        return self._below(file.url_path)

    @property
    def zone_lookup(self) -> str:
        """Address of the zones' names."""
        return self._below("misc/taxi_zone_lookup.csv")

    def _below(self, path: str) -> str:
        return f"{self.base_url.rstrip('/')}/{path}"


@dagster_definitions
def resources() -> Definitions:
    """Every setting comes from the environment; the monorepo's .env.example says what each does."""
    return Definitions(
        resources={
            "tlc": TlcServer(base_url=EnvVar("TLC_BASE_URL"), zones_url=EnvVar("TAXI_ZONES_URL")),
            "landing": LandingStore(folder=EnvVar("LANDING_DIR")),
            "warehouse": Warehouse.from_environment("ingestion"),
        },
        executor=by_plan,
    )
