"""Runs, backfills and an idle platform against plain Dagster: `dagster dev` without any settings.

Both are up side by side: ours from a clone with trivial assets in a location, and `dagster dev` on the same file, with
its own executor, queue, launcher and SQLite. Nothing in these assets takes time, so that the platform is measured.
"""

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.table import Row
from benchmarks.workplace import (
    LOCATIONS,
    PROGRAMS,
    BenchmarkError,
    Dagster,
    clone,
    dagster_dev,
    family,
    folder,
    platform,
    side_by_side,
    wait_for,
    warm,
)

TRIVIAL = PROGRAMS / "trivial.py"
# The location of ours that the trivial assets are put into, and what `dagster dev -f` calls that of the file.
OURS, THEIRS = "analytics", TRIVIAL.name
PLACE_OF_TRIVIAL = f"locations/{OURS}/src/{OURS}/defs/{TRIVIAL.name}"
PARTITIONS = [f"{number:02}" for number in range(1, 37)]
IDLE_SECONDS = 60
# Seconds between two looks at what takes a while: each costs the webserver something, and the record has the times.
PAUSE = 0.25

_STOCK = "stock Dagster"
_BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_BACKFILL_STATE = """query ($id: String!, $tags: [ExecutionTag!]) {
    partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status timestamp endTimestamp } }
    runsOrError(filter: {tags: $tags}, limit: 100) { ... on Runs { results { status endTime } } } }"""
_TICKS = """query ($selector: RepositorySelector!) { sensorsOrError(repositorySelector: $selector) { ... on Sensors {
    results { name sensorState { status ticks(limit: 1) { endTimestamp } } } } }
    runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) { ... on Runs {
    results { runId } } } }"""


def measure(short: bool) -> list[Row]:
    """Rows of runs; in the long form of backfills and of both platforms idle too."""
    with folder() as place:
        repository = trivial_repository(place / "r")
        with platform(repository) as ours:
            with _stock(place / "s", "-f", str(TRIVIAL)) as theirs:
                wait_for(lambda: ours.loaded() >= set(LOCATIONS), "our locations")
                wait_for(lambda: THEIRS in theirs.loaded(), "the location of dagster dev", pause=PAUSE)
                rows = [_run_cpu(ours, theirs, 3)]
                if not short:
                    rows += [_run(ours, theirs, 5), *_backfills(ours, theirs)]
            if not short:
                with _stock(
                    place / "i", "-w", str(workspace(place, repository)), **sensor_settings(ours, place)
                ) as theirs:
                    rows += _idle(ours, theirs)
    return rows


def trivial_repository(target: Path) -> Path:
    """A clone with the trivial assets in a location."""
    warm(clone(target))
    shutil.copy(TRIVIAL, target / PLACE_OF_TRIVIAL)
    return target


@contextmanager
def _stock(home: Path, *target: str, **variables: str) -> Iterator[Dagster]:
    home.mkdir()
    with dagster_dev(home, *target, **variables) as theirs:
        yield theirs


# -- runs -------------------------------------------------------------------------------------------


def _run(ours: Dagster, theirs: Dagster, times: int) -> Row:
    measured = side_by_side(
        lambda: ours.seconds(ours.launch(OURS, "trivial")),
        lambda: theirs.seconds(theirs.launch(THEIRS, "trivial")),
        times,
    )
    return Row("run", "a run that does nothing, from launch to SUCCESS", _STOCK, *measured, "s", 0.3, 0.4)


def _run_cpu(ours: Dagster, theirs: Dagster, times: int) -> Row:
    measured = side_by_side(lambda: _cpu_of_run(ours, OURS), lambda: _cpu_of_run(theirs, THEIRS), times)
    what = "CPU time of such a run, in all processes of the platform"
    return Row("run CPU", what, _STOCK, *measured, "s", 0.5, 0.65)


def _cpu_of_run(dagster: Dagster, location: str) -> float:
    """CPU seconds that a platform takes from the launch of a run until it has ended, with its process."""
    there = {process.pid for process in family(dagster.processes)}
    before = _cpu(dagster)
    run = dagster.launch(location, "trivial")
    dagster.seconds(run)

    def ended() -> bool:
        return not any(_works(process) for process in family(dagster.processes) if process.pid not in there)

    wait_for(ended, f"the end of the process of run {run}")
    return _cpu(dagster) - before


def _works(process: psutil.Process) -> bool:
    """Whether a process that was started for a run has yet to end; connections and multiprocessing's helper stay."""
    with suppress(psutil.Error):
        stays = process.name() == "postgres" or "multiprocessing.resource_tracker" in " ".join(process.cmdline())
        return not stays and process.status() != psutil.STATUS_ZOMBIE
    return False


def _cpu(dagster: Dagster) -> float:
    """CPU seconds of everything that belongs to a platform, also of what has ended: its parent has those."""
    total = 0.0
    for process in family(dagster.processes):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


# -- backfills --------------------------------------------------------------------------------------


