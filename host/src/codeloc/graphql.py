"""What the webserver is asked over GraphQL.

Dagster's own Python client launches, but cannot ask whether locations are loaded, which
partitions are there, or what a sensor did last; one small client for all of it reads better than two.
"""

import json
from dataclasses import dataclass
from typing import Any

import httpx

from codeloc.errors import CodelocError
from codeloc.serving import version_of

REPOSITORY = "__repository__"

_LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
    name loadStatus displayMetadata { key value }
    locationOrLoadError { __typename ... on PythonError { message causes { message } } }
} } } }
"""

_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } } }"

_LAUNCH = """
mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
} }
"""

_ACTIVE_RUNS = """
{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
    ... on Runs { results { runId status } } } }
"""

_RUN = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run {
    runId status jobName startTime endTime tags { key value }
} } }
"""

_BACKFILLS = """
{ partitionBackfillsOrError(limit: 50) { ... on PartitionBackfills { results { id status } } } }
"""

_ASSETS = """
{ assetNodes { assetKey { path } repository { location { name } } assetMaterializations(limit: 1) { timestamp } } }
"""

_PARTITIONS = """
query ($key: AssetKeyInput!, $partitions: [String!]) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetMaterializations(partitions: $partitions) {
        partition metadataEntries {
            label ... on IntMetadataEntry { intValue } ... on UrlMetadataEntry { url }
        }
    } } } }
"""

_AUTOMATION = """
query ($selector: RepositorySelector!) { sensorsOrError(repositorySelector: $selector) { ... on Sensors { results {
    name sensorType sensorState { status ticks(limit: 1) { timestamp endTimestamp status } }
} } } }
"""

_TAGGED_RUNS = """
query ($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}, limit: 100) { ... on Runs { results {
    runId status } } } }
"""

