"""Which code made a table: the release that this process runs, on everything that it materializes.

Dagster's own code version of an asset would show every asset as out of date after each deploy, whether it changed
or not; and nothing in Dagster lays metadata over all materializations of a location.
"""

import os
from collections.abc import Mapping
from typing import Any

from dagster import AssetKey
from dagster._core.execution.context.system import StepExecutionContext

_SOURCES = {"codeloc/version": "CODELOC_VERSION", "codeloc/image_id": "CODELOC_IMAGE"}


def release_metadata() -> dict[str, str]:
    """The version of the code that this process runs, and the id of its image; empty outside of a platform."""
    return {label: value for label, variable in _SOURCES.items() if (value := os.environ.get(variable))}


def stamp_materializations() -> None:
    """Have every materialization of this process carry `release_metadata`."""
    given = StepExecutionContext.get_asset_metadata

    def with_release(
        context: StepExecutionContext, asset_key: AssetKey, partition_key: str | None = None
    ) -> Mapping[str, Any]:
        # What is of no partition stands on the materialization of each.
        common = release_metadata() if partition_key is None else {}
        return {**common, **(given(context, asset_key, partition_key) or {})}

    StepExecutionContext.get_asset_metadata = with_release  # type: ignore[method-assign,assignment]
