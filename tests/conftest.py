"""The platform as its users run it: `./codeloc up`, on ports and folders of its own, shared by the tests."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import psutil
import psycopg2
import pytest
import yaml
from counting import count_file
from mart_counting import COUNTED, zones_of
from playwright.sync_api import Browser, sync_playwright

if TYPE_CHECKING:
    from deployment import Deployment

# Its assertions say what was found, as those of the tests do.
pytest.register_assert_rewrite("deployment")

ROOT = Path(__file__).resolve().parents[1]
CODELOC = str(ROOT / "codeloc")
LOCATIONS = [
    entry["grpc_server"]["location_name"]
    for entry in yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
]
T = TypeVar("T")
S = TypeVar("S", bound=http.server.HTTPServer)
FINAL = {"SUCCESS", "FAILURE", "CANCELED"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# A connection of its own for each line, as an asset's; the interpreter and its libraries are there already.
_WAREHOUSE_QUERIES = """
import json, sys
from taxi_shared.warehouse import Warehouse
for line in sys.stdin:
    asked = json.loads(line)
    warehouse = Warehouse(lake="analytics", reads=["ingestion"], catalog=asked["catalog"], data_root=asked["data_root"])
    try:
        with warehouse.read() as connection:
            # On a slow machine it would be printed among the answers.
            connection.execute("SET enable_progress_bar = false")
            answer = {"rows": connection.execute(asked["query"]).fetchall()}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer, default=str), flush=True)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests of the same platform come one after another: each takes its share of the machine while it is up."""
    items.sort(key=_platform_of)
    for item in items:
        if item.get_closest_marker("docker"):
            # The first of them builds the images and loads the sample.
            item.add_marker(pytest.mark.timeout(1200))


def _platform_of(item: pytest.Item) -> int:
    needed: list[str] = getattr(item, "fixturenames", [])
    # Those with a platform of their own, or none, first, while no other one takes its share. The deployment last: the
    # first of its tests builds images, and ends what is up on this machine.
    if item.get_closest_marker("docker"):
        return 4
    return next((place for place, name in ((3, "real"), (2, "spare"), (1, "first_start")) if name in needed), 0)


def run_codeloc(*arguments: str, timeout: float = 420, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does and return what it printed."""
    return subprocess.run(
        [CODELOC, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment() | variables,
    )


def environment() -> dict[str, str]:
    """The environment without what another platform or a developer may have set."""
    dropped = (
        "DAGSTER_",
        "WAREHOUSE_",
        "POSTGRES_",
        "ADMIN_",
        "ALERTS",
        "PUBLIC_URL",
        "TLC_BASE_URL",
        "VIRTUAL_ENV",
        "FORCE_COLOR",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], T], what: str, seconds: float = 120) -> T:
    """What `look` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def repeated(what: Callable[[], None], every: float) -> Iterator[tuple[list[float], list[str]]]:
    """Do something again and again inside; when it was done, and what failed."""
    done: list[float] = []
    failed: list[str] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                what()
            except Exception as error:  # noqa: BLE001  (each is a failure to be told)
                failed.append(f"{time.strftime('%H:%M:%S')} {error!r}")
            done.append(began)
            over.wait(max(0.0, every - (time.monotonic() - began)))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield done, failed
    finally:
        over.set()
        thread.join()


@dataclass
class Platform:
    """A platform that is up, or was."""

    home: Path
    port: int
    # Where it asks for one.
    login: tuple[str, str] | None = field(default=None, init=False)
    # Settings that its commands get.
    variables: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def files_url(self) -> str:
        """Address of the report and the other served files."""
        return f"http://127.0.0.1:{json.loads((self.home / 'state.json').read_text())['ports']['files']}"

    def codeloc(self, *arguments: str, timeout: float = 420) -> subprocess.CompletedProcess[str]:
        command, *rest = arguments
        return run_codeloc(command, *rest, "--home", str(self.home), timeout=timeout, **self.variables)

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/graphql",
            json={"query": query, "variables": variables},
            auth=self.login,
            timeout=60,
            trust_env=False,
        ).json()
        assert not answer.get("errors"), answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def launch(self, job: str, location: str = "ingestion", assets: Sequence[str] = (), **dimensions: str) -> str:
        """Queue a run; `dimensions` are those of its partition, for example month and service."""
        tags = {f"dagster/partition/{name}": value for name, value in dimensions.items()}
        if dimensions:
            tags["dagster/partition"] = "|".join(dimensions[name] for name in sorted(dimensions))
        launched = self.graphql(
            """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
                __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={
                "selector": {
                    "repositoryLocationName": location,
                    "repositoryName": "__repository__",
                    "jobName": job,
                    "assetSelection": [{"path": asset.split("/")} for asset in assets] or None,
                },
                "runConfigData": {},
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            },
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def launch_asset(self, key: str, location: str = "ingestion") -> str:
        """Queue the materialization of one asset without partitions."""
        return self.launch("__ASSET_JOB", location, [key])

    def launch_month(self, partition: str) -> str:
        """Queue the main job for `YYYY-MM-01|service`."""
        month, service = partition.split("|")
        return self.launch("trip_update_job", month=month, service=service)

    def run(self, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.graphql(
            "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value } } } }",
            id=run_id,
        )["runOrError"]
        run["tags"] = {tag["key"]: tag["value"] for tag in run["tags"]}
        return run

    def finished(self, run_id: str, seconds: float = 180) -> str:
        """Status of a run once it has ended."""
        wait_for(lambda: self.run(run_id)["status"] in FINAL, f"run {run_id}", seconds)
        return str(self.run(run_id)["status"])

    def loaded_locations(self) -> dict[str, bool]:
        entries = self.graphql(
            """{ workspaceOrError { ... on Workspace { locationEntries {
                name loadStatus locationOrLoadError { __typename } } } } }"""
        )["workspaceOrError"]["locationEntries"]
        return {
            entry["name"]: entry["loadStatus"] == "LOADED"
            and entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
            for entry in entries
        }

    def materialized_at(self, key: str, partitions: list[str]) -> dict[str, float]:
        """When each of these partitions was last materialized."""
        events = self.graphql(
            """query ($key: AssetKeyInput!, $partitions: [String!]) { assetNodeOrError(assetKey: $key) {
                ... on AssetNode { assetMaterializations(partitions: $partitions) { partition timestamp } } } }""",
            key={"path": key.split("/")},
            partitions=partitions,
        )["assetNodeOrError"]["assetMaterializations"]
        newest: dict[str, float] = {}
        for event in events:
            newest[event["partition"]] = max(float(event["timestamp"]), newest.get(event["partition"], 0))
        return newest

    def quiet(self, seconds: float = 600) -> None:
        """Wait until no run and no backfill is under way."""
        query = """{
            runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
                ... on Runs { results { runId } } }
            partitionBackfillsOrError(limit: 20) { ... on PartitionBackfills { results { status } } } }"""

        def nothing_under_way() -> bool:
            data = self.graphql(query)
            backfills = data["partitionBackfillsOrError"]["results"]
            return not data["runsOrError"]["results"] and all(found["status"] != "REQUESTED" for found in backfills)

        wait_for(nothing_under_way, "the platform to be quiet", seconds)

    def settled(self) -> None:
        """Wait until everything has followed: nothing is under way, and the automation asked for nothing since."""
        ends = "{ runsOrError(limit: 100) { ... on Runs { results { endTime } } } }"

        def asked_for_nothing() -> bool:
            self.quiet(900)
            since = max((run["endTime"] or 0 for run in self.graphql(ends)["runsOrError"]["results"]), default=0)
            return self.automation_looked(since) == "SKIPPED"

        wait_for(asked_for_nothing, "the automation to be content", 1200)

    def automation_looked(self, since: float | None = None) -> str:
        """How a look of the automation ended that began after a time, or after now."""
        query = """{ sensorOrError(sensorSelector: {sensorName: "analytics_automation",
            repositoryLocationName: "analytics", repositoryName: "__repository__"}) {
            ... on Sensor { sensorState { ticks(limit: 1) { timestamp status } } } } }"""
        since = time.time() if since is None else since

        def ended() -> list[str]:
            ticks = self.graphql(query)["sensorOrError"]["sensorState"]["ticks"]
            return [tick["status"] for tick in ticks if tick["timestamp"] >= since and tick["status"] != "STARTED"]

        return wait_for(ended, "the automation to look")[0]

    @contextlib.contextmanager
    def turned_off(self, sensor: str, location: str = "analytics") -> Iterator[None]:
        """The sensor is off inside, and on afterwards."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "sensorName": sensor,
        }
        query = """query ($it: SensorSelector!) { sensorOrError(sensorSelector: $it) {
            ... on Sensor { sensorState { id status ticks(limit: 1) { status } } } } }"""

        def is_off() -> bool:
            state = self.graphql(query, it=selector)["sensorOrError"]["sensorState"]
            if state["status"] == "STOPPED" and all(tick["status"] != "STARTED" for tick in state["ticks"]):
                return True
            # Again, if need be: a look that was under way may have put it back to what it was when that began.
            stop = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"
            assert self.graphql(stop, id=state["id"])["stopSensor"]["__typename"] == "StopSensorMutationResult"
            return False

        wait_for(is_off, f"{sensor} to be off")
        try:
            yield
        finally:
            self.graphql(
                "mutation ($it: SensorSelector!) { startSensor(sensorSelector: $it) { __typename } }", it=selector
            )

    # -- below the UI -----------------------------------------------------------------------------

    def secret(self, role: str) -> str:
        return str(json.loads((self.home / "secrets.json").read_text())[role])

    def connection_string(self, role: str, database: str = "warehouse") -> str:
        port = json.loads((self.home / "state.json").read_text())["ports"]["postgres"]
        return f"host=127.0.0.1 port={port} dbname={database} user={role} password={self.secret(role)}"

    def postgres(self, statement: str, role: str = "postgres", database: str = "warehouse") -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.connection_string(role, database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def warehouse(self, query: str) -> list[list[Any]]:
        """Rows of a query over both lakes, asked from analytics' environment as its own assets do."""
        asked = {
            "catalog": self.connection_string("analytics"),
            "data_root": str(self.home / "lakes"),
            "query": query,
        }
        answer = _answer(json.dumps(asked))
        assert "error" not in answer, answer["error"]
        rows: list[list[Any]] = answer["rows"]
        return rows

    def assert_accounted(self, file: Path, partition: str) -> None:
        """Every row of a month's file is kept or quarantined, and what was charged adds up."""
        month, service = partition.split("|")
        expected = count_file(file)
        where = f"service = '{service}' AND file_month = DATE '{month}'"
        kept, total = self.warehouse(f"SELECT count(*), sum(total_amount) FROM ingestion.raw.taxi_trips WHERE {where}")[
            0
        ]
        quarantined = self.warehouse(f"SELECT count(*) FROM ingestion.raw.taxi_trips_quarantine WHERE {where}")[0][0]
        assert (kept, quarantined) == (expected.kept, expected.quarantined)
        assert total == pytest.approx(expected.total_amount)

    def assert_mart(self, mart: str, files: Sequence[Path]) -> None:
        """A mart holds, of the one service of these files, what is counted from them, and no row besides."""
        counted = COUNTED[mart]
        (service,) = {file.name.split("_")[0] for file in files}
        columns = ", ".join(f"({column})::VARCHAR" for column in counted.key)
        numbers = ", ".join(f"coalesce(sum({column}), 0)::DOUBLE" for column in counted.numbers)
        found = {
            tuple(row[: len(counted.key)]): tuple(row[len(counted.key) :])
            for row in self.warehouse(
                f"SELECT {columns}, {numbers} FROM marts.{mart} WHERE service = '{service}' GROUP BY ALL"
            )
        }
        expected = {tuple(map(_as_text, key)): values for key, values in counted.count(files).items()}
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, abs=0.005 * max(values[0], 1)), key

    def assert_manhattan(self, files: Sequence[Path], lookup: Path) -> None:
        """The served GeoJSON has each of Manhattan's zones once, with its pickups in these files."""
        served = httpx.get(f"{self.files_url}/reports/manhattan_stats.geojson", trust_env=False, timeout=30).json()
        found = {feature["id"]: feature["properties"]["trips"] for feature in served["features"]}
        assert len(found) == len(served["features"])
        demand = COUNTED["zone_hourly_demand"]
        pickups: dict[int, float] = {}
        for service in {file.name.split("_")[0] for file in files}:
            counted = demand.count([file for file in files if file.name.startswith(service)])
            for (zone, _hour), (trips, _total) in counted.items():
                pickups[zone] = pickups.get(zone, 0) + trips
        assert found == {zone: pickups.get(zone, 0) for zone in zones_of("Manhattan", lookup)}

    def weeks(self, service: str) -> list[tuple[date, int]]:
        """Monday and trips of each week in the weekly mart."""
        found = self.warehouse(f"SELECT week, trips FROM marts.trips_by_week WHERE service = '{service}' ORDER BY week")
        return [(date.fromisoformat(week), trips) for week, trips in found]

    def fingerprint(self, table: str, condition: str = "true") -> list[list[Any]]:
        """Number of rows and a hash that any change of any value changes; the order does not matter."""
        return self.warehouse(f"SELECT count(*), sum(hash(t)::HUGEINT) FROM {table} AS t WHERE {condition}")

    def supervisorctl(self, *arguments: str) -> str:
        command = [
            str(ROOT / "host" / ".venv" / "bin" / "supervisorctl"),
            "-c",
            str(self.home / "supervisor.conf"),
        ]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=90).stdout

    @contextlib.contextmanager
    def stopped(self, process: str) -> Iterator[None]:
        """A process of the platform is not there inside, and is there again afterwards."""
        self.supervisorctl("stop", self.program(process))
        try:
            yield
        finally:
            self.supervisorctl("start", self.program(process))

    def pid(self, process: str) -> int:
        """Of a process as `status` names it, or of the code server that serves a location."""
        return int(self.supervisorctl("pid", self.program(process)))

    def program(self, process: str) -> str:
        """The supervisor's name of a process, or of the code server that serves a location."""
        link = self.home / "run" / process / "current"
        return f"{process}-{link.readlink().name}" if link.is_symlink() else process

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for this platform."""
        found = []
        for process in psutil.process_iter():
            try:
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("CODELOC_STARTED_FOR") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found


class Clone(Platform):
    """A platform that runs from a repository of its own, whose code can be changed."""

    @property
    def root(self) -> Path:
        return self.home.parent

    def codeloc(self, *arguments: str, timeout: float = 420) -> subprocess.CompletedProcess[str]:
        return self.run_codeloc(*arguments, timeout=timeout)

    def run_codeloc(self, *arguments: str, timeout: float = 420, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / "codeloc"), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment() | variables,
        )

    def asset_keys(self) -> set[str]:
        nodes = self.graphql("{ assetNodes { assetKey { path } } }")["assetNodes"]
        return {"/".join(node["assetKey"]["path"]) for node in nodes}


def copy_repository(target: Path) -> None:
    """What a clone of the repository has, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@functools.cache
