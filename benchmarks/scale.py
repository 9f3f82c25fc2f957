"""How cost grows with locations, with partitions, and with the history of runs: curves, where others have ratios."""

import json
import shlex
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from os import link
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from benchmarks.workplace import (
    PROGRAMS,
    ROOT,
    BenchmarkError,
    Dagster,
    clone,
    environment,
    folder,
    platform,
    program,
    wait_for,
    warm,
)

# For how long an idle platform is looked at.
IDLE_SECONDS = 60
TIMES = 5
COMMAND = ROOT / "codeloc"


@dataclass(frozen=True)
class Cost:
    """A figure and its unit."""

    figure: float
    unit: str

    def __str__(self) -> str:
        """As it is shown."""
        shown = f"{self.figure:,.0f}" if self.figure >= 100 else f"{self.figure:.3g}"
        return f"{shown} {self.unit}".strip()


@dataclass(frozen=True)
class Point:
    """What things cost at one size."""

    size: int
    costs: dict[str, Cost]


@dataclass(frozen=True)
class Curve:
    """What grows, how it was made to, and what that costs."""

    name: str
    unit: str
    made: str
    points: list[Point]


def measure(short: bool) -> list[Curve]:
    """Every curve; `short`: its small sizes only."""
    return [locations(short), partitions(short), history(short)]


def markdown(curves: Iterable[Curve]) -> str:
    """The curves as RESULTS.md has them."""
    parts = []
    for curve in curves:
        lines: list[tuple[str, ...]] = [
            ("", *(f"{point.size:,} {curve.unit}" for point in curve.points)),
            ("---", *("--:" for _ in curve.points)),
        ]
        for what in dict.fromkeys(what for point in curve.points for what in point.costs):
            costs = [point.costs.get(what) for point in curve.points]
            lines.append((what, *(str(cost) if cost else "" for cost in costs)))
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        parts.append(f"#### {curve.name}\n\n{curve.made}\n\n{table}")
    return "\n".join(parts)


# -- locations ------------------------------------------------------------------------------------

# What the UI's graph of all assets shows of each, and what it asks again and again of those it shows.
_GRAPH = """{ repositoriesOrError { ... on RepositoryConnection { nodes { id name location { name } assetNodes {
    id assetKey { path } groupName kinds owners { __typename } description isPartitioned isMaterializable jobNames
    dependencyKeys { path } dependedByKeys { path } } } } } }"""
_KEYS = "{ assetNodes { assetKey { path } } }"
_LIVE = """query ($keys: [AssetKeyInput!]!) {
    assetNodes(assetKeys: $keys, loadMaterializations: true) { id assetKey { path }
        assetMaterializations(limit: 1) { timestamp runId } partitionStats { numMaterialized numFailed numPartitions } }
    assetsLatestInfo(assetKeys: $keys) { id latestRun { id status } inProgressRunIds } }"""
_SENSOR = """query ($it: SensorSelector!, $limit: Int!) { sensorOrError(sensorSelector: $it) { ... on Sensor {
    sensorState { ticks(limit: $limit) { timestamp endTimestamp status } } } } }"""


def locations(short: bool) -> Curve:
    """Ours, and ever more that `./codeloc new` made."""
    points: list[Point] = []
    with folder() as work:
        repository = warm(clone(work / "r"))
        made: list[str] = []
        for size in (2,) if short else (2, 10, 50):
            new = [f"team{number}" for number in range(len(made) + 1, size + 1)]
            for name in new:
                _run([str(repository / "codeloc"), "new", name])
            if made:
                _lend_environment(repository, made[0], new)
            made += new
            began = time.monotonic()
            with platform(repository) as ours:
                started = time.monotonic() - began
                first = {"first `./codeloc up`, empty": Cost(started, "s")}
                points.append(Point(size, first | _of_locations(ours, made)))
    return Curve(
        "Locations",
        "scaffolded",
        "Beside our two, with one webserver and one daemon: made by `./codeloc new`, brought up by `./codeloc up`, each"
        " with its code server and the sensor that it is scaffolded with. Simulated: the environments of the third and"
        " further ones are links to the files of the first one's (as uv's are to those of its cache, except for the"
        " bytecode).",
        points,
    )


