"""What the location's assets are given: warehouse, database of BI tools, folders, executor."""

from dagster import Definitions, EnvVar, in_process_executor
from dagster import definitions as dagster_definitions
from taxi_shared.warehouse import Warehouse

from analytics.defs.requests import RequestFolder
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
            "requests": RequestFolder(folder=EnvVar("REQUESTS_DIR")),
        },
        # A run rebuilds several marts of the same months, each in a second or two, and each with DuckDB's
        # own threads: a process for every step would take longer to start than to work.
        executor=in_process_executor,
    )
