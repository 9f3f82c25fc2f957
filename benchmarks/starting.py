"""How long a person waits for a start, and for an edit to be served, against the same with `dagster dev`.

And what it costs a process to load a location's definitions, which each run does anew, against Dagster alone.
"""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx

from benchmarks.stock import OURS, PLACE_OF_TRIVIAL, TRIVIAL, sensor_settings, trivial_repository, workspace
from benchmarks.table import Row
from benchmarks.workplace import (
    LOCATIONS,
    PROGRAMS,
    ROOT,
    BenchmarkError,
    Dagster,
    dagster_dev,
    environment,
    folder,
    platform,
    python,
    side_by_side,
    wait_for,
)

EMPTY = "from dagster import Definitions\n\ndefs = Definitions()\n"
# Seconds between two looks at a server that starts: they cost it something.
PAUSE = 0.1

_DESCRIPTION = '{ assetNodeOrError(assetKey: {path: ["trivial"]}) { ... on AssetNode { description } } }'


def measure(short: bool) -> list[Row]:
    """Rows of imports; in the long form of `up` and of edits too."""
    rows = [_import(location, 3 if short else 5) for location in LOCATIONS]
    return rows if short else [*rows, _up(3), _edit(3)]


# -- imports ----------------------------------------------------------------------------------------


def _import(location: str, times: int) -> Row:
    building = [python(location), str(PROGRAMS / "building.py"), location]
    plain = [python(location), "-c", "import dagster"]
    # Whatever there is to compile is compiled here.
    for command in (building, plain):
        _cpu_of(command, ROOT / "locations" / location)
    measured = side_by_side(
        lambda: _cpu_of(building, ROOT / "locations" / location),
        lambda: _cpu_of(plain, ROOT / "locations" / location),
        times,
    )
    what = f"CPU time to import and build the definitions of {location}"
    return Row(f"import {location}", what, "`import dagster` alone", *measured, "s", 1.3, 1.5)


def _cpu_of(command: list[str], place: Path) -> float:
    """CPU seconds of a process, from its start to its end."""
    with subprocess.Popen(command, cwd=place, env=environment(), stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime


# -- up ---------------------------------------------------------------------------------------------


def _up(times: int) -> Row:
    with folder() as place:
        target = place / "empty.py"
        target.write_text(EMPTY, encoding="utf-8")
        # Both were up before: databases are made, and everything was compiled.
        with platform() as ours:
            _plain_start(place, target)
            measured = side_by_side(lambda: _our_start(ours), lambda: _plain_start(place, target), times)
    what = "`./codeloc up` of a platform that was up before, until it returns with both locations loaded"
    return Row("up", what, "`dagster dev` on an empty location, until that is loaded", *measured, "s", 1.5, 2.0)


def _our_start(ours: Dagster) -> float:
    _codeloc(ROOT, "down", ours.home)
    began = time.monotonic()
    _codeloc(ROOT, "up", ours.home, "--empty", "--port", str(ours.port))
    took = time.monotonic() - began
    if not ours.loaded() >= set(LOCATIONS):
        raise BenchmarkError("./codeloc up returned before both locations were loaded")
    return took


def _plain_start(home: Path, target: Path) -> float:
    began = time.monotonic()
    with dagster_dev(home, "-f", str(target)) as theirs:
        wait_for(lambda: target.name in theirs.loaded(), "the empty location", pause=PAUSE)
        return time.monotonic() - began


def _codeloc(repository: Path, command: str, home: Path, *words: str) -> None:
    done = subprocess.run(
        [str(repository / "codeloc"), command, *words, "--home", str(home)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"./codeloc {command} failed:\n{done.stdout}\n{done.stderr}")


# -- edits ------------------------------------------------------------------------------------------


def _edit(times: int) -> Row:
    with folder() as place:
        repository = trivial_repository(place / "r")
        target, home = workspace(place, repository), place / "s"
        home.mkdir()
        with platform(repository) as ours:
            settings = sensor_settings(ours, place)
            measured = side_by_side(
                lambda: _reload(ours, repository), lambda: _restart(home, target, repository, settings), times
            )
    what = f"an edit of {OURS}, by `./codeloc reload`, until the webserver serves it"
    return Row("edit", what, "restart of `dagster dev` with the same locations", *measured, "s", 0.3, 0.45)


def _edited(repository: Path) -> str:
    """Describe an asset of the location as it never was before; the description."""
    description = f"Nothing, as of {time.time_ns()}."
    source = TRIVIAL.read_text(encoding="utf-8").replace("Nothing.", description)
    (repository / PLACE_OF_TRIVIAL).write_text(source, encoding="utf-8")
    return description


def _serves(dagster: Dagster, description: str) -> bool:
    with suppress(httpx.HTTPError, ValueError):
        return bool(dagster.graphql(_DESCRIPTION)["assetNodeOrError"].get("description") == description)
    return False


def _reload(ours: Dagster, repository: Path) -> float:
    description = _edited(repository)
    began = time.monotonic()
    with subprocess.Popen(
        [str(repository / "codeloc"), "reload", OURS, "--home", str(ours.home)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as command:
        wait_for(
            lambda: _serves(ours, description) or command.poll() not in (None, 0), "the edit to be served", pause=PAUSE
        )
        took = time.monotonic() - began
        told, _ = command.communicate()
    if command.returncode:
        raise BenchmarkError(f"./codeloc reload failed:\n{told}")
    return took


def _restart(home: Path, target: Path, repository: Path, settings: dict[str, str]) -> float:
    former = _edited(repository)
    with dagster_dev(home, "-w", str(target), **settings) as before:
        wait_for(lambda: _serves(before, former), "dagster dev", pause=PAUSE)
        description = _edited(repository)
        began = time.monotonic()
    with dagster_dev(home, "-w", str(target), **settings) as after:
        wait_for(lambda: _serves(after, description), "the edit to be served", pause=PAUSE)
        return time.monotonic() - began