def _warehouse_reader() -> "subprocess.Popen[str]":
    # It ends with the tests, when nobody can ask it any longer.
    return subprocess.Popen(
        [str(ROOT / "locations" / "analytics" / ".venv" / "bin" / "python"), "-c", _WAREHOUSE_QUERIES],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(line: str) -> dict[str, Any]:
    reader = _warehouse_reader()
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(f"{line}\n")
    reader.stdin.flush()
    answered = reader.stdout.readline()
    assert answered, f"what reads the warehouse ended with {reader.wait(10)}"
    answer: dict[str, Any] = json.loads(answered)
    return answer


def _as_text(value: object) -> str:
    """As DuckDB writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def start(platform: Platform, *arguments: str) -> subprocess.CompletedProcess[str]:
    started = platform.codeloc("up", "--port", str(platform.port), *arguments)
    assert started.returncode == 0, f"{started.stdout}\n{started.stderr}"
    return started


def end(platforms: list[Platform]) -> None:
    """Bring them down; none is left in the list."""
    while platforms:
        platform = platforms.pop()
        stopped = platform.codeloc("down")
        assert stopped.returncode == 0, stopped.stderr
        assert platform.processes() == []


@pytest.fixture(scope="session")
def platforms() -> Iterator[list[Platform]]:
    """The platforms that tests share and that are up; who needs the machine for another one may end them."""
    found: list[Platform] = []
    yield found
    end(found)


@contextlib.contextmanager
def serving(server: S) -> Iterator[S]:
    """A web server that answers inside."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Alerts(http.server.ThreadingHTTPServer):
    """A web server that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _AlertsHandler)
        self.told: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        """As a setting names it."""
        return f"json://127.0.0.1:{self.server_address[1]}/"


class _AlertsHandler(http.server.BaseHTTPRequestHandler):
    server: Alerts

    def do_POST(self) -> None:
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def alerts() -> Iterator[Alerts]:
    """Where the platform on the sample tells its failures."""
    with serving(Alerts()) as server:
        yield server


@pytest.fixture(scope="session")
def first_start(
    tmp_path_factory: pytest.TempPathFactory, platforms: list[Platform], alerts: Alerts
) -> tuple[Platform, str]:
    """A platform on the sample, and what `up` printed when it started on an empty folder."""
    platform = Platform(tmp_path_factory.mktemp("sample"), free_port())
    platform.variables["ALERTS"] = f"ingestion={alerts.address} analytics={alerts.address}"
    platforms.append(platform)
    return platform, start(platform).stdout


@pytest.fixture(scope="session")
def sample(first_start: tuple[Platform, str]) -> Platform:
    """The platform on the sample, its months loaded."""
    return first_start[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Whichever Chromium the machine has."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        yield found
        found.close()


@pytest.fixture(scope="session")
def tlc_server(tlc_data: Path) -> Iterator[str]:
    """Address of a file server that serves real TLC files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tlc_data))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


