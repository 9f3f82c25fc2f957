"""What every asset of every location must carry, so that a person can find their way in the UI.

Each location's test calls `violations` on its own definitions; a new location gets the same test.
"""

from collections.abc import Iterator

from dagster import AssetSpec, Definitions
from dagster._core.definitions.assets.definition.asset_spec import SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET

OWNER_PREFIX = "team:"


def violations(definitions: Definitions, location: str) -> list[str]:
    """Everything in `definitions` that breaks a convention, as sentences that name asset or job.

    Parameters
    ----------
    definitions
        A location's definitions.
    location
        The location's name, which is also its team's.
    """
    return [
        *(problem for spec in definitions.resolve_all_asset_specs() for problem in _asset(spec, location)),
        *_automation(definitions),
    ]


def _asset(spec: AssetSpec, location: str) -> Iterator[str]:
    if SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET in spec.metadata:
        return  # another location's: Dagster's stand-in for what an asset here depends on
    name = spec.key.to_user_string()
    if list(spec.owners) != [f"{OWNER_PREFIX}{location}"]:
        yield f"{name}: owners must be ['{OWNER_PREFIX}{location}'], the team of this location"
    if spec.group_name in (None, "default"):
        yield f"{name}: has no group"
    if not spec.kinds:
        yield f"{name}: has no kinds (for example 'duckdb', 'parquet')"
    if not (spec.description or "").strip():
        yield f"{name}: has no description"
    if len(spec.key.path) != 2:
        yield f"{name}: the key must be schema and name, for example raw/taxi_trips"


def _automation(definitions: Definitions) -> Iterator[str]:
    repository = definitions.get_repository_def()
    for job in repository.get_all_jobs():
        if not job.name.startswith("__") and not (job.description or "").strip():
            yield f"job {job.name}: has no description"
    for schedule in repository.schedule_defs:
        if not (schedule.description or "").strip():
            yield f"schedule {schedule.name}: has no description"
    for sensor in repository.sensor_defs:
        if not (sensor.description or "").strip():
            yield f"sensor {sensor.name}: has no description"