_RUN_RESULT = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run {
    assetMaterializations { metadataEntries { label
        ... on IntMetadataEntry { intValue } ... on UrlMetadataEntry { url }
        ... on PathMetadataEntry { path } ... on TextMetadataEntry { text }
    } }
    eventConnection { events { ... on ExecutionStepFailureEvent {
        failureMetadata { description } error { message cause { message } } } } }
} } }
"""

_REEXECUTE = """
mutation ($id: String!) { launchRunReexecution(reexecutionParams: {parentRunId: $id, strategy: ALL_STEPS}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
} }
"""

_SENSOR = """
query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
    sensorState { status ticks(limit: 1) { status error { message causes { message } } } }
} } }
"""

_CHECK = """
query ($key: AssetKeyInput!, $name: String!) { assetCheckExecutions(assetKey: $key, checkName: $name, limit: 10) {
    evaluation { success metadataEntries { label ... on TableMetadataEntry { table { records } } } }
} }
"""


@dataclass(frozen=True)
class LocationStatus:
    """A location as the webserver sees it.

    Attributes
    ----------
    error
        Why its definitions did not load.
    version
        Of the code that is loaded; None where none is.
    """

    name: str
    loaded: bool
    error: str | None
    version: str | None

    @property
    def failed(self) -> bool:
        """Whether its code does not load, rather than its server not answering yet."""
        return self.error is not None and "DagsterUserCodeUnreachableError" not in self.error


@dataclass(frozen=True)
class AssetStatus:
    """An asset, and whether anything of it was ever materialized."""

    key: str
    location: str
    materialized: bool


class Webserver:
    """The GraphQL endpoint of a webserver.

    Attributes
    ----------
    url
        Where people open it; it can be another address than the one it is asked at.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", public_url: str | None = None) -> None:
        asked_at = f"http://{host}:{port}"
        self.url = public_url or asked_at
        # Nothing on loopback or between containers goes through a proxy.
        self._client = httpx.Client(base_url=asked_at, timeout=60, trust_env=False)

    def query(self, query: str, **variables: object) -> dict[str, Any]:
        """Data of a query.

        Raises
        ------
        CodelocError
            The webserver cannot be reached or refuses the query.
        """
        try:
            answer = self._client.post("/graphql", json={"query": query, "variables": variables})
            body = answer.json()
        except (httpx.TransportError, ValueError) as error:
            raise CodelocError(f"the webserver at {self.url} does not answer ({error}): see `codeloc status`") from None
        if body.get("errors"):
            raise CodelocError(f"the webserver refused a query: {body['errors'][0].get('message')}")
        data: dict[str, Any] = body["data"]
        return data

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            return self._client.get("/server_info", timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def locations(self) -> list[LocationStatus]:
        """Every location of the workspace."""
        entries = self.query(_LOCATIONS)["workspaceOrError"].get("locationEntries", [])
        return [_location_status(entry) for entry in entries]

    def reload_workspace(self) -> None:
        """Have workspace.yaml read anew."""
        self.query("mutation { reloadWorkspace { __typename } }")

    def unhealthy_daemons(self, since: float = 0) -> list[str]:
        """Daemons that should run and do not, or were not heard of `since` (seconds since 1970)."""
        statuses = self.query(_DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return [
            status["daemonType"]
            for status in statuses
            if status["required"] and not (status["healthy"] and status["lastHeartbeatTime"] >= since)
        ]

    def launch(self, location: str, job: str, tags: dict[str, str]) -> str:
        """Put a run into the queue; returns its id."""
        params = {
            "selector": {"repositoryLocationName": location, "repositoryName": REPOSITORY, "jobName": job},
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.query(_LAUNCH, params=params)["launchRun"]
        if launched["__typename"] != "LaunchRunSuccess":
            reason = launched.get("message") or launched.get("errors") or launched["__typename"]
            raise CodelocError(f"{job} of {location} could not be launched: {reason}")
        return str(launched["run"]["runId"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Status, times and tags of a run."""
        found: dict[str, Any] = self.query(_RUN, id=run_id)["runOrError"]
        return found

    def tagged_runs(self, tags: dict[str, str]) -> list[dict[str, str]]:
        """Id and status of the newest runs that carry these tags, newest first."""
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        results: list[dict[str, str]] = self.query(_TAGGED_RUNS, tags=listed)["runsOrError"]["results"]
        return results

    def reexecute(self, run_id: str) -> str:
        """Put a run with the same configuration and tags into the queue; returns its id."""
        launched = self.query(_REEXECUTE, id=run_id)["launchRunReexecution"]
        if launched["__typename"] != "LaunchRunSuccess":
            raise CodelocError(
                f"run {run_id} could not be run again: {launched.get('message') or launched['__typename']}"
            )
        return str(launched["run"]["runId"])

    def result(self, run_id: str) -> dict[str, Any]:
        """Numbers, texts, paths and addresses in the metadata of what a run materialized, by label."""
        return {
            entry["label"]: next((entry[kind] for kind in ("intValue", "url", "path", "text") if kind in entry), None)
            for event in self.query(_RUN_RESULT, id=run_id)["runOrError"]["assetMaterializations"]
            for entry in event["metadataEntries"]
        }

    def failure(self, run_id: str) -> str:
        """Why the step of a run failed; empty where none did, for example when the run's process died."""
        for event in self.query(_RUN_RESULT, id=run_id)["runOrError"]["eventConnection"]["events"]:
            described = (event.get("failureMetadata") or {}).get("description")
            error = event.get("error")
            if described or error:
                return str(described or (error.get("cause") or error)["message"]).strip()
        return ""

    def sensor(self, location: str, name: str) -> dict[str, Any] | None:
        """Status and last tick of a sensor; None where the location does not have it, or is not loaded."""
        selector = {"repositoryLocationName": location, "repositoryName": REPOSITORY, "sensorName": name}
        state: dict[str, Any] | None = self.query(_SENSOR, selector=selector)["sensorOrError"].get("sensorState")
        return state

    def check_table(self, key: str, check: str, label: str) -> list[dict[str, Any]]:
        """Rows of the table `label` in the metadata of an asset check's newest evaluation; none before the first."""
        executions = self.query(_CHECK, key={"path": key.split("/")}, name=check)["assetCheckExecutions"]
        for execution in executions:  # newest first; one that has not ended says nothing
            if execution["evaluation"] is not None:
                entries = execution["evaluation"]["metadataEntries"]
                tables = [entry["table"]["records"] for entry in entries if entry["label"] == label]
                return [json.loads(record) for records in tables for record in records]
        return []

    def active_runs(self) -> list[str]:
        """Runs that are queued or under way."""
        return [run["runId"] for run in self.query(_ACTIVE_RUNS)["runsOrError"]["results"]]

    def active_backfills(self) -> list[str]:
        """Backfills that are under way."""
        results = self.query(_BACKFILLS)["partitionBackfillsOrError"]["results"]
        return [found["id"] for found in results if found["status"] in ("REQUESTED", "CANCELING", "FAILING")]

    def assets(self) -> list[AssetStatus]:
        """Every asset of every location."""
        return [
            AssetStatus(
                key="/".join(node["assetKey"]["path"]),
                location=node["repository"]["location"]["name"],
                materialized=bool(node["assetMaterializations"]),
            )
            for node in self.query(_ASSETS)["assetNodes"]
        ]

    def newest(self, key: str, partitions: list[str] | None) -> dict[str | None, dict[str, Any]]:
        """Numbers and addresses in the metadata of the newest materialization of each partition, by label.

        Parameters
        ----------
        partitions
            Those asked for; None for an asset without partitions, whose entry has the key None.
        """
        node = self.query(_PARTITIONS, key={"path": key.split("/")}, partitions=partitions)["assetNodeOrError"]
        found: dict[str | None, dict[str, Any]] = {}
        for event in node.get("assetMaterializations", []):  # newest first
            entries = event["metadataEntries"]
            values = {entry["label"]: entry.get("intValue", entry.get("url")) for entry in entries}
            found.setdefault(event["partition"], values)
        return found

    def automation_sensors(self, location: str) -> list[dict[str, Any]]:
        """Running automation sensors of a location, each with its last tick."""
        selector = {"repositoryLocationName": location, "repositoryName": REPOSITORY}
        sensors = self.query(_AUTOMATION, selector=selector)["sensorsOrError"]["results"]
        return [
            sensor
            for sensor in sensors
            if sensor["sensorType"] in ("AUTOMATION", "AUTO_MATERIALIZE")
            and sensor["sensorState"]["status"] == "RUNNING"
        ]


def _location_status(entry: dict[str, Any]) -> LocationStatus:
    found = entry["locationOrLoadError"] or {}
    error = None
    if found.get("__typename") == "PythonError":
        # From what the webserver noticed to what the code did.
        error = "\n".join(cause["message"].strip() for cause in [found, *found.get("causes", [])])
    loaded = entry["loadStatus"] == "LOADED" and found.get("__typename") == "RepositoryLocation"
    told = {metadata["key"]: metadata["value"] for metadata in entry["displayMetadata"]}
    return LocationStatus(entry["name"], loaded, error, version_of(told.get("image")) if loaded else None)
