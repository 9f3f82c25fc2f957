"""Tells an asset's owner that a run failed: by e-mail, chat or webhook, whichever address the team has.

Each location has the sensor for its own runs, rather than one location for all: whatever becomes of the others, of
their code or of the team that owned the one sensor, a team still hears of its own failures. Apprise speaks to the
channels; addresses are settings of the deployment (`ALERTS`).
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    JsonMetadataValue,
    RepositoryDefinition,
    RunFailureSensorContext,
    RunsFilter,
    SensorDefinition,
    run_failure_sensor,
)

SETTING: Final = "ALERTS"
UI_ADDRESS: Final = "WEBSERVER_URL"
EVERYBODY: Final = "*"
QUIET: Final = 6 * 60 * 60
"""Seconds in which the same failure is told once, unless it was mended in between."""
FAILED_PARTITIONS: Final = "failed_partitions"
"""Metadata of a Failure: those of the run's partitions that it is about, as a list in JSON."""
CAUSE: Final = "cause"
"""Metadata of a Failure that follows from another one: what that is of. It is told once, whatever it is that fails."""
# Seconds between two tries to tell somebody; a tick of a sensor may take a minute.
_WAITS: Final = (2, 8)
# Assets, or partitions, that a mail's subject names.
_NAMED: Final = 3
_WILL_RETRY: Final = "dagster/will_retry"
_PARTITION: Final = "dagster/partition"
_RANGE: Final = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


class AlertError(Exception):
    """A failure could not be told; the message says to whom and why."""


@dataclass(frozen=True)
class Alert:
    """What is told of a run that failed.

    Attributes
    ----------
    assets
        What the run was to make and did not.
    partitions
        Those that failed, as far as is known; nothing: the assets have none.
    checks
        Those that did not pass, as asset and name, with what they say.
    cause
        Of what it follows from, where it is no failure of its own.
    """

    location: str
    job: str
    run_id: str
    owners: tuple[str, ...]
    assets: tuple[str, ...]
    partitions: tuple[str, ...]
    checks: Mapping[str, str]
    error: str
    link: str
    cause: str = ""

    @property
    def title(self) -> str:
        """The subject of a mail: what failed, or whose check did."""
        checked = tuple(asset for asset in self.assets if any(name.startswith(f"{asset}.") for name in self.checks))
        what = _short(checked or self.assets) or self.job
        return f"[{self.location}] {what} failed" + (f" for {_short(self.partitions)}" if self.partitions else "")

    @property
    def body(self) -> str:
        """What a person needs to know to begin."""
        lines = [
            f"Location: {self.location}",
            f"Job: {self.job}",
            *([f"Asset: {', '.join(self.assets)}"] if self.assets else []),
            *([f"Partition: {', '.join(self.partitions)}"] if self.partitions else []),
            *(f"Check {name}: {text}" for name, text in self.checks.items()),
            f"Error: {self.error}",
            f"Run: {self.link}",
        ]
        return "\n".join(lines)

    @property
    def fingerprint(self) -> str:
        """The same for two failures that are one to a person: another run of the same thing that breaks alike."""
        if self.cause:
            return hashlib.sha256(f"{self.location}\n{self.cause}".encode()).hexdigest()[:16]
        # Numbers differ from run to run: of bytes, of processes, of temporary folders.
        error = re.sub(r"[0-9a-f]{8,}|\d+", "#", self.error)
        parts = [self.location, self.job, *self.assets, *self.partitions, *sorted(self.checks), error]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def failure_alerts(location: str) -> SensorDefinition:
    """The sensor that tells of a location's failed runs.

    Parameters
    ----------
    location
        Its name, which is also its team's.
    """

    @run_failure_sensor(
        name=f"{location}_failure_alerts",
        minimum_interval_seconds=10,
        default_status=DefaultSensorStatus.RUNNING,
        description="Tells the owner of an asset that its run failed: which partition, which check, and why."
        f" To the addresses in {SETTING}.",
    )
    def tell(context: RunFailureSensorContext) -> None:
        run = context.dagster_run
        if run.tags.get(_WILL_RETRY) == "true":
            context.log.info("run %s is tried again by itself", run.run_id)
            return
        repository = context.repository_def
        if repository is None:
            raise AlertError("Dagster did not say whose runs these are")
        alert = describe(context.instance, run, repository, location)
        addresses = addresses_of(os.environ.get(SETTING, ""), alert.owners)
        if not addresses:
            context.log.info("%s names no address for %s", SETTING, ", ".join(alert.owners))
            return
        remembered = _Remembered(context.instance, location)
        told = remembered.told(alert.fingerprint)
        if told is not None and not _was_mended(context.instance, run, alert, told):
            context.log.info("%s was told already", alert.title)
            return
        send(alert, addresses)
        remembered.tell(alert.fingerprint)
        context.log.info("told %s: %s", ", ".join(alert.owners), alert.title)

    return tell