class SlowSource(http.server.ThreadingHTTPServer):
    """A source that sends half a file, tells that it waits, and waits until it may go on."""

    content = b"LocationID,Borough,Zone,service_zone\n1,EWR,Newark Airport,EWR\n"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _SlowHandler)
        self.waiting, self.go_on = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _SlowHandler(http.server.BaseHTTPRequestHandler):
    server: SlowSource

    def do_GET(self) -> None:
        content = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:20])
        self.wfile.flush()
        self.server.waiting.set()
        self.server.go_on.wait(120)
        with contextlib.suppress(OSError):
            self.wfile.write(content[20:])

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def slow_source() -> Iterator[SlowSource]:
    with serving(SlowSource()) as source:
        yield source
        source.go_on.set()


@pytest.fixture(scope="session")
def spare(tmp_path_factory: pytest.TempPathFactory, platforms: list[Platform], slow_source: SlowSource) -> Platform:
    """A platform that holds nothing, to be stopped, broken and started; each test leaves it up."""
    platform = Platform(tmp_path_factory.mktemp("spare"), free_port())
    platforms.append(platform)
    start(platform, "--empty", "--source", slow_source.url)
    return platform


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, platforms: list[Platform], tlc_server: str) -> Iterator[Platform]:
    """A platform, empty, whose source is a server of real TLC files; it ends those that were shared before."""
    end(platforms)
    platform = Platform(tmp_path_factory.mktemp("real"), free_port())
    platforms.append(platform)
    start(platform, "--empty", "--source", tlc_server)
    yield platform
    end(platforms)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, platforms: list[Platform]) -> "Iterator[Deployment]":
    """The deployment as README starts it, with the sample loaded; it ends the platforms that were shared before."""
    if os.environ.get("CODELOC_TEST_DOCKER") != "1":
        pytest.skip("the deployment is tested when asked for: ./codeloc test --docker")
    assert shutil.which("docker"), "there is no docker on this machine"
    for needed in (["compose", "version"], ["info"]):
        asked = subprocess.run(["docker", *needed], capture_output=True, text=True, check=False)
        assert asked.returncode == 0, f"`docker {' '.join(needed)}` fails: {asked.stderr.strip()}"
    from deployment import Deployment

    end(platforms)
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        deployment.compose("up", "--detach", "--build", "--wait")
        deployment.assert_up()
        deployment.compose("run", "--rm", "seed")
        yield deployment
    except BaseException:
        print(deployment.compose("logs", "--no-color", "--tail", "40", check=False).stdout)  # noqa: T201
        raise
    finally:
        deployment.compose("--profile", "seed", "down", "--volumes", "--remove-orphans")
        labelled = ["--filter", f"label=com.docker.compose.project={deployment.project}", "--quiet"]
        for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
            left = subprocess.run(["docker", *kind, *labelled], capture_output=True, text=True, check=True).stdout
            assert left == ""


@pytest.fixture
def held(deployed: "Deployment") -> Iterator[str]:
    """A run of ingestion that is in the middle of its download until it is let go; its end is waited for."""
    from deployment import event, launched

    deployed.compose("pause", "files")
    try:
        run = launched(deployed)
        wait_for(lambda: event(deployed, run, "STEP_START"), "the run to begin")
        yield run
    finally:
        # After `down` there is none.
        files = deployed.containers().get("files")
        if files and files["State"]["Paused"]:
            deployed.compose("unpause", "files")
    deployed.finished(run)