def _backfills(ours: Dagster, theirs: Dagster) -> list[Row]:
    stock = _backfill(theirs, THEIRS, "parts")
    one = _backfill(ours, OURS, "parts_in_one_run")
    many = _backfill(ours, OURS, "parts")
    what = f"a backfill of {len(PARTITIONS)} partitions that do nothing, as "
    against = f"{_STOCK}, as {len(PARTITIONS)} runs"
    return [
        Row("backfill in one run", f"{what}one run", against, one, stock, "s", 0.1, 0.15),
        Row("backfill in 36 runs", f"{what}{len(PARTITIONS)} runs", against, many, stock, "s", 0.7, 0.85),
    ]


def _backfill(dagster: Dagster, location: str, asset: str) -> float:
    """Seconds from the request of all partitions until the backfill is through, and the last run of it."""
    launched = dagster.graphql(_BACKFILL, params={"assetSelection": [{"path": [asset]}], "partitionNames": PARTITIONS})[
        "launchPartitionBackfill"
    ]
    if launched["__typename"] != "LaunchBackfillSuccess":
        raise BenchmarkError(f"the backfill of {asset} in {location} was not launched: {launched}")
    backfill = launched["backfillId"]

    def ended() -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        answer = dagster.graphql(_BACKFILL_STATE, id=backfill, tags=[{"key": "dagster/backfill", "value": backfill}])
        state, runs = answer["partitionBackfillOrError"], answer["runsOrError"]["results"]
        # Not that of a run in the queue only: those that are to come count too.
        return (state, runs) if state["status"] not in ("REQUESTED", "CANCELING", "FAILING") else None

    state, runs = wait_for(ended, f"the backfill of {asset}", 900, pause=1) or ({}, [])
    if state["status"] != "COMPLETED_SUCCESS" or any(run["status"] != "SUCCESS" for run in runs):
        raise BenchmarkError(f"the backfill of {asset} ended with {state['status']}: {runs}")
    return float(max([state["endTimestamp"], *(run["endTime"] for run in runs)])) - float(state["timestamp"])


# -- idle -------------------------------------------------------------------------------------------


def workspace(place: Path, repository: Path) -> Path:
    """Our locations, as plain Dagster is told of them."""
    entries = "".join(
        f"  - python_module: {{ module_name: {name}.definitions, location_name: {name},"
        f" executable_path: {repository}/locations/{name}/.venv/bin/python,"
        f" working_directory: {repository}/locations/{name} }}\n"
        for name in LOCATIONS
    )
    file = place / "workspace.yaml"
    file.write_text(f"load_from:\n{entries}", encoding="utf-8")
    return file


def sensor_settings(ours: Dagster, place: Path) -> dict[str, str]:
    """What the locations' sensors need, so that they look at the same in both."""
    (place / "requests").mkdir()
    return {"REQUESTS_DIR": str(place / "requests"), "WEBSERVER_URL": f"http://127.0.0.1:{ours.port}", "ALERTS": ""}


def _idle(ours: Dagster, theirs: Dagster) -> list[Row]:
    both = (ours, theirs)
    for dagster in both:
        wait_for(lambda dagster=dagster: _is_idle(dagster), "an idle platform", pause=PAUSE)  # type: ignore[misc]
    memory = [_memory(dagster) / 2**20 for dagster in both]
    before = [_cpu(dagster) for dagster in both]
    # What is measured is this minute, in which nobody asks for anything.
    time.sleep(IDLE_SECONDS)
    cpu = [_cpu(dagster) - earlier for dagster, earlier in zip(both, before, strict=True)]
    memory = [statistics.mean((first, _memory(dagster) / 2**20)) for first, dagster in zip(memory, both, strict=True)]
    against = "stock `dagster dev`, the same locations"
    return [
        Row("idle memory", "the idle platform, Postgres too (PSS)", against, memory[0], memory[1], "MiB", 1.0, 1.15),
        Row("idle CPU", f"its CPU time in {IDLE_SECONDS} s", against, cpu[0], cpu[1], "s", 1.0, 1.25),
    ]


def _is_idle(dagster: Dagster) -> bool:
    """Whether all locations are loaded, every sensor that is on has looked once, and no run is under way."""
    if dagster.loaded() < set(LOCATIONS):
        return False
    for location in LOCATIONS:
        selector = {"repositoryLocationName": location, "repositoryName": "__repository__"}
        answer = dagster.graphql(_TICKS, selector=selector)
        on = [
            sensor["sensorState"]["ticks"]
            for sensor in answer["sensorsOrError"]["results"]
            if sensor["sensorState"]["status"] == "RUNNING"
        ]
        if answer["runsOrError"]["results"] or not all(ticks and ticks[0]["endTimestamp"] for ticks in on):
            return False
    return True


def _memory(dagster: Dagster) -> float:
    """Bytes of memory; what processes share is counted once."""
    total = 0.0
    for process in family(dagster.processes):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total
