"""What the location's assets are given: the warehouse with ingestion's lake attached, folders, the executor."""

from dagster import Definitions, EnvVar
from dagster import definitions as dagster_definitions
from taxi_shared.executor import by_step_count
from taxi_shared.warehouse import Warehouse

from analytics.defs.requests import RequestFolder
from analytics.served import ServedFiles


@dagster_definitions
def resources() -> Definitions:
    """Every setting comes from the environment; the monorepo's .env.example says what each does."""
    return Definitions(
        resources={
            "warehouse": Warehouse.from_environment("analytics", reads=["ingestion"]),
            "served": ServedFiles(folder=EnvVar("REPORTS_DIR"), base_url=EnvVar("REPORTS_URL")),
            "requests": RequestFolder(folder=EnvVar("REQUESTS_DIR")),
        },
        executor=by_step_count,
    )