def _lend_environment(repository: Path, model: str, names: list[str]) -> None:
    """Give locations the environment of one with the same lock, where uv would take a quarter of a minute for each."""
    for name in names:
        shutil.copytree(
            repository / "locations" / model / ".venv",
            repository / "locations" / name / ".venv",
            symlinks=True,
            copy_function=link,
            ignore=shutil.ignore_patterns("made-from"),
        )
    stamp = """
import sys
from pathlib import Path
from codeloc.environments import _fingerprint, _stamp_file
for folder in map(Path, sys.argv[1:]):
    _stamp_file(folder).write_text(_fingerprint(folder), encoding="utf-8")
"""
    folders = [str(repository / "locations" / name) for name in names]
    _run([str(repository / "host" / ".venv" / "bin" / "python"), "-c", stamp, *folders])


def _of_locations(ours: Dagster, scaffolded: list[str]) -> dict[str, Cost]:
    expected = {"ingestion", "analytics", *scaffolded}
    wait_for(lambda: ours.loaded() == expected, "every location to be loaded", pause=0.25)
    loading = _seconds_to_load(ours, expected)
    keys = [node["assetKey"] for node in ours.graphql(_KEYS)["assetNodes"]]
    costs = {
        "webserver started anew, until all are LOADED": Cost(loading, "s"),
        "asset graph of all locations": _latency(lambda: ours.graphql(_GRAPH)),
        "state of all its assets": _latency(lambda: ours.graphql(_LIVE, keys=[{"path": key["path"]} for key in keys])),
        "number of assets": Cost(len(keys), ""),
    }
    return (
        costs
        | _idle(ours)
        | {
            "between two looks of a sensor that looks every 10 s, largest of ten": Cost(
                max(_between_looks(ours, scaffolded[-1])), "s"
            ),
        }
    )


def _seconds_to_load(ours: Dagster, expected: set[str]) -> float:
    """From the start of the webserver's process, the code servers being up, as after it had died."""
    (old,) = _parts(ours)["webserver"]
    old.terminate()
    old.wait(60)

    def new() -> psutil.Process | None:
        return next(iter(_parts(ours)["webserver"]), None)

    process = wait_for(new, "the supervisor to start the webserver anew")
    wait_for(lambda: ours.loaded() == expected, "every location to be loaded again", pause=0.1)
    return time.time() - process.create_time()


def _parts(ours: Dagster) -> dict[str, list[psutil.Process]]:
    """The platform's processes by what they are."""
    found: dict[str, list[psutil.Process]] = {"webserver": [], "daemon": [], "code servers": [], "Postgres": []}
    home = str(ours.home)
    for process in psutil.process_iter():
        try:
            command, mark = process.cmdline(), process.environ().get("CODELOC_STARTED_FOR")
        except psutil.Error:
            continue
        if mark != home:
            continue
        if "dagster_webserver" in command:
            found["webserver"].append(process)
        elif "codeloc.daemon" in command:
            found["daemon"].append(process)
        elif "grpc" in command:
            found["code servers"].append(process)
        elif command and Path(command[0]).name.startswith("postgres"):
            found["Postgres"].append(process)
    return found


def _idle(ours: Dagster) -> dict[str, Cost]:
    """Memory and CPU of a platform that nobody uses, and how many connections its Postgres has."""
    parts = _parts(ours)
    before = {name: sum(map(_cpu, processes)) for name, processes in parts.items()}
    connections = []
    deadline = time.monotonic() + IDLE_SECONDS
    with _database(ours) as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            connections.append(int(cursor.fetchone()[0]))
            time.sleep(0.5)
    costs = {}
    for name in ("webserver", "daemon", "code servers"):
        memory = sum(process.memory_full_info().pss for process in parts[name])
        costs[f"memory of {name} (PSS)"] = Cost(memory / 2**20, "MiB")
    for name in ("webserver", "daemon", "code servers"):
        cpu = sum(map(_cpu, parts[name])) - before[name]
        costs[f"CPU of {name}, idle"] = Cost(cpu * 60 / IDLE_SECONDS, "s/min")
    # Ours is one of them.
    costs["connections to Postgres, idle, most (of 200)"] = Cost(max(connections) - 1, "")
    return costs


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _between_looks(ours: Dagster, location: str) -> list[float]:
    def ticks() -> list[dict[str, Any]] | None:
        found = _ticks(ours, location, f"{location}_failure_alerts", 11)
        return found if len(found) == 11 else None

    times = [tick["timestamp"] for tick in wait_for(ticks, "eleven looks of a sensor", 900, pause=1)]
    return [later - earlier for later, earlier in pairwise(times)]


def _ticks(ours: Dagster, location: str, sensor: str, limit: int) -> list[dict[str, Any]]:
    """The last looks of a sensor that have ended, newest first."""
    selector = {"repositoryLocationName": location, "repositoryName": "__repository__", "sensorName": sensor}
    found: list[dict[str, Any]] = ours.graphql(_SENSOR, it=selector, limit=limit)["sensorOrError"]["sensorState"][
        "ticks"
    ]
    return [tick for tick in found if tick["endTimestamp"]]


