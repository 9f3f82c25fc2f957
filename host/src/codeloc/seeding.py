"""Fills an empty platform through the queue and the daemon, and waits until the marts have followed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from codeloc.errors import CodelocError
from codeloc.graphql import Webserver
from codeloc.runs import FollowedRun
from codeloc.seed import FOLLOWING, SEED, SeedRun

_LONGEST_RUN = 3600
_LONGEST_FOLLOWING = 1800


@dataclass(frozen=True)
class Loaded:
    """What there is now: rows by partition; and how many runs it took, in how many seconds."""

    rows: dict[str, int]
    runs: int
    seconds: float


def fill(
    webserver: Webserver,
    base_url: str,
    require_all: Callable[[], None],
    progress: Callable[[str, int, int], None],
) -> Loaded:
    """Load what of the seed is not there from this source yet, and wait for what follows from it.

    Parameters
    ----------
    base_url
        Address of the source; months that were loaded from another one are loaded again.
    require_all
        Raises when a process of the platform is gone for good.
    progress
        Told a text, how much of it is done, and how much there is.

    Raises
    ------
    CodelocError
        A run failed, or an asset was not materialized in the end.
    """
    started = time.monotonic()
    missing = [run for seed in SEED for run in _missing(webserver, seed, base_url)]
    _load(webserver, missing, require_all, progress)
    if missing or _not_materialized(webserver, FOLLOWING):
        _wait_until_quiet(webserver, require_all, progress)
    wanting = _not_materialized(webserver, (*(seed.asset for seed in SEED), *FOLLOWING))
    if wanting:
        raise CodelocError(
            f"nothing was materialized into {', '.join(wanting)}: look at the runs and automation in {webserver.url}"
        )
    rows = {
        str(partition): int(values.get("rows_kept") or 0)
        for seed in SEED
        if seed.partitions
        for partition, values in webserver.newest(seed.asset, list(seed.partitions)).items()
    }
    return Loaded(rows, len(missing), time.monotonic() - started)


def _missing(webserver: Webserver, seed: SeedRun, base_url: str) -> list[SeedRun]:
    """The runs that bring what of the seed is not there from this source."""
    newest = webserver.newest(seed.asset, list(seed.partitions) or None)
    wanted: tuple[str | None, ...] = seed.partitions or (None,)
    missing = [key for key in wanted if not str(newest.get(key, {}).get("source")).startswith(f"{base_url}/")]
    if len(missing) == len(wanted):
        return [seed]
    return [replace(seed, partitions=(key,)) for key in missing if key is not None]


def _not_materialized(webserver: Webserver, keys: tuple[str, ...]) -> list[str]:
    there = {asset.key for asset in webserver.assets() if asset.materialized}
    return sorted(set(keys) - there)


def _load(
    webserver: Webserver,
    missing: list[SeedRun],
    require_all: Callable[[], None],
    progress: Callable[[str, int, int], None],
) -> None:
    waiting = {FollowedRun(webserver, webserver.launch(seed.location, seed.job, seed.tags)): seed for seed in missing}
    deadline = time.monotonic() + _LONGEST_RUN
    while waiting:
        progress("loading", len(missing) - len(waiting), len(missing))
        for run, seed in list(waiting.items()):
            status = run.end()
            if status == "SUCCESS":
                del waiting[run]
            elif status is not None:
                raise CodelocError(
                    f"{seed.job} {', '.join(seed.partitions)} ended as {status}: see why at {run.url}"
                    "\nThe platform is up; the same command again loads what is missing."
                )
        if time.monotonic() > deadline:
            raise CodelocError(f"{len(waiting)} runs are not done after {_LONGEST_RUN} s: see {webserver.url}/runs")
        require_all()
        time.sleep(0.5)
    if missing:
        progress("loading", len(missing), len(missing))


def _wait_until_quiet(
    webserver: Webserver, require_all: Callable[[], None], progress: Callable[[str, int, int], None]
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
            for location in webserver.locations()
            for sensor in webserver.automation_sensors(location.name)
        ):
            return
        progress("following", len(FOLLOWING) - len(_not_materialized(webserver, FOLLOWING)), len(FOLLOWING))
        if time.monotonic() > deadline:
            raise CodelocError(f"still not done after {_LONGEST_FOLLOWING} s: see {webserver.url}/runs")
        require_all()
        time.sleep(1)


def _looked_and_asked_for_nothing(sensor: dict[str, object], since: float) -> bool:
    state = sensor["sensorState"]
    ticks = state["ticks"] if isinstance(state, dict) else []
    if not ticks:
        return False
    tick = ticks[0]
    return bool(tick["timestamp"] >= since and tick["status"] == "SKIPPED")
