"""Redeploys in containers: under load nobody fails, a run keeps its code, bad code never serves, a kill is healed.

A copy of the repository is changed and deployed to the deployment that the other tests use; each test prints what it
saw.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import MONTH, SERVERS, Deployment, docker, event

from conftest import FINAL, LOCATIONS, copy_repository, environment, repeated, wait_for

pytestmark = pytest.mark.docker

TRIPS = "ingestion.raw.taxi_trips"
SENSOR = "adhoc_request_sensor"


@dataclass
class Redeployed:
    """The deployment, and a repository whose code is brought out there."""

    deployed: Deployment
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return environment() | {
            "COMPOSE_PROJECT_NAME": self.deployed.project,
            "COMPOSE_ENV_FILES": str(self.deployed.settings),
        }

    def command(self, *arguments: str) -> list[str]:
        return [str(self.root / "codeloc"), *arguments, "--compose"]

    def codeloc(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=540, check=False
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    def change(self, location: str, code: str) -> None:
        """Have the location's code be another one."""
        folder = self.root / "locations" / location / "src" / location / "defs"
        (folder / "changed.py").write_text(f'"""Made by a test."""\n{code}\n', encoding="utf-8")

    def container(self, location: str) -> dict[str, Any]:
        """The only server of a location."""
        (found,) = self.deployed.servers(location)
        return found

    def version(self, location: str) -> str:
        return str(self.container(location)["Config"]["Image"].rpartition(":")[2])

    def require_one_that_serves(self, location: str) -> str:
        """One server is there, it is talked to, and the next start makes no other; its version."""
        server, version = self.container(location), self.version(location)
        # A server that was started anew is looked at anew by the webserver.
        wait_for(lambda: self.deployed.served(location) == version, f"the webserver to have loaded {version}", 60)
        assert f"{location.upper()}_TAG={version}\n" in self.deployed.settings.read_text()
        self.deployed.compose("up", "--detach", location)
        assert self.container(location)["State"]["StartedAt"] == server["State"]["StartedAt"]
        return version


@pytest.fixture(scope="module")
def redeployed(deployed: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redeployed]:
    root = tmp_path_factory.mktemp("redeployed") / "repository"
    copy_repository(root)
    found = Redeployed(deployed, root)
    settings = deployed.settings.read_text()
    for location in LOCATIONS:
        found.codeloc("deploy", location, "--watch", "0")
    yield found
    # As the tests of other modules know it.
    deployed.settings.write_text(settings)
    deployed.compose("up", "--detach", "--build", "--wait")


@contextmanager
def under_load(deployed: Deployment) -> Iterator[None]:
    """Requests, launches and ticks inside, none of which may fail."""
    client = httpx.Client(base_url=deployed.url, auth=deployed.login, timeout=30, trust_env=False)
    selector = {"repositoryLocationName": "analytics", "repositoryName": "__repository__", "sensorName": SENSOR}
    runs: list[str] = []

    def ask(query: str, **variables: object) -> dict[str, Any]:
        answer = client.post("/graphql", json={"query": query, "variables": variables}).json()
        assert not answer.get("errors"), answer
        data: dict[str, Any] = answer["data"]
        return data

    def look() -> None:
        data = ask(
            """{ workspaceOrError { ... on Workspace { locationEntries {
                name loadStatus locationOrLoadError { __typename } } } }
            repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"""
        )
        entries = data["workspaceOrError"]["locationEntries"]
        assert {entry["name"] for entry in entries} == set(LOCATIONS)
        assert {entry["loadStatus"] for entry in entries} == {"LOADED"}
        assert {entry["locationOrLoadError"]["__typename"] for entry in entries} == {"RepositoryLocation"}
        assert all(node["jobs"] for node in data["repositoriesOrError"]["nodes"])

    def dry_run() -> None:
        """What the code server must answer itself."""
        mutation = """mutation ($it: SensorSelector!) { sensorDryRun(selectorData: $it, cursor: "") {
            __typename ... on PythonError { message } } }"""
        answer = ask(mutation, it=selector)["sensorDryRun"]
        assert answer["__typename"] == "DryRunInstigationTick", answer

    def launch() -> None:
        location, asset = [("analytics", "reports/manhattan_stats"), ("ingestion", "raw/taxi_zones")][len(runs) % 2]
        runs.append(deployed.launch_asset(asset, location))

    def ticks() -> list[dict[str, Any]]:
        found = deployed.graphql(
            """query ($it: SensorSelector!) { sensorOrError(sensorSelector: $it) { ... on Sensor {
                sensorState { ticks(limit: 1000) { id status } } } } }""",
            it=selector,
        )
        listed: list[dict[str, Any]] = found["sensorOrError"]["sensorState"]["ticks"]
        return listed

    before = {tick["id"] for tick in ticks()}
    with repeated(look, 0.05) as looks, repeated(dry_run, 0.25) as answers, repeated(launch, 5) as launches:
        yield
    ticked = [tick["status"] for tick in ticks() if tick["id"] not in before]
    counted = {"requests": looks, "answers of analytics": answers, "launches": launches}
    print(", ".join(f"{len(done)} {what}" for what, (done, _) in counted.items()), f"{len(ticked)} ticks")  # noqa: T201
    assert {what: failed for what, (_, failed) in counted.items() if failed} == {}
    assert len(ticked) > 2
    assert set(ticked) <= {"SKIPPED", "STARTED"}
    # Each launch is a run that succeeds; those that wait when the load is over need not have their turn.
    waiting = [run for run in runs if deployed.run(run)["status"] == "QUEUED"]
    cancel = "mutation ($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }"
    deployed.graphql(cancel, ids=waiting)
    ends = {run: deployed.finished(run) for run in runs}
    print(f"{sum(end == 'SUCCESS' for end in ends.values())} of {len(runs)} launched runs had their turn")  # noqa: T201
    assert [end for run, end in ends.items() if end != "SUCCESS" and not (run in waiting and end == "CANCELED")] == []


