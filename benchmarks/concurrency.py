"""Whether runs that write one table go on beside one another, while others read it: four months loaded at once."""

import functools
import http.server
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.table import Row
from benchmarks.workplace import FINAL, LOCATIONS, Dagster, folder, platform, program, wait_for

ROWS = 1_000_000
# Of the files that are made, January 2023 is the last one.
FILES = 17
# Loaded beforehand; the analytics runs read it meanwhile, a week each.
READ = "2021-09-01"
WEEKS = ("2021-09-06", "2021-09-13")
# The same work one by one and at once, twice in turns, on months that were never loaded before.
APART = (
    ("2021-10-01", "2021-11-01", "2021-12-01", "2022-01-01"),
    ("2022-06-01", "2022-07-01", "2022-08-01", "2022-09-01"),
)
TOGETHER = (
    ("2022-02-01", "2022-03-01", "2022-04-01", "2022-05-01"),
    ("2022-10-01", "2022-11-01", "2022-12-01", "2023-01-01"),
)
# Seconds between two looks at runs, whose record has the times.
PAUSE = 0.25

_SENSOR = """query ($it: SensorSelector!) { sensorOrError(sensorSelector: $it) {
    ... on Sensor { sensorState { id status ticks(limit: 1) { status } } } } }"""
_STOP = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"
_RUNS = """{ runsOrError { ... on Runs { results { runId status
    eventConnection(afterCursor: null) { events { __typename } } } } } }"""


def measure(short: bool) -> list[Row]:
    """Rows of runs at once; none in the short form, where the start of a run is most of it."""
    if short:
        return []
    with folder() as place, _served(place) as url, platform(None, "--source", url) as ours:
        wait_for(lambda: ours.loaded() >= set(LOCATIONS), "the locations")
        # What it would rebuild after each month is none of the work that is compared.
        _stop(ours, "analytics_automation")
        ours.seconds(_month(ours, READ))
        for week in WEEKS:
            ours.seconds(_week(ours, week))

        one_by_one, at_once, runs, refused = 0.0, 0.0, [], 0
        for apart, together in zip(APART, TOGETHER, strict=True):
            one_by_one += sum(ours.seconds(_month(ours, month)) for month in apart)
            one_by_one += sum(ours.seconds(_week(ours, week)) for week in WEEKS)

            before = _errors(ours)
            six = [*(_month(ours, month) for month in together), *(_week(ours, week) for week in WEEKS)]
            at_once += _until_last(ours, six)
            refused += _errors(ours) - before
            runs += six
        disturbed = _disturbed(ours, runs) + refused
    what = f"four yellow months of {ROWS:,} rows by four runs at once, while two analytics runs read the table"
    return [
        Row(
            "four at once",
            f"{what} (from launch to the last end)",
            "the same six runs one after another",
            at_once / len(APART),
            one_by_one / len(APART),
            "s",
            1 / 1.6,
            0.85,
        ),
        Row(
            "failed or retried",
            f"{what}: runs that failed or were tried again, steps tried again, transactions that Postgres refused",
            f"the {len(runs)} runs",
            float(disturbed),
            float(len(runs)),
            "",
            0.0,
            0.0,
        ),
    ]


def _month(ours: Dagster, month: str) -> str:
    return _launch(ours, "ingestion", "trip_update_job", month=month, service="yellow")


def _week(ours: Dagster, week: str) -> str:
    return _launch(ours, "analytics", "weekly_update_job", service="yellow", week=week)


def _launch(ours: Dagster, location: str, job: str, **partition: str) -> str:
    tags = {f"dagster/partition/{dimension}": value for dimension, value in partition.items()}
    return ours.launch_job(location, job, tags | {"dagster/partition": "|".join(partition.values())})


def _until_last(ours: Dagster, runs: Sequence[str]) -> float:
    """Seconds from the first launch to the last end."""
    wait_for(lambda: all(ours.run(run)["status"] in FINAL for run in runs), "the six runs", 900, PAUSE)
    found = [ours.run(run) for run in runs]
    return max(float(run["endTime"]) for run in found) - min(float(run["creationTime"]) for run in found)


def _disturbed(ours: Dagster, runs: Sequence[str]) -> int:
    """Runs that did not succeed, runs that were made to try one again, and steps that were tried again."""
    found = {run["runId"]: run for run in ours.graphql(_RUNS)["runsOrError"]["results"]}
    failed = len([run for run in runs if found[run]["status"] != "SUCCESS"])
    others = 1 + len(WEEKS) + sum(len(apart) + len(WEEKS) for apart in APART)
    again = len(found) - others - len(runs)
    kinds: list[str] = [event["__typename"] for run in runs for event in found[run]["eventConnection"]["events"]]
    return failed + again + kinds.count("ExecutionStepUpForRetryEvent")


def _errors(ours: Dagster) -> int:
    """What Postgres refused so far: DuckLake tries a commit again by itself, and says nothing of it."""
    return sum(path.read_text(encoding="utf-8").count(" ERROR: ") for path in (ours.home / "logs").glob("postgres*"))


def _stop(ours: Dagster, sensor: str) -> None:
    selector = {
        "repositoryLocationName": "analytics",
        "repositoryName": "__repository__",
        "sensorName": sensor,
    }

    def is_off() -> bool:
        state = ours.graphql(_SENSOR, it=selector)["sensorOrError"]["sensorState"]
        if state["status"] == "STOPPED" and all(tick["status"] != "STARTED" for tick in state["ticks"]):
            return True
        # Again, if need be: a look that was under way puts it back to what it was when that began.
        ours.graphql(_STOP, id=state["id"])
        return False

    wait_for(is_off, f"{sensor} to be off", pause=PAUSE)


@contextmanager
def _served(place: Path) -> Iterator[str]:
    """Address of a server that has the months, laid out like TLC's."""
    program("ingestion", "loading", "make_months", str(place), str(FILES), str(ROWS))
    (place / "trip-data").symlink_to(place / "landing")
    handler = functools.partial(_Quiet, directory=str(place))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