# -- partitions -----------------------------------------------------------------------------------

_HEALTH = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { id
    partitionKeysByDimension { name partitionKeys }
    assetPartitionStatuses { __typename ... on MultiPartitionStatuses { primaryDimensionName ranges {
        primaryDimStartKey primaryDimEndKey secondaryDim { ... on DefaultPartitionStatuses {
            materializedPartitions failedPartitions materializingPartitions } } } } } } } }"""
_PARTITION_KEYS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {
    ... on AssetNode { partitionKeys } } }"""
_BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_BACKFILL_STATUS = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status timestamp endTimestamp runs { id } error { message } } } }"""
_BACKFILL_PAGE = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    id status numPartitions tags { key value } assetBackfillData { rootTargetedPartitions { partitionKeys ranges {
        start end } } assetBackfillStatuses { ... on AssetPartitionsStatusCounts { assetKey { path }
        numPartitionsTargeted numPartitionsInProgress numPartitionsMaterialized numPartitionsFailed } } } } } }"""


def partitions(short: bool) -> Curve:
    """An asset of days and services with ever more keys, all of them materialized by one backfill."""
    points: list[Point] = []
    with folder() as work:
        repository = warm(clone(work / "r"))
        shutil.copy2(PROGRAMS / "partitioned.py", repository / "locations/ingestion/src/ingestion/defs/partitioned.py")
        with platform(repository) as ours:
            points += [Point(size, _of_partitions(ours, size)) for size in ((12, 180) if short else (12, 180, 5000))]
    return Curve(
        "Partitions",
        "keys",
        "An asset of days and services (our tables are of months and services), materialized by one backfill of all its"
        " keys, of which Dagster makes a run per service; a second one follows it with `eager()` for every partition."
        " Nothing is simulated, except that the looks of automation and what is recorded outside of runs are timed in"
        " a process of their own.",
        points,
    )


def _of_partitions(ours: Dagster, size: int) -> dict[str, Cost]:
    key = {"path": [f"of_{size}"]}
    keys = ours.graphql(_PARTITION_KEYS, key=key)["assetNodeOrError"]["partitionKeys"]
    if len(keys) != size:
        raise BenchmarkError(f"of_{size} has {len(keys)} partitions")
    cursor, settings = ours.home / f"{size}.cursor", _settings(ours, "ingestion")

    def look(*updated: str) -> dict[str, Any]:
        return program("ingestion", "automation", str(size), str(cursor), *updated, **settings)

    first_look = look()
    began = time.monotonic()
    launched = ours.graphql(_BACKFILL, params={"assetSelection": [key], "partitionNames": keys})[
        "launchPartitionBackfill"
    ]
    launching = time.monotonic() - began
    if launched["__typename"] != "LaunchBackfillSuccess":
        raise BenchmarkError(f"the backfill of of_{size} was not launched: {launched}")
    backfill = launched["backfillId"]

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = ours.graphql(_BACKFILL_STATUS, id=backfill)["partitionBackfillOrError"]
        return found if found["status"].startswith(("COMPLETED", "FAIL", "CANCEL")) else None

    end = wait_for(ended, f"the backfill of {size} keys", 1800, pause=0.5)
    if end["status"] != "COMPLETED_SUCCESS":
        raise BenchmarkError(f"the backfill of {size} keys ended as {end['status']}: {end['error']}")
    runs = [run["id"] for run in end["runs"]]
    first = _seconds(lambda: ours.graphql(_HEALTH, key=key))
    all_updated, quiet, one_updated = look(), look(), look(keys[0])
    recording = program("ingestion", "recording", str(size), **settings)
    return {
        "its partitions' states, first time": Cost(first, "s"),
        "the same again": _latency(lambda: ours.graphql(_HEALTH, key=key)),
        "backfill of all keys: launching it": Cost(launching, "s"),
        "its page": _latency(lambda: ours.graphql(_BACKFILL_PAGE, id=backfill)),
        "from launch to the end": Cost(end["endTimestamp"] - end["timestamp"], "s"),
        "in runs": Cost(len(runs), ""),
        "of which running": Cost(sum(map(ours.seconds, runs)), "s"),
        "recording one key, connecting for each statement as Dagster does": Cost(recording["connecting"] * 1000, "ms"),
        "the same with connections that are kept, as our runs do": Cost(recording["connected"] * 1000, "ms"),
        "automation, first look": Cost(first_look["seconds"], "s"),
        "after all keys were updated": Cost(all_updated["seconds"], "s"),
        "requested by it": Cost(all_updated["requested"], "keys"),
        "without news": Cost(quiet["seconds"], "s"),
        "after one key was updated": Cost(one_updated["seconds"], "s"),
    }


