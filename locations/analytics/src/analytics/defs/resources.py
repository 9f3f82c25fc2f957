"""What the location's assets are given: warehouse, served folder, database of BI tools, executor."""

from dagster import Definitions, EnvVar
from dagster import definitions as dagster_definitions
from taxi_shared.executor import by_step_count
from taxi_shared.warehouse import Warehouse

from analytics.publishing import BiDatabase
from analytics.served import ServedFiles


@dagster_definitions
def resources() -> Definitions:
    """Every setting comes from the environment; the monorepo's .env.example says what each does."""
    return Definitions(
        resources={
            "warehouse": Warehouse.from_environment("analytics", reads=["ingestion"]),
            # The marts' tables for BI tools lie in the database of the catalogs, in a schema of the same role.
            "bi_database": BiDatabase(connection_string=EnvVar("WAREHOUSE_CATALOG")),
            "served": ServedFiles(folder=EnvVar("REPORTS_DIR"), base_url=EnvVar("REPORTS_URL")),
        },
        executor=by_step_count,
    )
