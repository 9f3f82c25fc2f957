"""Fills an empty platform through the queue and the daemon, and waits until the marts have followed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from codeloc.errors import CodelocError
from codeloc.graphql import Webserver
from codeloc.seed import SEED, SeedRun
from codeloc.workspace import Location

_LONGEST_RUN = 3600
_LONGEST_FOLLOWING = 1800


@dataclass(frozen=True)
class Loaded:
    """What was loaded: rows by partition, and how long it took."""

    rows: dict[str, int]
    seconds: float


def fill(webserver: Webserver, locations: list[Location], progress: Callable[[str, int, int], None]) -> Loaded:
    """Load what of the seed is not there yet, and wait for everything that follows from it.

    Parameters
    ----------
    progress
        Told a text, how much of it is done, and how much there is.

    Raises
    ------
    CodelocError
        A run failed, or an asset was not materialized in the end.
    """
    started = time.monotonic()
    _load(webserver, [seed for seed in SEED if not _is_there(webserver, seed)], progress)
    _wait_until_quiet(webserver, locations, progress)
    missing = [asset.key for asset in webserver.assets() if asset.materialized == 0]
    if missing:
        raise CodelocError(
            f"nothing was materialized into {', '.join(missing)}: look at the runs and automation in {webserver.url}"
        )
    partitions = [seed.partition for seed in SEED if seed.partition]
    return Loaded(webserver.partition_rows("raw/taxi_trips", partitions), time.monotonic() - started)


def _is_there(webserver: Webserver, seed: SeedRun) -> bool:
    if seed.partition is None:
        return any(asset.key == seed.asset and asset.materialized for asset in webserver.assets())
    return seed.partition in webserver.partition_rows(seed.asset, [seed.partition])


def _load(webserver: Webserver, missing: list[SeedRun], progress: Callable[[str, int, int], None]) -> None:
    waiting = {webserver.launch(seed.location, seed.job, seed.tags): seed for seed in missing}
    deadline = time.monotonic() + _LONGEST_RUN
    while waiting:
        progress("loading", len(missing) - len(waiting), len(missing))
        for run_id, seed in list(waiting.items()):
            run = webserver.run(run_id)
            if run["status"] == "SUCCESS":
                del waiting[run_id]
            elif run["status"] in ("FAILURE", "CANCELED"):
                retry = _retry_of(run)
                if retry is None:
                    raise CodelocError(
                        f"{seed.job} {seed.partition or ''} ended as {run['status']}: see why at"
                        f" {webserver.url}/runs/{run_id}\nThen run ./codeloc up again: it loads what is missing."
                    )
                del waiting[run_id]
                waiting[retry] = seed
        if time.monotonic() > deadline:
            raise CodelocError(f"{len(waiting)} runs are not done after {_LONGEST_RUN} s: see {webserver.url}/runs")
        time.sleep(0.5)
    progress("loading", len(missing), len(missing))


def _retry_of(run: dict[str, object]) -> str | None:
    tags = run["tags"]
    if not isinstance(tags, list):
        return None
    found = {tag["key"]: tag["value"] for tag in tags}
    return found.get("dagster/auto_retry_run_id")


def _wait_until_quiet(
    webserver: Webserver, locations: list[Location], progress: Callable[[str, int, int], None]
) -> None:
    """Wait until nothing runs and every automation sensor has looked since and asked for nothing."""
    deadline = time.monotonic() + _LONGEST_FOLLOWING
    quiet_since: float | None = None
    while True:
        active = len(webserver.active_runs()) + len(webserver.active_backfills())
        if active:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.time()
        elif all(
            _looked_and_asked_for_nothing(sensor, quiet_since)
            for location in locations
            for sensor in webserver.automation_sensors(location.name)
        ):
            return
        assets = webserver.assets()
        progress("following", sum(1 for asset in assets if asset.materialized), len(assets))
        if time.monotonic() > deadline:
            raise CodelocError(f"still not done after {_LONGEST_FOLLOWING} s: see {webserver.url}/runs")
        time.sleep(1)


def _looked_and_asked_for_nothing(sensor: dict[str, object], since: float) -> bool:
    state = sensor["sensorState"]
    ticks = state["ticks"] if isinstance(state, dict) else []
    if not ticks:
        return False
    tick = ticks[0]
    return bool(tick["timestamp"] >= since and tick["status"] == "SKIPPED")
