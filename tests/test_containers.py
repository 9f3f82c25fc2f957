"""Runs in containers of their own: what the gate lets through, and that nothing which dies takes a run with it."""

import json
import time
from typing import Any

import httpx
import pytest
from deployment import MONTH, SERVERS, Deployment, docker, event, is_well

from conftest import FINAL, LOCATIONS, wait_for

pytestmark = pytest.mark.docker

TRIPS = "ingestion.raw.taxi_trips"

# Done with the client and the socket that the launcher has, in the daemon's container or the webserver's.
_REQUESTS = """
import json, sys
import docker
from docker.errors import APIError, DockerException

engine = docker.from_env()
image, service, run = sys.argv[1:]
command, labels = ["dagster", "api", "execute_run", "{}"], {"dagster/run_id": "0" * 36, "dagster/job_name": "job"}

def create(**asked):
    defaults = {"image": image, "command": command, "labels": labels, "auto_remove": True, "detach": True}
    engine.containers.create(**{**defaults, **asked})

requests = {
    "privileged": lambda: create(privileged=True),
    "a folder of the machine": lambda: create(volumes=["/:/machine"]),
    "another location's volume": lambda: create(volumes=["taxi_lake-analytics:/data/lakes/analytics"]),
    "the machine's network": lambda: create(network_mode="host"),
    "the machine's processes": lambda: create(pid_mode="host"),
    "a capability": lambda: create(cap_add=["SYS_ADMIN"]),
    "root": lambda: create(user="root"),
    "another command": lambda: create(command=["/bin/sh", "-c", "id"]),
    "another image": lambda: create(image="postgres:15"),
    "a run of another location's image": lambda: create(image=image.replace("ingestion", "host")),
    "an image of the world": lambda: engine.images.pull("busybox", "1"),
    "a build": lambda: engine.api.post(engine.api._url("/build")).raise_for_status(),
    "a service's description": lambda: engine.containers.get(service),
    "a service's end": lambda: engine.api.stop(service),
    "a command in a run": lambda: engine.api.exec_create(run, ["id"]),
    "a run's files": lambda: engine.api.get_archive(run, "/settings/service.env"),
    "a run's removal": lambda: engine.api.remove_container(run),
    "all containers": lambda: engine.containers.list(),
    "a volume": lambda: engine.volumes.create("mine"),
    "a network": lambda: engine.networks.create("mine"),
    "the engine's description": lambda: engine.info(),
    "a launch": lambda: create(),
}
answers = {}
for name, ask in requests.items():
    try:
        ask()
        answers[name] = "done"
    except DockerException as error:
        answers[name] = error.response.status_code if isinstance(error, APIError) else str(error)
    except Exception as error:
        answers[name] = getattr(getattr(error, "response", None), "status_code", repr(error))
answers["a run's description"] = engine.containers.get(run).status
print(json.dumps(answers))
"""


def told(deployed: Deployment, run: str, message: str) -> bool:
    """Whether a run's log says something."""
    events = deployed.graphql(
        """query ($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
            ... on MessageEvent { message } } } } }""",
        id=run,
    )["logsForRun"]["events"]
    return any(message in found["message"] for found in events)


def outcome(deployed: Deployment, run: str, seconds: float = 300) -> list[str]:
    """How a run and those that tried it again ended, once one of them succeeded or none is left."""
    query = """query ($id: String!) { runsOrError(filter: {tags: [{key: "dagster/root_run_id", value: $id}]}) {
        ... on Runs { results { runId status } } } }"""

    def ended() -> list[str] | None:
        again = deployed.graphql(query, id=run)["runsOrError"]["results"]
        ends = [str(deployed.run(run)["status"]), *(str(found["status"]) for found in reversed(again))]
        return ends if ends[-1] == "SUCCESS" else None

    return wait_for(ended, f"run {run} to succeed, or to be tried again", seconds) or []


def kill(deployed: Deployment, service: str) -> None:
    """End a service, and wait until it was started again and is well."""
    killed = deployed.containers()[service]
    deployed.kill(killed)

    def is_back() -> bool:
        state = deployed.containers()[service]["State"]
        return bool(state["StartedAt"] > killed["State"]["StartedAt"]) and is_well(state)

    wait_for(is_back, f"{service} to come back")


def all_loaded(deployed: Deployment) -> bool:
    """Whether the UI answers and shows both locations; for a moment after a kill it does not."""
    try:
        return deployed.loaded_locations() == dict.fromkeys(LOCATIONS, True)
    except (httpx.HTTPError, ValueError, AssertionError):
        return False


def test_the_gate_lets_runs_through_and_nothing_else(deployed: Deployment, held: str) -> None:
    image = deployed.containers()["ingestion"]["Config"]["Image"]
    service, run = deployed.containers()["postgres"]["Id"], deployed.runs()[held]["Id"]
    for client in ("daemon", "webserver"):
        asked = deployed.compose("exec", "-T", client, "python", "-", image, service, run, given=_REQUESTS)
        answers = json.loads(asked.stdout)
        assert answers.pop("a run's description") == "running"
        # A run nobody knows: its container was made, and not started.
        assert answers.pop("a launch") == ("done" if client == "daemon" else 403)
        assert answers == dict.fromkeys(answers, 403), client
    made = docker("ps", "--all", "--quiet", "--filter", f"label=dagster/run_id={'0' * 36}").split()
    assert len(made) == 1
    docker("rm", "--volumes", *made)


