"""Keeps the location's lake small."""

from dagster import Definitions
from dagster import definitions as dagster_definitions
from taxi_shared.maintenance import lake_maintenance


@dagster_definitions
def maintenance() -> Definitions:
    """An asset, a job and a schedule."""
    return lake_maintenance("ingestion")