def test_deploys_and_rollbacks_under_load_fail_nobody(redeployed: Redeployed) -> None:
    deployed, seconds = redeployed.deployed, []

    def timed(*arguments: str) -> None:
        began = time.monotonic()
        redeployed.codeloc(*arguments)
        seconds.append(f"{arguments[0]} {time.monotonic() - began:.0f} s")

    deployed.quiet()
    first = redeployed.version("analytics")
    before = deployed.containers()
    with under_load(deployed):
        for number in range(3):
            redeployed.change("analytics", f"NUMBER = {number}")
            # The runs have the machine to themselves, nearly.
            timed("deploy", "analytics", "--watch", "0", "--timeout", "240")
        timed("rollback", "analytics")
        timed("rollback", "analytics", first)
    print(", ".join(seconds))  # noqa: T201
    after = deployed.containers()
    for service in set(SERVERS) - {"analytics"}:
        assert after[service]["State"]["StartedAt"] == before[service]["State"]["StartedAt"], service
    assert redeployed.require_one_that_serves("analytics") == first
    told = redeployed.codeloc("history", "analytics").stdout
    assert len(re.findall(r"rollback", told)) == 2


# An asset that ends when it is told to; its run's container stands still for nobody else.
HELD = """
import os
import time
from pathlib import Path

from dagster import asset

NUMBER = {number}


@asset(key_prefix="probes", group_name="probes", owners=["team:ingestion"], kinds={{"python"}})
def held() -> None:
    while not (Path(os.environ["LANDING_DIR"]) / "go-on").exists():
        time.sleep(0.05)
"""


def test_a_run_in_flight_ends_on_the_code_it_was_submitted_with(redeployed: Redeployed) -> None:
    deployed = redeployed.deployed
    rows = deployed.fingerprint(TRIPS)
    versions, runs = [], []
    for number in range(3):
        redeployed.change("ingestion", HELD.format(number=number))
        redeployed.codeloc("deploy", "ingestion", "--watch", "0")
        versions.append(redeployed.require_one_that_serves("ingestion"))
        runs.append(deployed.launch_asset("probes/held"))
        wait_for(lambda: event(deployed, runs[-1], "STEP_START"), "the run to begin")
    assert len(set(versions)) == 3
    for run, version in zip(runs, versions, strict=True):
        found = deployed.runs()[run]
        image = found["Config"]["Image"]
        assert image == f"taxi-test-ingestion:{version}"
        assert found["Image"] == docker("image", "inspect", "--format", "{{.Id}}", image).strip()
        assert f"CODELOC_VERSION={version}" in found["Config"]["Env"]
        assert f"CODELOC_IMAGE={found['Image']}" in found["Config"]["Env"]
    deployed.compose("exec", "-T", "ingestion", "sh", "-c", '. /settings/service.env && touch "$LANDING_DIR/go-on"')
    assert [deployed.finished(run) for run in runs] == ["SUCCESS"] * 3
    assert deployed.finished(deployed.launch_month(MONTH)) == "SUCCESS"
    assert deployed.fingerprint(TRIPS) == rows


