"""What processes are told through variables of the environment, on one machine and in containers alike."""

from pathlib import Path

from codeloc import postgres
from codeloc.home import Home
from codeloc.settings import Settings
from codeloc.workspace import Location


def roles(locations: list[Location]) -> list[str]:
    """Every database role of the platform, its administrator first."""
    return ["postgres", postgres.DAGSTER, postgres.READER, postgres.BI, *(location.name for location in locations)]


def dagster_variables(home: Home, server: postgres.Server, secrets: dict[str, str], instance: Path) -> dict[str, str]:
    """What every process of Dagster needs.

    Parameters
    ----------
    instance
        The folder that dagster.yaml lies in.
    """
    return {
        "DAGSTER_HOME": str(instance),
        "DAGSTER_POSTGRES_URL": server.url(postgres.DAGSTER, postgres.DAGSTER, secrets[postgres.DAGSTER]),
        "DAGSTER_COMPUTE_LOGS": str(home.dagster / "storage"),
        "DAGSTER_ARTIFACTS": str(home.dagster),
    }


def location_variables(
    home: Home,
    settings: Settings,
    location: Location,
    server: postgres.Server,
    secrets: dict[str, str],
    urls: tuple[str, str],
    source: dict[str, str],
) -> dict[str, str]:
    """What a location's processes get besides: its own lake's role, its own files, the source.

    Parameters
    ----------
    urls
        Of the webserver, and of the served reports.
    """
    webserver_url, reports_url = urls
    return {
        "WAREHOUSE_CATALOG": server.connection_string(postgres.WAREHOUSE, location.name, secrets[location.name]),
        "WAREHOUSE_DATA": settings.warehouse_data or str(home.lakes),
        "WAREHOUSE_THREADS": str(settings.warehouse_threads),
        "WAREHOUSE_MEMORY_LIMIT": settings.warehouse_memory_limit,
        "WAREHOUSE_TEMP": str(home.spill),
        "WAREHOUSE_S3_ENDPOINT": settings.warehouse_s3_endpoint,
        "WAREHOUSE_S3_REGION": settings.warehouse_s3_region,
        "WAREHOUSE_S3_ACCESS_KEY_ID": settings.warehouse_s3_access_key_id,
        "WAREHOUSE_S3_SECRET_ACCESS_KEY": settings.warehouse_s3_secret_access_key.get_secret_value(),
        "LANDING_DIR": str(home.location_files(location.name)),
        "REQUESTS_DIR": str(home.requests(location.name)),
        "REPORTS_DIR": str(home.reports),
        "REPORTS_URL": reports_url,
        "WEBSERVER_URL": webserver_url,
        "ALERTS": " ".join(settings.alerts_of(location.name)),
        **source,
    }