def describe(instance: DagsterInstance, run: DagsterRun, repository: RepositoryDefinition, location: str) -> Alert:
    """What there is to tell of a run that failed."""
    checks: dict[str, str] = {}
    error = "the run's process ended without a word; its log in the UI may say more"
    kinds = {DagsterEventType.ASSET_CHECK_EVALUATION, DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    failed_assets: list[AssetKey] = []
    partitions = _partitions_of(run)
    follows_from = ""
    step_failed = False
    for entry in instance.all_logs(run.run_id, of_type=kinds):
        event = entry.get_dagster_event()
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed:
                name = f"{evaluation.asset_key.to_user_string()}.{evaluation.check_name}"
                checks[name] = evaluation.description or "did not pass"
        elif event.event_type == DagsterEventType.STEP_FAILURE:
            failure = event.step_failure_data
            said = failure.user_failure_data.description if failure.user_failure_data else None
            cause = failure.error.cause or failure.error if failure.error else None
            error = (said or (cause.message if cause else "") or error).strip()
            metadata = failure.user_failure_data.metadata if failure.user_failure_data else {}
            known, of = metadata.get(FAILED_PARTITIONS), metadata.get(CAUSE)
            if isinstance(known, JsonMetadataValue) and isinstance(known.data, list):
                partitions = tuple(map(str, known.data))
            follows_from = str(of.value) if of is not None else ""
            step_failed = True
            if event.node_handle is not None:
                failed_assets += _assets_of(repository, event.node_handle.root.name)
        elif not step_failed and entry.message:
            error = entry.message.strip()
    selected = run.asset_selection or frozenset()
    assets = sorted(key for key in failed_assets if not selected or key in selected) or sorted(selected)
    owners = dict.fromkeys(owner for key in assets for owner in _owners_of(repository, key))
    return Alert(
        location=location,
        job=run.job_name,
        run_id=run.run_id,
        owners=tuple(owner.removeprefix("team:") for owner in owners) or (location,),
        assets=tuple(key.to_user_string() for key in assets),
        partitions=partitions,
        checks=checks,
        error=error,
        link=f"{os.environ.get(UI_ADDRESS, '').rstrip('/')}/runs/{run.run_id}",
        cause=follows_from,
    )


def _partitions_of(run: DagsterRun) -> tuple[str, ...]:
    """A run's partition; of a range the first and the last, where these differ."""
    if _PARTITION in run.tags:
        return (run.tags[_PARTITION],)
    first, last = (run.tags.get(tag) for tag in _RANGE)
    if first is None or last is None:
        return ()
    return (first,) if first == last else (f"{first} to {last}",)


def _was_mended(instance: DagsterInstance, run: DagsterRun, alert: Alert, since: float) -> bool:
    """Whether what failed was made since it was told, so that it failing again is news."""
    if not alert.assets:
        ended = RunsFilter(
            job_name=run.job_name,
            statuses=[DagsterRunStatus.SUCCESS],
            updated_after=datetime.fromtimestamp(since, UTC),
        )
        return instance.get_runs_count(ended) > 0
    # All of them: a run that fails halfway has made some, each time.
    return all(
        instance.fetch_materializations(
            AssetRecordsFilter(
                asset_key=AssetKey.from_user_string(asset),
                # A range is no partition: then any of the asset's counts.
                asset_partitions=[p for p in alert.partitions if " to " not in p] or None,
                after_timestamp=since,
            ),
            limit=1,
        ).records
        for asset in alert.assets
    )


def addresses_of(setting: str, owners: tuple[str, ...]) -> list[str]:
    """Where owners are told things.

    Parameters
    ----------
    setting
        `team=address` for a team and `address` for everybody, with spaces between them. Addresses are Apprise's.
    """
    found: dict[str, None] = {}
    for word in setting.split():
        team, sign, address = word.partition("=")
        if not sign or "://" in team:
            team, address = EVERYBODY, word
        if team == EVERYBODY or team in owners:
            found[address] = None
    return list(found)


def send(alert: Alert, addresses: list[str]) -> None:
    """Tell it to every address, again where that fails.

    Raises
    ------
    AlertError
        An address is none, or nobody could be reached there.
    """
    # Deferred: it brings a hundred services along.
    import apprise

    failed = []
    for address in addresses:
        messenger = apprise.Apprise()
        if not messenger.add(address):
            failed.append(f"{_masked(address)} is not an address of Apprise's")
            continue
        with apprise.LogCapture(level=logging.WARNING) as said:  # type: ignore[no-untyped-call]
            for wait in (*_WAITS, None):
                if messenger.notify(title=alert.title, body=alert.body, notify_type=apprise.NotifyType.FAILURE):
                    break
                if wait is not None:
                    time.sleep(wait)
            else:
                failed.append(f"{_masked(address)} cannot be reached: {' '.join(said.getvalue().split())}")
    if failed:
        raise AlertError(f"not told: {alert.title}. {'; '.join(failed)}. Check {SETTING}.")


class _Remembered:
    """What was told lately, in Dagster's own storage: a sensor of failed runs has no cursor of its own to use."""

    def __init__(self, instance: DagsterInstance, location: str) -> None:
        self._storage = instance.daemon_cursor_storage
        self._key = f"codeloc/alerts/{location}"
        text = self._storage.get_cursor_values({self._key}).get(self._key, "{}")
        self._told: dict[str, float] = {
            fingerprint: told for fingerprint, told in json.loads(text).items() if told > time.time() - QUIET
        }

    def told(self, fingerprint: str) -> float | None:
        """When it was told, in seconds since 1970; None: not lately."""
        return self._told.get(fingerprint)

    def tell(self, fingerprint: str) -> None:
        self._told[fingerprint] = time.time()
        self._storage.set_cursor_values({self._key: json.dumps(self._told)})


def _assets_of(repository: RepositoryDefinition, op: str) -> Iterator[AssetKey]:
    for assets in repository.assets_defs_by_key.values():
        if assets.is_executable and assets.node_def.name == op:
            yield from assets.keys
            return


def _owners_of(repository: RepositoryDefinition, key: AssetKey) -> list[str]:
    definition: Any = repository.assets_defs_by_key.get(key)
    return list(definition.get_asset_spec(key).owners) if definition is not None else []


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _masked(address: str) -> str:
    """An address without what may be a password."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition("@")[2].split("/")[0].split("?")[0]
    return f"{scheme}://{host}"
