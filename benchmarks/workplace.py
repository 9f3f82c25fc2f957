"""What is measured with: the repository's environments, folders that are removed, processes that are ended."""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(__file__).parent / "programs"
LOCATIONS = ("ingestion", "analytics")
FINAL = {"SUCCESS", "FAILURE", "CANCELED"}
T = TypeVar("T")


class BenchmarkError(Exception):
    """Something could not be measured; the message says what, and what it printed."""


def python(package: str) -> str:
    """The interpreter of a package's environment: `host`, `shared` or a location."""
    folder = ROOT / package if (ROOT / package).is_dir() else ROOT / "locations" / package
    return str(folder / ".venv" / "bin" / "python")


def environment(**variables: str) -> dict[str, str]:
    """What a process starts with: this one's variables without what a developer or another platform may have set."""
    dropped = (
        *("DAGSTER_", "WAREHOUSE_", "POSTGRES_", "ADMIN_", "ALERTS", "PUBLIC_URL", "TLC_BASE_URL", "VIRTUAL_ENV"),
        # The platform goes without it, and so must what it is held against.
        "PYTHONDONTWRITEBYTECODE",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | variables


def program(package: str, name: str, *arguments: str, **variables: str) -> dict[str, Any]:
    """What a program of `programs/` says, as JSON on its last line, in the environment of a package."""
    command = [python(package), str(PROGRAMS / f"{name}.py"), *arguments]
    done = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@contextmanager
def postgres(home: Path) -> Iterator[str]:
    """An embedded Postgres with a platform's roles and nothing else; the string to connect to ingestion's catalog."""
    command = [python("host"), str(PROGRAMS / "postgres.py"), str(home), str(free_port())]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise BenchmarkError("Postgres cannot be spoken to")
        try:
            told = process.stdout.readline()
            if not told:
                raise BenchmarkError("Postgres did not start")
            yield json.loads(told)["catalog"]
        finally:
            process.stdin.close()
            process.wait(120)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 300, pause: float = 0.02) -> T:
    """What `look` returns once that is true; `pause`: seconds between two looks, where each costs something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)
    return found


def side_by_side(ours: Callable[[], float], theirs: Callable[[], float], times: int) -> tuple[float, float]:
    """The medians of two measurements, taken in turns so that what else the machine does meets both."""
    pairs = [(ours(), theirs()) for _ in range(times)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is removed afterwards; its path is short, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="b") as name:
        yield Path(name)


@dataclass
class Dagster:
    """A webserver that answers GraphQL, ours or a plain one."""

    port: int
    # Of what belongs to it, with all their children.
    processes: list[int] = field(default_factory=list)
    home: Path = Path()
    login: tuple[str, str] | None = None

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """Data of the answer."""
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/graphql",
            json={"query": query, "variables": variables},
            auth=self.login,
            timeout=120,
            trust_env=False,
        ).json()
        if answer.get("errors"):
            raise BenchmarkError(str(answer["errors"]))
        data: dict[str, Any] = answer["data"]
        return data

    def loaded(self) -> set[str]:
        """Locations that are loaded."""
        with suppress(httpx.HTTPError, json.JSONDecodeError):
            entries = self.graphql(
                """{ workspaceOrError { ... on Workspace { locationEntries {
                    name loadStatus locationOrLoadError { __typename } } } } }"""
            )["workspaceOrError"]["locationEntries"]
            return {
                entry["name"]
                for entry in entries
                if entry["loadStatus"] == "LOADED"
                and entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
            }
        return set()

    def launch(self, location: str, asset: str, partition: str | None = None) -> str:
        """Have an asset materialized; the run's id."""
        tags = {} if partition is None else {"dagster/partition": partition}
        return self.launch_job(location, "__ASSET_JOB", tags, asset)

    def launch_job(self, location: str, job: str, tags: Mapping[str, str], *assets: str) -> str:
        """Have a job run, of its assets all or these; the run's id."""
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
        if launched["__typename"] != "LaunchRunSuccess":
            raise BenchmarkError(f"{job} was not launched: {launched}")
        return str(launched["run"]["runId"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Status and times (seconds since the epoch) of a run."""
        found: dict[str, Any] = self.graphql(
            """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status creationTime startTime endTime } } }""",
            id=run_id,
        )["runOrError"]
        return found

    def seconds(self, run_id: str) -> float:
        """From the moment that a run was made until it had succeeded."""
        # The record says when it ended: asking more often would only slow it down.
        wait_for(lambda: self.run(run_id)["status"] in FINAL, f"run {run_id}", pause=0.25)
        run = self.run(run_id)
        if run["status"] != "SUCCESS":
            raise BenchmarkError(f"run {run_id} ended with {run['status']}")
        return float(run["endTime"]) - float(run["creationTime"])


def family(pids: list[int]) -> list[psutil.Process]:
    """Processes, and all that they started."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for member in [process, *process.children(recursive=True)]:
                found[member.pid] = member
    return list(found.values())


@contextmanager
def platform(clone: Path | None = None, *arguments: str) -> Iterator[Dagster]:
    """Our platform, empty, up inside; `clone`: the repository that it runs from, this one if there is none."""
    root = clone or ROOT
    with folder() as home:
        port = free_port()
        told = subprocess.run(
            [str(root / "codeloc"), "up", "--empty", "--home", str(home), "--port", str(port), *arguments],
            # Free when it is asked for: two platforms that start at once would both take the usual one.
            env=environment(FILES_PORT=str(free_port())),
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            if told.returncode:
                raise BenchmarkError(f"./codeloc up failed:\n{told.stdout}\n{told.stderr}")
            ours = [process.pid for process in psutil.process_iter() if _started_for(process) == str(home)]
            yield Dagster(port, ours, home)
        finally:
            subprocess.run(
                [str(root / "codeloc"), "down", "--home", str(home)],
                env=environment(),
                check=False,
                capture_output=True,
            )


def _started_for(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.environ().get("CODELOC_STARTED_FOR")
    return None


def clone(target: Path) -> Path:
    """A copy of the repository as it is in the working tree, whose code may be changed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def warm(repository: Path) -> Path:
    """Give a clone this repository's environments, so that its `./codeloc up` only sets right what names the folder.

    Made of links to the same files, as those of the platform's releases are: nothing writes to the files themselves.
    """
    for package in ("host", *(f"locations/{name}" for name in LOCATIONS)):
        shutil.copytree(
            ROOT / package / ".venv",
            repository / package / ".venv",
            symlinks=True,
            copy_function=os.link,
            ignore=shutil.ignore_patterns("made-from"),
        )
    return repository


@contextmanager
def dagster_dev(home: Path, *target: str, **variables: str) -> Iterator[Dagster]:
    """Plain `dagster dev`, started from the host's environment; with no setting but where it keeps what it writes.

    Parameters
    ----------
    home
        Its DAGSTER_HOME; there is no dagster.yaml in it.
    target
        What it loads, as `-f FILE` or `-w FILE`.

    Yields
    ------
    Dagster
        As soon as it is started: what it is good for is the caller's to wait for.
    """
    port, log = free_port(), home / "dev.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python("host"), "-m", "dagster", "dev", "--host", "127.0.0.1", "--port", str(port), *target],
            env=environment(DAGSTER_HOME=str(home), DAGSTER_DISABLE_TELEMETRY="yes", **variables),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C here is not meant for it: it is ended below. And from a script with `&` it would ignore SIGINT.
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield Dagster(port, [process.pid], home)
    finally:
        started = family([process.pid])
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, left = psutil.wait_procs(started, 20)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
