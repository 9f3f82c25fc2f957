"""The deployment with Docker Compose, under a project and on a port of its own, for every test that needs one."""

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from conftest import CODELOC, LOCATIONS, ROOT, Platform, environment, free_port, wait_for

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ["proxy", "postgres", "files", "webserver", "viewer", "daemon", "gate", *LOCATIONS]
ONE_SHOT = ["init", "sample"]
# Of the sample; loaded when the tests begin.
MONTH = "2023-02-01|green"

_WAREHOUSE_QUERY = """
import json, os, sys
from taxi_shared.warehouse import Warehouse
warehouse = Warehouse(
    lake="analytics", reads=["ingestion"], catalog=os.environ["WAREHOUSE_CATALOG"],
    data_root=os.environ["WAREHOUSE_DATA"],
    # Beside the code server, in the memory that its container may take.
    memory_limit="400MB",
    threads=1,
)
with warehouse.read() as connection:
    # On a slow machine it would be printed among the rows.
    connection.execute("SET enable_progress_bar = false")
    print(json.dumps(connection.execute(sys.stdin.read()).fetchall(), default=str))
"""


def docker(*arguments: str, given: str | None = None) -> str:
    """What `docker` prints."""
    done = subprocess.run(["docker", *arguments], input=given, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def is_well(state: dict[str, Any]) -> bool:
    """Whether a container runs and its check says so; by what the engine knows of its state."""
    return bool(state["Running"] and state["Health"]["Status"] == "healthy")


class Deployment(Platform):
    """The platform in containers, under a project and on ports of its own."""

    def __init__(self, folder: Path, name: str = "test") -> None:
        super().__init__(folder, free_port())
        self.project = f"taxi-{name}-{os.getpid()}"
        self.password = secrets.token_urlsafe(12)
        self.login = self.admin = ("admin", self.password)
        self.settings = folder / "deployment.env"
        self.settings.write_text(
            f"ADMIN_PASSWORD={self.password}\nWEBSERVER_PORT={self.port}\nIMAGE_PREFIX=taxi-test\n"
        )

    @property
    def files_url(self) -> str:
        return self.url

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """As on one machine; asked again where Postgres' death had cut the connection that the webserver took."""
        for _ in range(20):
            try:
                return super().graphql(query, **variables)
            except AssertionError as error:
                if "server closed the connection" not in str(error):
                    raise
        raise AssertionError("no connection of the webserver's is whole")

    def compose(
        self, *arguments: str, given: str | None = None, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, "--env-file", str(self.settings), *arguments],
            cwd=ROOT,
            env=environment() | variables,
            input=given,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{done.stdout}\n{done.stderr}"
        return done

    def codeloc_compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `codeloc` command for this deployment."""
        variables = {"COMPOSE_PROJECT_NAME": self.project, "COMPOSE_ENV_FILES": str(self.settings)}
        return subprocess.run(
            [CODELOC, *arguments, "--compose"],
            cwd=self.home,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )

    def history(self) -> dict[str, str]:
        """Status and number of events of each run that has ended, and of each other run its status."""
        query = (
            "SELECT run_id, status || ' ' || (SELECT count(*) FROM event_logs WHERE event_logs.run_id = runs.run_id)"
            " FROM runs WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED')"
        )
        rows = self.compose("exec", "-T", "postgres", "psql", "-U", "postgres", "-At", "-d", "dagster", "-c", query)
        return dict(row.split("|") for row in rows.stdout.splitlines())

    def ended(self, run: str) -> bool:
        """Whether a run, or the retry that took its place, has succeeded."""
        found = self.run(run)
        retry = found["tags"].get("dagster/auto_retry_run_id")
        return found["status"] == "SUCCESS" or (retry is not None and self.ended(retry))

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container."""
        found = self._inspected("com.docker.compose.project", "com.docker.compose.oneoff=False")
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in found}

    def servers(self, location: str) -> list[dict[str, Any]]:
        """What the engine knows of every code server of a location; more than one while it is redeployed."""
        found = self._inspected("com.docker.compose.project", "com.docker.compose.oneoff=False")
        return [server for server in found if server["Config"]["Labels"]["com.docker.compose.service"] == location]

    def served(self, location: str) -> str | None:
        """The version of a location that the webserver has loaded."""
        entry = self.graphql(
            """query ($name: String!) { workspaceLocationEntryOrError(name: $name) { ... on WorkspaceLocationEntry {
                displayMetadata { key value } locationOrLoadError { __typename } } } }""",
            name=location,
        )["workspaceLocationEntryOrError"]
        shown = {line["key"]: line["value"] for line in entry["displayMetadata"]}
        loaded = entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
        return shown["image"].rpartition(":")[2] if loaded else None

    def leftovers(self) -> str:
        """Containers and networks of this deployment that the engine still knows."""
        ours = f"label=com.docker.compose.project={self.project}"
        services = docker("ps", "--all", "--quiet", "--filter", ours)
        return services + "".join(self.runs()) + docker("network", "ls", "--quiet", "--filter", ours)

    def runs(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each container that a run is in, by the run's id."""
        found = self._inspected("codeloc.project", "dagster/run_id")
        return {container["Config"]["Labels"]["dagster/run_id"]: container for container in found}

    def _inspected(self, project: str, label: str) -> list[dict[str, Any]]:
        filters = ["--filter", f"label={project}={self.project}", "--filter", f"label={label}"]
        listed = docker("ps", "--all", "--quiet", *filters).split()
        # What is gone meanwhile is left out, and makes the command fail.
        asked = subprocess.run(["docker", "inspect", *listed], capture_output=True, text=True, check=False)
        found: list[dict[str, Any]] = json.loads(asked.stdout) if listed else []
        return found

    def kill(self, container: dict[str, Any]) -> None:
        """End a container's main process as a machine does that runs out of memory.

        `docker kill` would not do: what is stopped that way is not started again.
        """
        among_the_machines_processes = ["--rm", "--pid", "host", "--user", "0", "--entrypoint", "sh"]
        docker("run", *among_the_machines_processes, "taxi-test-host:dev", "-c", f"kill -9 {container['State']['Pid']}")

    def warehouse(self, query: str) -> list[list[Any]]:
        source_and_ask = '. /settings/service.env && exec python -c "$0"'
        command = ["exec", "-T", "analytics", "/bin/sh", "-c", source_and_ask, _WAREHOUSE_QUERY]
        rows: list[list[Any]] = json.loads(self.compose(*command, given=query).stdout)
        return rows

    def source_files(self, folder: Path, service: str) -> list[Path]:
        """The sample months of a service, as they are served."""
        folder.mkdir(exist_ok=True)
        files = []
        for month in ("2023-01", "2023-02", "2023-03"):
            file = folder / f"{service}_tripdata_{month}.parquet"
            address = f"{self.files_url}/sample/trip-data/{file.name}"
            found = httpx.get(address, auth=self.login, trust_env=False, timeout=30)
            file.write_bytes(found.raise_for_status().content)
            files.append(file)
        return files

    def assert_up(self) -> None:
        def unwell() -> dict[str, str]:
            states = {name: found["State"] for name, found in self.containers().items() if name in SERVERS}
            return {name: str(state.get("Health", state)) for name, state in states.items() if not is_well(state)}

        # On a busy machine a check can come too late, and is made up for by the next.
        wait_for(lambda: not unwell(), "every server to be well", 90)
        found = self.containers()
        assert set(SERVERS) <= found.keys()
        assert {name: found[name]["State"]["ExitCode"] for name in ONE_SHOT} == dict.fromkeys(ONE_SHOT, 0)
        # The webserver is well without them: it may have looked for one a moment before that one listened.
        wait_for(lambda: self.loaded_locations() == dict.fromkeys(LOCATIONS, True), "the locations to be loaded")


def launched(deployed: Deployment) -> str:
    """A new run of the month."""

    def run() -> str | None:
        try:
            return deployed.launch_month(MONTH)
        except AssertionError:
            # Postgres' death cut connections that the webserver keeps for some seconds: who uses one is told.
            return None

    return wait_for(run, "a run to be launched") or ""


def event(deployed: Deployment, run: str, kind: str, step: str = "") -> bool:
    """Whether a run has come to an event."""
    events = deployed.graphql(
        """query ($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
            ... on MessageEvent { eventType stepKey } } } } }""",
        id=run,
    )["logsForRun"]["events"]
    return bool([found for found in events if found["eventType"] == kind and (found["stepKey"] or "").endswith(step)])
