"""Redeploys on this machine, under load: no request, launch or tick fails, no run is lost, bad code never serves.

A copy of the repository is edited and deployed; each test says in figures what it saw.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from conftest import FINAL, Clone, copy_repository, environment, free_port, repeated, wait_for

OTHER = {"analytics": "ingestion", "ingestion": "analytics"}

# Added to each location: a run that is as long as it is told to, a backfill of twelve runs, a sensor that always looks.
PROBE = '''"""Made by a test."""

import os
import time
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    DefaultSensorStatus,
    MaterializeResult,
    SkipReason,
    StaticPartitionsDefinition,
    asset,
    define_asset_job,
    in_process_executor,
    sensor,
)

LOCATION = "{location}"
FOLDER = Path(os.environ.get("REPORTS_DIR", "/nonexistent"))
TWELVE = StaticPartitionsDefinition([f"p{{number:02}}" for number in range(12)])
VERSION = "{version}"


def _result() -> MaterializeResult[None]:
    return MaterializeResult(metadata={{"code": VERSION, "stamp": os.environ["CODELOC_VERSION"]}})


COMMON = {{"key_prefix": "probes", "group_name": "probes", "owners": ["team:{location}"], "kinds": {{"python"}}}}


@asset(name="{location}_quick", **COMMON)
def quick() -> MaterializeResult[None]:
    """Ends at once."""
    return _result()


@asset(name="{location}_held", **COMMON)
def held(context: AssetExecutionContext) -> MaterializeResult[None]:
    """Ends when a file is there."""
    context.log.info("waiting")
    while not (FOLDER / f"{{LOCATION}}.go-on").exists():
        time.sleep(0.05)
    return _result()


@asset(name="{location}_twelve", partitions_def=TWELVE, **COMMON)
def twelve() -> MaterializeResult[None]:
    """One run for each partition."""
    return _result()


job = define_asset_job("{location}_probe_job", [quick], description="Probes.", executor_def=in_process_executor)


@sensor(
    job=job,
    name="{location}_probe_sensor",
    minimum_interval_seconds=5,
    default_status=DefaultSensorStatus.RUNNING,
    description="Looks.",
)
def look() -> SkipReason:
    """Finds nothing."""
    return SkipReason(VERSION)
'''


class Redeployed(Clone):
    """A platform of a repository of its own, whose code is changed."""

    def edit(self, location: str, text: str) -> str:
        """Give the location's probe another version; returns that."""
        file = self.defs(location) / "probe.py"
        file.write_text(PROBE.format(location=location, version=text), encoding="utf-8")
        return text

    def defs(self, location: str) -> Path:
        return self.root / "locations" / location / "src" / location / "defs"

    def serves(self, location: str) -> str:
        """The version that the webserver has loaded."""
        entries = self.graphql(
            "{ workspaceOrError { ... on Workspace { locationEntries { name displayMetadata { key value } } } } }"
        )["workspaceOrError"]["locationEntries"]
        (image,) = [
            metadata["value"]
            for entry in entries
            if entry["name"] == location
            for metadata in entry["displayMetadata"]
            if metadata["key"] == "image"
        ]
        return str(image.rpartition(":")[2])

    def deploy(self, location: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.codeloc("deploy", location, *arguments)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    def deploying(self, watch: str, until: str) -> "subprocess.Popen[str]":
        """A deploy of analytics under way, in a process group of its own, that has come to a step."""
        started = subprocess.Popen(
            [str(self.root / "codeloc"), "deploy", "analytics", "--watch", watch],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )
        assert started.stdout is not None
        assert any(re.search(rf"\d {until} ", line) for line in started.stdout), until
        return started

    def servers(self, location: str) -> list[str]:
        """Every code server that there is of a location."""
        names = (line.split()[0] for line in self.supervisorctl("status").splitlines())
        return [name for name in names if name.startswith(f"{location}-")]

    def history(self, location: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.codeloc("history", location, "--json").stdout)
        return found

    def stamps(self, run_id: str) -> dict[str, str]:
        """What a run's only materialization says of its code."""
        events = self.graphql(
            """query ($id: ID!) { runOrError(runId: $id) { ... on Run { assetMaterializations {
                metadataEntries { label ... on TextMetadataEntry { text } } } } } }""",
            id=run_id,
        )["runOrError"]["assetMaterializations"]
        return {
            entry["label"]: entry["text"] for event in events for entry in event["metadataEntries"] if "text" in entry
        }

    def ticks(self, location: str) -> list[str]:
        """How each look of the probe's sensor ended."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "sensorName": f"{location}_probe_sensor",
        }
        found = self.graphql(
            """query ($it: SensorSelector!) { sensorOrError(sensorSelector: $it) { ... on Sensor {
                sensorState { ticks(limit: 1000) { status } } } } }""",
            it=selector,
        )["sensorOrError"]["sensorState"]["ticks"]
        return [tick["status"] for tick in found]

    def held_runs(self, location: str) -> Path:
        """The file that lets held runs go on."""
        return self.home / "served" / "reports" / f"{location}.go-on"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redeployed]:
    root = tmp_path_factory.mktemp("redeploy") / "repository"
    copy_repository(root)
    found = Redeployed(root / "var", free_port())
    for location in OTHER:
        found.edit(location, "first")
    started = found.codeloc("up", "--empty", "--port", str(found.port))
    assert started.returncode == 0, f"{started.stdout}\n{started.stderr}"
    yield found
    stopped = found.codeloc("down")
    assert stopped.returncode == 0, stopped.stderr
    assert found.processes() == []


@contextmanager
def under_load(platform: Redeployed) -> Iterator[None]:
    """Requests, launches and ticks for both locations inside, none of which may fail."""
    client = httpx.Client(base_url=platform.url, timeout=30, trust_env=False)
    query = """{ workspaceOrError { ... on Workspace { locationEntries {
        name loadStatus locationOrLoadError { __typename } } } }
        repositoriesOrError { ... on RepositoryConnection { nodes { location { name } assetNodes { id } } } } }"""
    dry_run = """mutation ($it: SensorSelector!) { sensorDryRun(selectorData: $it, cursor: "") {
        __typename ... on PythonError { message } } }"""
    mutation = """mutation ($it: ExecutionParams!) { launchRun(executionParams: $it) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    runs: list[str] = []

    def look() -> None:
        answer = client.post("/graphql", json={"query": query}).json()
        assert not answer.get("errors"), answer
        entries = answer["data"]["workspaceOrError"]["locationEntries"]
        assert {entry["name"] for entry in entries} == set(OTHER)
        assert all(
            entry["loadStatus"] == "LOADED" and entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
            for entry in entries
        ), entries
        nodes = answer["data"]["repositoriesOrError"]["nodes"]
        assert all(node["assetNodes"] for node in nodes)
        assert len(nodes) == len(OTHER)

    def ask(location: str) -> None:
        """What a code server must answer itself."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "sensorName": f"{location}_probe_sensor",
        }
        body = {"query": dry_run, "variables": {"it": selector}}
        answer = client.post("/graphql", json=body).json()
        assert not answer.get("errors"), answer
        assert answer["data"]["sensorDryRun"]["__typename"] == "DryRunInstigationTick", answer

    def launch() -> None:
        location = list(OTHER)[len(runs) % 2]
        params = {
            "selector": {
                "repositoryLocationName": location,
                "repositoryName": "__repository__",
                "jobName": f"{location}_probe_job",
            },
            "runConfigData": {},
            # dagster.yaml lets one of these run at a time: the machine is to have time for the deploys.
            "executionMetadata": {"tags": [{"key": "request", "value": "probe"}]},
        }
        launched = client.post("/graphql", json={"query": mutation, "variables": {"it": params}}).json()
        assert not launched.get("errors"), launched
        assert launched["data"]["launchRun"]["__typename"] == "LaunchRunSuccess", launched
        runs.append(launched["data"]["launchRun"]["run"]["runId"])

    ticks = {location: len(platform.ticks(location)) for location in OTHER}

    def looked() -> bool:
        return all(len(platform.ticks(location)) - ticks[location] > 2 for location in OTHER)

    with (
        repeated(look, 0.05) as looks,
        repeated(lambda: ask("analytics"), 0.25) as asked,
        repeated(lambda: ask("ingestion"), 0.25) as asked_too,
        repeated(launch, 1) as launches,
    ):
        yield
        # Each sensor looks every five seconds or so: what is over sooner has not had its looks.
        wait_for(looked, "three looks of each sensor")
    counted = {"requests": looks, "answers of analytics": asked, "of ingestion": asked_too, "launches": launches}
    ended = {location: platform.ticks(location)[: -ticks[location] or None] for location in OTHER}
    print(  # noqa: T201
        ", ".join(f"{len(done)} {what}" for what, (done, _) in counted.items()),
        "; ticks:",
        {location: len(found) for location, found in ended.items()},
    )
    assert {what: failed for what, (_, failed) in counted.items() if failed} == {}
    for location, found in ended.items():
        assert len(found) > 2, location
        assert set(found) <= {"SKIPPED", "STARTED"}, (location, found)
    # Each launch is a run that succeeds; those that wait when the load is over are not waited for.
    waiting = [run for run in runs if platform.run(run)["status"] == "QUEUED"]
    cancel = "mutation ($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }"
    platform.graphql(cancel, ids=waiting)
    ends = {run: platform.finished(run) for run in runs}
    print(f"{sum(end == 'SUCCESS' for end in ends.values())} of {len(runs)} launched runs had their turn")  # noqa: T201
    assert [end for run, end in ends.items() if end != "SUCCESS" and not (run in waiting and end == "CANCELED")] == []


@pytest.mark.timeout(1500)
def test_ten_deploys_in_a_row_fail_nobody(platform: Redeployed) -> None:
    before = {location: platform.pid(location) for location in OTHER}
    seconds = []
    with under_load(platform):
        for number in range(10):
            platform.edit("analytics", f"deploy {number}")
            began = time.monotonic()
            platform.deploy("analytics", "--watch", "0")
            seconds.append(time.monotonic() - began)
    print(f"10 deploys, {min(seconds):.1f} to {max(seconds):.1f} s each")  # noqa: T201
    assert platform.pid("ingestion") == before["ingestion"]
    assert platform.pid("analytics") != before["analytics"]
    done = [found for found in platform.history("analytics") if found["action"] == "deploy"]
    assert [found["outcome"] for found in done] == ["done"] * 10
    assert platform.serves("analytics") == done[0]["to_version"]


def test_a_rollback_under_load_fails_nobody(platform: Redeployed) -> None:
    platform.edit("analytics", "one too many")
    former = platform.serves("analytics")
    platform.deploy("analytics", "--watch", "0")
    with under_load(platform):
        back = platform.codeloc("rollback", "analytics")
        assert back.returncode == 0, back.stderr
        assert platform.serves("analytics") == former
        again = platform.codeloc("rollback", "analytics", platform.history("analytics")[0]["from_version"])
        assert again.returncode == 0, again.stderr
    newest = platform.history("analytics")[0]
    print(f"a rollback takes {newest['seconds']:.1f} s")  # noqa: T201
    assert newest["action"] == "rollback"


@pytest.mark.timeout(1200)
def test_runs_in_flight_end_on_the_code_they_were_submitted_with(platform: Redeployed) -> None:
    platform.quiet()
    first = {}
    held = {}
    backfills = {}
    for location in OTHER:
        platform.held_runs(location).unlink(missing_ok=True)
        first[location] = platform.serves(location)
        held[location] = platform.launch_asset(f"probes/{location}_held", location)
    for run in held.values():
        wait_for(lambda run=run: platform.run(run)["status"] == "STARTED", "the run to start")  # type: ignore[misc]
    for location in OTHER:
        backfills[location] = backfill(platform, f"probes/{location}_twelve")
    for number in range(2):
        for location in OTHER:
            platform.edit(location, f"meanwhile {number}")
            platform.deploy(location, "--watch", "0")
    later = {location: platform.launch_asset(f"probes/{location}_quick", location) for location in OTHER}
    for location, run in held.items():
        assert platform.run(run)["status"] == "STARTED"
        platform.held_runs(location).touch()
        assert platform.finished(run) == "SUCCESS"
        assert platform.stamps(run)["stamp"] == first[location]
        assert platform.stamps(run)["codeloc/version"] == first[location]
        assert platform.run(run)["tags"]["codeloc/version"] == first[location]
    for location, run in later.items():
        assert platform.finished(run) == "SUCCESS"
        assert platform.stamps(run)["code"] == "meanwhile 1"
        assert platform.run(run)["tags"]["codeloc/version"] == platform.serves(location)
    for location, found in backfills.items():
        parts = wait_for(lambda found=found: ended(platform, found), "the backfill")  # type: ignore[misc]
        assert sorted(part["tags"]["dagster/partition"] for part in parts) == [f"p{number:02}" for number in range(12)]
        assert {part["status"] for part in parts} == {"SUCCESS"}
        for part in parts:
            assert platform.stamps(part["runId"])["stamp"] == part["tags"]["codeloc/version"], location
        versions = {part["tags"]["codeloc/version"] for part in parts}
        print(f"{location}: 12 partitions, on {len(versions)} version(s)")  # noqa: T201


def backfill(platform: Redeployed, key: str) -> str:
    """Ask for all twelve partitions."""
    launched = platform.graphql(
        """mutation ($it: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $it) {
            __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        it={"assetSelection": [{"path": key.split("/")}], "partitionNames": [f"p{number:02}" for number in range(12)]},
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def ended(platform: Redeployed, found: str) -> list[dict[str, Any]]:
    """The runs of a backfill, once it and all of them have ended."""
    answer = platform.graphql(
        """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
            status runs(limit: 100) { runId status tags { key value } } } } }""",
        id=found,
    )["partitionBackfillOrError"]
    runs = [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in answer["runs"]]
    over = answer["status"].startswith("COMPLETED") and all(run["status"] in FINAL for run in runs)
    return runs if over else []


BROKEN = {
    "a syntax error": ("def broken(:\n", "SyntaxError"),
    "an import error": ("from analytics import nothing_of_that_name\n", "nothing_of_that_name"),
    "a missing dependency": ("import a_package_that_is_missing\n", "No module named 'a_package_that_is_missing'"),
    "another location's asset key": (
        "from dagster import asset\n\n\n@asset(key_prefix='raw')\ndef taxi_zones() -> None: ...\n",
        "raw/taxi_zones",
    ),
    "a process that dies soon": (
        "import os\nimport sys\nimport threading\n\nif 'grpc' in sys.argv:\n"
        "    threading.Timer(5, os._exit, [3]).start()\n",
        "did not stay up",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_code_is_refused_and_the_old_goes_on(platform: Redeployed, fault: str) -> None:
    code, reason = BROKEN[fault]
    refuse(platform, "analytics", platform.defs("analytics") / "broken.py", code, reason)


def test_code_that_never_loads_is_given_up(platform: Redeployed) -> None:
    hangs = "import time\n\nwhile True:\n    time.sleep(1)\n"
    refuse(
        platform, "analytics", platform.defs("analytics") / "broken.py", hangs, "did not load within", "--timeout", "8"
    )


def refuse(platform: Redeployed, location: str, file: Path, code: str, reason: str, *arguments: str) -> None:
    serves, pid = platform.serves(location), platform.pid(location)
    before = file.read_text(encoding="utf-8") if file.exists() else None
    file.write_text(code, encoding="utf-8")
    try:
        refused = platform.deploy(location, *arguments, code=1)
    finally:
        file.unlink() if before is None else file.write_text(before, encoding="utf-8")
    assert reason in refused.stderr
    assert f"{location} goes on with {serves}" in refused.stderr
    assert (platform.serves(location), platform.pid(location)) == (serves, pid)
    assert all(platform.loaded_locations().values())
    newest = platform.history(location)[0]
    assert newest["outcome"] == "failed"
    assert reason in newest["error"]
    # The candidate left nothing.
    assert len(platform.servers(location)) == 1


def test_a_contract_that_others_rely_on_cannot_be_broken(platform: Redeployed) -> None:
    contract = platform.root / "shared/src/taxi_shared/contracts/raw.taxi_zones.odcs.yaml"
    document = yaml.safe_load(contract.read_text(encoding="utf-8"))
    table = document["schema"][0]
    (borough,) = [column for column in table["properties"] if column["name"] == "borough"]
    borough["name"] = "boro"
    refuse(platform, "ingestion", contract, yaml.safe_dump(document, sort_keys=False), "raw.taxi_zones")
    refused = platform.history("ingestion")[0]["error"]
    assert "borough" in refused
    assert "analytics" in refused


def test_a_location_cannot_have_a_newer_dagster_than_the_host(platform: Redeployed) -> None:
    # Nothing newer than what is installed can be had here: the environment is made to say so of what it has.
    (metadata,) = platform.home.glob("environments/analytics-*/lib/*/site-packages/dagster-[0-9]*.dist-info/METADATA")
    before = metadata.read_text(encoding="utf-8")
    # Not in place: the file is a link to that of the developers' environment.
    metadata.unlink()
    metadata.write_text(re.sub("^Version: .*$", "Version: 99.0.0", before, flags=re.MULTILINE), encoding="utf-8")
    try:
        refuse(
            platform, "analytics", platform.defs("analytics") / "newer.py", '"""New."""\n', "Dagster 99.0.0 is newer"
        )
    finally:
        metadata.write_text(before, encoding="utf-8")


STEPS = {
    "loading": "load",
    "starting": "start",
    "watching": "watch",
    "switching": "switch",
    "waiting": "wait",
    "ending": "settle",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_deploy_that_is_killed_is_healed_by_the_next(platform: Redeployed, step: str) -> None:
    before = platform.serves("analytics")
    platform.edit("analytics", f"killed while {step}")
    deploy = platform.deploying("2", until=step)
    os.killpg(deploy.pid, signal.SIGKILL)
    deploy.communicate(timeout=60)

    def told() -> str:
        status = platform.codeloc("status").stdout
        return status if "cut off" in status else ""

    # Postgres hears of it when the killed process's connection is gone.
    status = wait_for(told, "status to tell of it", 30)
    assert f"cut off at the step '{STEPS[step]}'" in status
    assert all(platform.loaded_locations().values())
    platform.edit("analytics", f"after {step}")
    platform.deploy("analytics", "--watch", "0")
    healed, cut_off = platform.history("analytics")[:2]
    assert healed["outcome"] == "done"
    assert healed["to_version"] == platform.serves("analytics")
    assert cut_off["outcome"] in ("undone", "done")
    assert healed["from_version"] == (cut_off["to_version"] if cut_off["outcome"] == "done" else before)
    assert len(platform.servers("analytics")) == 1
    assert "cut off" not in platform.codeloc("status").stdout


def test_ctrl_c_takes_the_candidate_away(platform: Redeployed) -> None:
    before = platform.serves("analytics")
    platform.edit("analytics", "given up")
    deploy = platform.deploying("60", until="watching")
    os.killpg(deploy.pid, signal.SIGINT)
    deploy.communicate(timeout=60)
    assert deploy.returncode == 130
    assert platform.serves("analytics") == before
    assert platform.history("analytics")[0]["outcome"] == "failed"
    assert len(platform.servers("analytics")) == 1


def test_two_who_deploy_at_once_do_not_mix(platform: Redeployed) -> None:
    platform.edit("analytics", "mine")
    first = platform.deploying("10", until="watching")
    second = platform.deploy("ingestion", code=1)
    assert f"(pid {first.pid})" in second.stderr
    first.communicate(timeout=120)
    assert first.returncode == 0


def test_deploying_what_serves_does_nothing(platform: Redeployed) -> None:
    platform.deploy("analytics", "--watch", "0")
    before = platform.history("analytics")[0]
    again = platform.deploy("analytics")
    assert "nothing has changed" in again.stdout
    assert platform.history("analytics")[0] == before


def test_automation_still_fires_after_a_deploy(platform: Redeployed) -> None:
    follower = platform.defs("analytics") / "follower.py"
    follower.write_text(
        '"""Made by a test."""\n\nfrom dagster import AutomationCondition, asset\n\n\n'
        "@asset(\n    key_prefix='probes', group_name='probes', owners=['team:analytics'], kinds={'python'},\n"
        "    deps=[['probes', 'ingestion_quick']], automation_condition=AutomationCondition.eager(),\n)\n"
        "def follower() -> None:\n    '''Follows.'''\n",
        encoding="utf-8",
    )
    platform.deploy("analytics", "--watch", "0")

    def materialized() -> float:
        node = platform.graphql(
            """{ assetNodeOrError(assetKey: {path: ["probes", "follower"]}) { ... on AssetNode {
                assetMaterializations(limit: 1) { timestamp } } } }"""
        )["assetNodeOrError"]["assetMaterializations"]
        return float(node[0]["timestamp"]) if node else 0

    def follows() -> None:
        since = materialized()
        assert platform.finished(platform.launch_asset("probes/ingestion_quick", "ingestion")) == "SUCCESS"
        wait_for(lambda: materialized() > since, "the automation to follow", 90)
        platform.automation_looked()

    # eager() forgets what was updated before it was first evaluated, or before its own update was noticed.
    platform.automation_looked()
    follows()
    for location in OTHER:
        platform.edit(location, "automation goes on")
        platform.deploy(location, "--watch", "0")
        follows()


def test_runs_wait_for_a_code_server_that_was_killed(platform: Redeployed) -> None:
    with platform.stopped("daemon"):
        runs = [platform.launch("analytics_probe_job", "analytics") for _ in range(3)]
        psutil.Process(platform.pid("analytics")).kill()
    assert [platform.finished(run) for run in runs] == ["SUCCESS"] * 3
    wait_for(lambda: all(platform.loaded_locations().values()), "analytics to be back")


def test_a_rollback_outlives_down_and_up(platform: Redeployed) -> None:
    platform.edit("analytics", "rolled back")
    former = platform.serves("analytics")
    platform.deploy("analytics", "--watch", "0")
    assert platform.codeloc("rollback", "analytics").returncode == 0
    assert platform.codeloc("down").returncode == 0
    started = platform.codeloc("up", "--empty", "--port", str(platform.port))
    assert started.returncode == 0, started.stderr
    assert "was rolled back" in started.stdout
    assert platform.serves("analytics") == former
    platform.deploy("analytics", "--watch", "0")
    assert platform.serves("analytics") != former


def test_a_location_is_added_while_the_platform_is_up_and_taken_out_again(platform: Redeployed) -> None:
    def registry() -> dict[str, bytes]:
        return {
            name: (platform.root / name).read_bytes() for name in ("workspace.yaml", "dg.toml", "docker-compose.yml")
        }

    before, others = registry(), {name: platform.pid(name) for name in (*OTHER, "webserver", "daemon")}
    platform.held_runs("ingestion").unlink(missing_ok=True)
    held = platform.launch_asset("probes/ingestion_held", "ingestion")
    wait_for(lambda: platform.run(held)["status"] == "STARTED", "the run to start")

    made = platform.codeloc("new", "marketing")
    assert made.returncode == 0, made.stderr
    tested = platform.codeloc("test", "marketing")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    platform.deploy("marketing")
    assert platform.loaded_locations() == dict.fromkeys([*OTHER, "marketing"], True)
    assert platform.finished(platform.launch("marketing_first_job", "marketing")) == "SUCCESS"
    assert platform.finished(platform.launch_asset("marketing/first", "marketing")) == "SUCCESS"
    refused = platform.codeloc("new", "marketing")
    assert refused.returncode == 1
    assert "taken" in refused.stderr

    removed = platform.codeloc("remove", "marketing", "--force")
    assert removed.returncode == 0, removed.stderr
    assert registry() == before
    assert not (platform.root / "locations" / "marketing").exists()
    assert platform.loaded_locations() == dict.fromkeys(OTHER, True)
    assert platform.codeloc("status").returncode == 0
    # Nobody else was touched.
    assert {name: platform.pid(name) for name in others} == others
    platform.held_runs("ingestion").touch()
    assert platform.finished(held) == "SUCCESS"


def test_old_releases_are_removed_but_for_the_last_and_those_in_use(platform: Redeployed) -> None:
    kept = [found.name for found in (platform.home / "releases" / "analytics").iterdir()]
    newest = [found["to_version"] for found in platform.history("analytics") if found["outcome"] == "done"]
    assert len(set(newest)) > 6
    assert set(dict.fromkeys(newest[:5])) <= set(kept)
    assert len(kept) <= 7
    refused = platform.codeloc("rollback", "analytics", newest[-1])
    assert refused.returncode == 1
    assert "there is no version" in refused.stderr