def test_a_run_has_its_locations_volumes_and_confinement_and_leaves_nothing(deployed: Deployment, held: str) -> None:
    run, service = deployed.runs()[held], deployed.containers()["ingestion"]

    def mounts(container: dict[str, Any]) -> set[tuple[str, str, bool]]:
        return {
            (mount["Name"], mount["Destination"], mount["RW"])
            for mount in container["Mounts"]
            # Its own, and what it must not have: with that it could pass itself off as a server.
            if mount["Destination"] not in ("/data/spill", "/run/codeserver")
        }

    assert mounts(run) == mounts(service)
    assert "/run/codeserver" not in {mount["Destination"] for mount in run["Mounts"]}
    image = deployed.containers()["ingestion"]["Config"]["Image"]
    assert f"DAGSTER_CURRENT_IMAGE={image}" in run["Config"]["Env"]
    assert f"CODELOC_IMAGE={run['Image']}" in run["Config"]["Env"]
    assert {name for name, _, _ in mounts(run)} == {
        f"{deployed.project}_{volume}"
        for volume in ("dagster", "files-ingestion", "lake-ingestion", "settings-ingestion")
    }
    (spill,) = [mount["Name"] for mount in run["Mounts"] if mount["Destination"] == "/data/spill"]
    assert (run["Image"], run["Config"]["User"]) == (service["Image"], "10001:10001")
    assert run["HostConfig"]["Memory"] == 4 * 1024**3
    for part in ("CapDrop", "NetworkMode", "PidsLimit", "ReadonlyRootfs", "SecurityOpt", "LogConfig", "Init"):
        assert run["HostConfig"][part] == service["HostConfig"][part], part
    assert not run["HostConfig"]["Privileged"]
    assert not any(run["HostConfig"]["PortBindings"] or {})

    deployed.compose("unpause", "files")
    assert deployed.finished(held) == "SUCCESS"
    wait_for(lambda: held not in deployed.runs(), "the run's container to be removed")
    assert spill not in docker("volume", "ls", "--quiet").split()


def test_a_run_is_canceled_from_the_ui(deployed: Deployment, held: str) -> None:
    answer = deployed.graphql(
        "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }",
        id=held,
    )["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess"
    # By itself, and not because its container was killed after 30 seconds.
    assert deployed.finished(held, 20) == "CANCELED"
    wait_for(lambda: held not in deployed.runs(), "the run's container to be removed")


def test_a_run_outlives_every_server(deployed: Deployment, held: str) -> None:
    before, container = deployed.fingerprint(TRIPS), deployed.runs()[held]["Id"]
    for service in ("daemon", "webserver", "gate", *LOCATIONS):
        kill(deployed, service)
    wait_for(lambda: all_loaded(deployed), "both locations to be loaded")
    assert deployed.runs()[held]["Id"] == container
    deployed.compose("unpause", "files")
    assert outcome(deployed, held) == ["SUCCESS"]
    assert deployed.fingerprint(TRIPS) == before


def test_a_run_whose_container_dies_is_tried_again(deployed: Deployment) -> None:
    before, run = deployed.fingerprint(TRIPS), deployed.launch_month(MONTH)
    # While it replaces the month's rows.
    wait_for(lambda: event(deployed, run, "STEP_START", "taxi_trips"), "the month to be replaced")
    deployed.kill(deployed.runs()[run])
    killed_at = time.monotonic()
    wait_for(lambda: deployed.run(run)["status"] in FINAL, "the death to be noticed", 60)
    print(f"noticed after {time.monotonic() - killed_at:.0f} s")  # noqa: T201  (what README says of it)
    assert outcome(deployed, run) == ["FAILURE", "SUCCESS"]
    assert deployed.fingerprint(TRIPS) == before


def test_a_run_is_brought_to_its_end_when_postgres_dies(deployed: Deployment, held: str) -> None:
    before = deployed.fingerprint(TRIPS)
    kill(deployed, "postgres")
    wait_for(lambda: all_loaded(deployed), "both locations to be loaded")
    deployed.compose("unpause", "files")
    assert outcome(deployed, held)[-1] == "SUCCESS"
    assert deployed.fingerprint(TRIPS) == before


def test_nothing_is_lost_or_left_when_all_is_stopped_in_the_middle_of_a_run(deployed: Deployment, held: str) -> None:
    tables = (TRIPS, "marts.trips_by_week")
    before = [deployed.fingerprint(table) for table in tables]
    deployed.compose("down")
    assert deployed.leftovers() == ""
    # The daemon comes to the interrupted run before the run's location is there.
    deployed.compose("up", "--detach", "--wait", *(server for server in SERVERS if server not in LOCATIONS))
    wait_for(lambda: told(deployed, held, "tried again when the code location 'ingestion' is back"), "the run to wait")
    deployed.compose("up", "--detach", "--wait")
    deployed.assert_up()
    assert outcome(deployed, held) == ["FAILURE", "SUCCESS"]
    assert [deployed.fingerprint(table) for table in tables] == before
    assert " 0 runs " in deployed.compose("run", "--rm", "seed").stdout
    report = httpx.get(f"{deployed.url}/reports/report.html", auth=deployed.login, trust_env=False)
    assert report.status_code == 200