def _settings(ours: Dagster, location: str) -> dict[str, str]:
    """What the processes of a location are told."""
    words = shlex.split((ours.home / "tmp" / f"{location}.env").read_text(encoding="utf-8"))
    return dict(word.split("=", 1) for word in words if word != "export")


# -- history --------------------------------------------------------------------------------------

_RUNS = """{ runsFeedOrError(limit: 30, view: RUNS) { ... on RunsFeedConnection { cursor hasMore results { id runStatus
    creationTime startTime endTime jobName tags { key value } } } ... on PythonError { message } } }"""
_COUNT = "{ runsFeedCountOrError(view: RUNS) { ... on RunsFeedCount { count } ... on PythonError { message } } }"
_FAILED = """{ runsFeedOrError(limit: 30, view: RUNS, filter: { statuses: [FAILURE] }) {
    ... on RunsFeedConnection { results { id } } ... on PythonError { message } } }"""
_TAGGED = """{ runsFeedOrError(limit: 30, view: RUNS, filter: { tags: [{ key: "nothing/has", value: "this" }] }) {
    ... on RunsFeedConnection { results { id } } ... on PythonError { message } } }"""
_LOG = """query ($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { cursor hasMore
    events { __typename ... on MessageEvent { message timestamp level stepKey eventType } } } } }"""