BROKEN = {
    "an import error": ("from analytics import nothing_of_that_name", "nothing_of_that_name"),
    "a hanging import": ("import time\n\nwhile True:\n    time.sleep(1)", "did not load within 20 s"),
    "a process that dies soon": (
        "import os\nimport sys\nimport threading\n\nif 'grpc' in sys.argv:\n"
        "    threading.Timer(4, os._exit, [3]).start()",
        "",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_code_is_refused_and_the_old_goes_on(redeployed: Redeployed, fault: str) -> None:
    code, reason = BROKEN[fault]
    before, version = redeployed.container("analytics"), redeployed.version("analytics")
    redeployed.change("analytics", code)
    began = time.monotonic()
    # What hangs is given up soon; a busy machine may take longer to find the other faults.
    patience = "20" if fault == "a hanging import" else "120"
    refused = redeployed.codeloc("deploy", "analytics", "--watch", "6", "--timeout", patience, code=1)
    print(f"refused after {time.monotonic() - began:.0f} s: {refused.stderr.strip()[-400:]}")  # noqa: T201
    assert reason in refused.stderr
    assert f"analytics goes on with {version}" in refused.stderr
    assert redeployed.container("analytics")["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert redeployed.require_one_that_serves("analytics") == version


# What it prints when it begins a step; before the link is turned, and after.
KILLED = {"watching": False, "waiting until": True}


@pytest.mark.parametrize("step", KILLED)
def test_a_deploy_that_is_killed_is_healed_by_the_next(redeployed: Redeployed, step: str) -> None:
    deployed, before = redeployed.deployed, redeployed.version("analytics")
    redeployed.change("analytics", f"STEP = {step!r}")
    deploy = subprocess.Popen(
        redeployed.command("deploy", "analytics", "--watch", "3"),
        env=redeployed.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert deploy.stdout is not None
    assert any(step in line for line in deploy.stdout)
    os.killpg(deploy.pid, signal.SIGKILL)
    deploy.communicate()
    left = {server["Config"]["Image"].rpartition(":")[2] for server in deployed.servers("analytics")}
    assert len(left) == 2
    (new,) = left - {before}
    if KILLED[step]:
        wait_for(lambda: deployed.served("analytics") == new, "the new version to be loaded")
    # As after the machine was started anew: who serves is not who is first.
    deployed.compose("restart", "--timeout", "5", "analytics")
    serves = new if KILLED[step] else before
    wait_for(lambda: loaded(deployed) == serves, f"{serves} to be back")
    began = time.monotonic()
    healed = redeployed.codeloc("deploy", "analytics", "--watch", "0")
    print(f"healed in {time.monotonic() - began:.0f} s")  # noqa: T201
    assert "was cut off" in healed.stdout
    assert redeployed.require_one_that_serves("analytics") == new


def loaded(deployed: Deployment) -> str | None:
    """The version that is loaded, if one is and the webserver answers."""
    try:
        return deployed.served("analytics")
    except (httpx.HTTPError, KeyError):
        return None


def test_runs_wait_for_a_code_server_that_was_killed(redeployed: Redeployed) -> None:
    deployed = redeployed.deployed
    runs = [deployed.launch_asset("reports/manhattan_stats", "analytics") for _ in range(3)]
    deployed.kill(redeployed.container("analytics"))
    wait_for(lambda: all(deployed.run(run)["status"] in FINAL for run in runs), "the runs", 180)
    assert [deployed.run(run)["status"] for run in runs] == ["SUCCESS"] * 3


def test_a_location_is_added_and_taken_out_while_the_others_go_on(redeployed: Redeployed) -> None:
    deployed = redeployed.deployed
    before = {location: redeployed.container(location)["State"]["StartedAt"] for location in LOCATIONS}
    compose = (redeployed.root / "docker-compose.yml").read_text()
    made = subprocess.run(
        [str(redeployed.root / "codeloc"), "new", "marketing"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    redeployed.codeloc("deploy", "marketing", "--watch", "0")
    assert deployed.loaded_locations() == dict.fromkeys([*LOCATIONS, "marketing"], True)
    assert deployed.finished(deployed.launch("marketing_first_job", "marketing")) == "SUCCESS"
    redeployed.codeloc("remove", "marketing", "--force")
    wait_for(lambda: deployed.loaded_locations() == dict.fromkeys(LOCATIONS, True), "the others to be all there is")
    assert deployed.servers("marketing") == []
    assert (redeployed.root / "docker-compose.yml").read_text() == compose
    assert {location: redeployed.container(location)["State"]["StartedAt"] for location in LOCATIONS} == before
