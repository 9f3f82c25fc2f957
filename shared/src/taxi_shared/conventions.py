"""What every asset of every location must carry, so that a person can find their way in the UI.

Each location's test calls `violations` on its own definitions; a new location gets the same test.
"""

from collections.abc import Iterator

from dagster import AssetKey, AssetSpec, Definitions
from dagster._core.definitions.assets.definition.asset_spec import SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET

from taxi_shared.contracts import contract, tables

OWNER_PREFIX = "team:"
NO_CONTRACT = "no_contract"
"""Key of an asset's metadata: why it has no contract."""


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
        *_checks(definitions),
        *_made_by_nobody(definitions),
        *_automation(definitions),
        *_alerts(definitions, location),
    ]


def _asset(spec: AssetSpec, location: str) -> Iterator[str]:
    if _is_of_another(spec):
        return
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
    yield from _contract(spec, name)


def _is_of_another(spec: AssetSpec) -> bool:
    """Whether it is Dagster's stand-in for another location's asset that one here depends on."""
    return SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET in spec.metadata


def _contract(spec: AssetSpec, name: str) -> Iterator[str]:
    if "contract" in spec.metadata:
        if spec.freshness_policy is None and spec.key.path[0] != "bi":
            yield f"{name}: has a contract and no freshness_policy: its contract has one (TableContract.freshness)"
    elif not spec.metadata.get(NO_CONTRACT):
        yield (
            f"{name}: has neither a contract in its metadata (TableContract.asset_metadata) nor a reason for none"
            f" ({NO_CONTRACT!r})"
        )


def _made_by_nobody(definitions: Definitions) -> Iterator[str]:
    """An asset is made by automation or by a job; those that are made in one step are made together."""
    repository = definitions.get_repository_def()
    in_jobs = {
        key
        for job in repository.get_all_jobs()
        if not job.name.startswith("__")
        for key in job.asset_layer.selected_asset_keys
    }
    for assets in set(repository.assets_defs_by_key.values()):
        automated = any(spec.automation_condition for spec in assets.specs)
        if assets.is_executable and not automated and not assets.keys & in_jobs:
            names = ", ".join(sorted(key.to_user_string() for key in assets.keys))
            yield f"{names}: neither automation nor a job makes it"


def _checks(definitions: Definitions) -> Iterator[str]:
    """An asset that promises rules of its rows shows a check for each kind of them."""
    checked: dict[AssetKey, set[str]] = {}
    for check in definitions.get_repository_def().asset_graph.asset_check_keys:
        checked.setdefault(check.asset_key, set()).add(check.name)
    own = {spec.key for spec in definitions.resolve_all_asset_specs() if not _is_of_another(spec)}
    for table in map(contract, tables()):
        if table.asset_key in own:
            for dimension in sorted({rule.dimension for rule in table.rules} - checked.get(table.asset_key, set())):
                yield (
                    f"{table.asset_key.to_user_string()}: its contract has rules of the kind {dimension}, and the asset"
                    " no such check (taxi_shared.quality.check_specs)"
                )


def _alerts(definitions: Definitions, location: str) -> Iterator[str]:
    name = f"{location}_failure_alerts"
    if name not in {sensor.name for sensor in definitions.get_repository_def().sensor_defs}:
        yield f"there is no sensor {name}: taxi_shared.alerts.failure_alerts({location!r}) makes it"


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
