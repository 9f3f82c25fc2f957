"""What the location's assets are given: warehouse with ingestion's lake attached, served folder, executor."""

from dagster import Definitions, EnvVar
from dagster import definitions as dagster_definitions
from taxi_shared.executor import by_step_count
from taxi_shared.warehouse import Warehouse

from analytics.served import ServedFiles


@dagster_definitions
def resources() -> Definitions:
    """Every setting comes from the environment; the monorepo's .env.example says what each does."""
    return Definitions(
        resources={
            "warehouse": Warehouse.from_environment("analytics", reads=["ingestion"]),
            "served": ServedFiles(folder=EnvVar("REPORTS_DIR"), base_url=EnvVar("REPORTS_URL")),
        },
        executor=by_step_count,
    )