_LATEST = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetMaterializations(limit: 1) { timestamp runId metadataEntries { label } } } } }"""
_EVENTS = """query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
    assetEventHistory(limit: 50, eventTypeSelectors: [MATERIALIZATION, OBSERVATION, FAILED_TO_MATERIALIZE]) { cursor
    results { __typename ... on MaterializationEvent { timestamp runId } } } } } }"""
_ZONES = ("landing/taxi_zone_lookup_file", "landing/taxi_zones_file", "raw/taxi_zones")


def history(short: bool) -> Curve:
    """The same run over and over in Postgres, until there are ten thousand and a million events."""
    points: list[Point] = []
    with platform() as ours, folder() as backups:
        for asset in _ZONES:
            run = ours.launch("ingestion", asset)
            ours.seconds(run)
        for size in (10_000,) if short else (10_000, 1_000_000):
            filling = _fill(ours, run, size)
            points.append(Point(size, {"runs": Cost(filling, ""), **_of_history(ours, backups)}))
    return Curve(
        "History",
        "events",
        "Runs of `raw/taxi_zones` with its checks in the platform's own Postgres. Simulated: all but the last"
        " and the first three are copies of one real run, made by SQL with ids of their own, a minute apart.",
        points,
    )


def _fill(ours: Dagster, run: str, size: int) -> int:
    """Copy a run until there are so many events; how many runs there are then."""
    with _database(ours) as cursor:
        cursor.execute("SELECT count(*), count(*) FILTER (WHERE run_id = %s) FROM event_logs", [run])
        there, of_run = cursor.fetchone()
        cursor.execute(
            """CREATE TEMP TABLE copies AS SELECT n * interval '1 minute' AS ago, gen_random_uuid()::text AS run
            FROM generate_series(1, %s) AS numbers (n)""",
            [(size - there) // of_run],
        )
        for table, columns in _COPIED.items():
            cursor.execute(
                f"""INSERT INTO {table} ({", ".join(columns)}) SELECT {", ".join(columns.values())}
                FROM {table} CROSS JOIN copies WHERE run_id = %(run)s ORDER BY ago DESC, id""",
                {"run": run},
            )
        cursor.execute("DROP TABLE copies")
        for table in _COPIED:
            cursor.execute(f"VACUUM ANALYZE {table}")
        cursor.execute("SELECT count(*) FROM runs")
        return int(cursor.fetchone()[0])


def _as_is(*columns: str) -> dict[str, str]:
    return {column: column for column in columns}


# What stands in each column of a copy. The id of a run is in the texts too.
_COPIED: dict[str, dict[str, str]] = {
    "runs": {
        "run_id": "copies.run",
        "run_body": "replace(run_body, %(run)s, copies.run)",
        "create_timestamp": "create_timestamp - ago",
        "update_timestamp": "update_timestamp - ago",
        "start_time": "start_time - extract(epoch FROM ago)",
        "end_time": "end_time - extract(epoch FROM ago)",
        **_as_is("snapshot_id", "pipeline_name", "mode", "status", "partition", "partition_set", "backfill_id"),
    },
    "run_tags": {"run_id": "copies.run", **_as_is("key", "value")},
    "event_logs": {
        "run_id": "copies.run",
        "event": "replace(event, %(run)s, copies.run)",
        "timestamp": "timestamp - ago",
        **_as_is("dagster_event_type", "step_key", "asset_key", "partition"),
    },
    "asset_check_executions": {
        "run_id": "copies.run",
        "evaluation_event": "replace(evaluation_event, %(run)s, copies.run)",
        "evaluation_event_timestamp": "evaluation_event_timestamp - ago",
        "create_timestamp": "create_timestamp - ago",
        **_as_is(
            "asset_key",
            "check_name",
            "partition",
            "execution_status",
            "evaluation_event_storage_id",
            "materialization_event_storage_id",
        ),
    },
}


def _of_history(ours: Dagster, backups: Path) -> dict[str, Cost]:
    run = ours.launch("ingestion", _ZONES[-1])
    running = ours.seconds(run)
    zones = {"path": _ZONES[-1].split("/")}
    keys = [{"path": node["assetKey"]["path"]} for node in ours.graphql(_KEYS)["assetNodes"]]
    latest = ours.graphql(_LATEST, key=zones)["assetNodeOrError"]["assetMaterializations"][0]["runId"]
    if latest != run:
        raise BenchmarkError(f"the newest materialization is of {latest}, not of the run {run} that was just made")
    since = time.time()

    def looks() -> dict[str, list[float]] | None:
        found = {}
        for location, sensor in (("ingestion", "ingestion_failure_alerts"), ("analytics", "analytics_automation")):
            ticks = [tick for tick in _ticks(ours, location, sensor, 10) if tick["timestamp"] > since]
            found[sensor] = [tick["endTimestamp"] - tick["timestamp"] for tick in ticks]
        return found if all(len(seconds) >= TIMES for seconds in found.values()) else None

    costs = {
        "a run, queued to SUCCESS": Cost(running, "s"),
        "page of runs": _latency(lambda: ours.graphql(_RUNS)),
        "number of runs on it": _latency(lambda: ours.graphql(_COUNT)),
        "failed runs (there is none)": _latency(lambda: ours.graphql(_FAILED)),
        "runs of a tag (there is none)": _latency(lambda: ours.graphql(_TAGGED)),
        "a run's log": _latency(lambda: ours.graphql(_LOG, id=run)),
        "an asset's latest materialization": _latency(lambda: ours.graphql(_LATEST, key=zones)),
        "its 50 newest events": _latency(lambda: ours.graphql(_EVENTS, key=zones)),
        "state of all assets": _latency(lambda: ours.graphql(_LIVE, keys=keys)),
    }
    found = wait_for(looks, "looks of sensors", 300, pause=1)
    costs |= {f"a look of `{sensor}`": Cost(statistics.median(seconds), "s") for sensor, seconds in found.items()}
    costs |= {name: cost for name, cost in _idle(ours).items() if name.startswith("CPU")}
    status = _seconds(lambda: _run([str(COMMAND), "status", "--home", str(ours.home)]))
    backup = _seconds(lambda: _run([str(COMMAND), "backup", str(backups), "--home", str(ours.home)]))
    with _database(ours) as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        size = int(cursor.fetchone()[0])
    (kept,) = backups.glob("2*")
    dump = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
    shutil.rmtree(kept)
    return costs | {
        "`./codeloc status`": Cost(status, "s"),
        "`./codeloc backup`": Cost(backup, "s"),
        "size of it": Cost(dump / 2**20, "MiB"),
        "size of Dagster's database": Cost(size / 2**20, "MiB"),
    }


# -- what all of them need ------------------------------------------------------------------------


def _latency(ask: Callable[[], object]) -> Cost:
    return Cost(statistics.median(_seconds(ask) for _ in range(TIMES)), "s")


def _seconds(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


@contextmanager
def _database(ours: Dagster) -> Iterator[Any]:
    """A cursor in Dagster's database, as its administrator; each statement is a transaction."""
    ports = json.loads((ours.home / "state.json").read_text(encoding="utf-8"))["ports"]
    secrets = json.loads((ours.home / "secrets.json").read_text(encoding="utf-8"))
    connection = psycopg2.connect(
        host="127.0.0.1", port=ports["postgres"], user="postgres", password=secrets["postgres"], dbname="dagster"
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
