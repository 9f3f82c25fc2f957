"""The login of the deployment: who gets in, what viewers cannot do, what other sites cannot do, and what is stored."""

import json
import os
import queue
import socket
import ssl
import struct
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment

from conftest import CODELOC, LOCATIONS, ROOT, environment, free_port, wait_for

pytestmark = pytest.mark.docker

VIEWER = ("vera", "a viewer's password")
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


def ask(
    deployed: Deployment,
    path: str,
    login: tuple[str, str] | None,
    method: str = "GET",
    **rest: Any,  # noqa: ANN401
) -> httpx.Response:
    return httpx.request(method, f"{deployed.url}{path}", auth=login, trust_env=False, timeout=60, **rest)


def users(deployed: Deployment, *arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
    """`codeloc users` as a person types it who runs the deployment."""
    chosen = {"COMPOSE_PROJECT_NAME": deployed.project, "COMPOSE_ENV_FILES": str(deployed.settings)}
    return subprocess.run(
        [CODELOC, "users", *arguments],
        env=environment() | chosen,
        input=f"{password}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def status(deployed: Deployment, login: tuple[str, str]) -> int:
    return ask(deployed, "/server_info", login).status_code


@pytest.fixture(scope="module")
def with_viewer(deployed: Deployment) -> Deployment:
    added = users(deployed, "add", VIEWER[0], "--role", "viewer", password=VIEWER[1])
    assert added.returncode == 0, added.stderr
    wait_for(lambda: status(deployed, VIEWER) == 200, "the viewer to be let in", 10)
    return deployed


# Kinds of websocket frames. The server asks every 20 s whether the client is still there.
_TEXT, _PING, _PONG = 1, 9, 10


class Socket:
    """A websocket, as far as a test needs one: short text messages, and the answer to the handshake."""

    def __init__(self, deployed: Deployment, login: tuple[str, str]) -> None:
        self.connection = socket.create_connection(("127.0.0.1", deployed.port), timeout=60)
        self.stream = self.connection.makefile("rb")
        basic = b64encode(":".join(login).encode()).decode()
        sent = {"Host": f"127.0.0.1:{deployed.port}", "Authorization": f"Basic {basic}"} | UPGRADE
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self.connection.sendall(f"GET /graphql HTTP/1.1\r\n{lines}\r\n".encode())
        self.status = int(self.stream.readline().split()[1])
        while self.stream.readline().strip():
            pass
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def greeted(self) -> bool:
        """Whether the server at the other end answers."""
        return self.answer({"type": "connection_init"}) == {"type": "connection_ack"}

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        self._send(_TEXT, json.dumps(message).encode())
        return self.answers.get(timeout=20)

    def close(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.reader.join()
        self.stream.close()
        self.connection.close()

    def _send(self, kind: int, content: bytes) -> None:
        assert len(content) < 126
        # Masked, as a client must, with a mask that changes nothing.
        self.connection.sendall(bytes([0x80 | kind, 0x80 | len(content), 0, 0, 0, 0]) + content)

    def _read(self) -> None:
        while header := self.stream.read(2):
            size = header[1] & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", self.stream.read(2))
            content = self.stream.read(size)
            if header[0] & 0x0F == _PING:
                self._send(_PONG, content)
            elif header[0] & 0x0F == _TEXT:
                self.answers.put(json.loads(content))


# -- who gets in ----------------------------------------------------------------------------------


def static_file(deployed: Deployment) -> str:
    page = ask(deployed, "/", deployed.admin).text
    return "/" + page.split('<script src="/', 1)[-1].split('"', 1)[0] if '<script src="/' in page else "/favicon.png"


@pytest.mark.parametrize("login", [None, ("admin", "not the password"), ("nobody", "not the password"), ("", "")])
def test_nothing_is_shown_without_a_login(deployed: Deployment, login: tuple[str, str] | None) -> None:
    query = {"query": "{ version }"}
    tried = [
        ask(deployed, "/graphql", login, "POST", json=query),
        ask(deployed, "/graphql", login, params=query),
        ask(deployed, "/graphql", login, headers=UPGRADE),
        ask(deployed, "/report_asset_materialization/raw/taxi_zones", login, "POST", json={}),
        ask(deployed, "/", login, "DELETE"),
        *(
            ask(deployed, path, login)
            for path in ("/", "/server_info", static_file(deployed), "/reports/report.html", "/sample/README.txt")
        ),
    ]
    assert [answer.status_code for answer in tried] == [401] * len(tried)
    for answer in tried:
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert "dagster_version" not in answer.text


def test_an_editor_may_do_everything(deployed: Deployment) -> None:
    assert deployed.loaded_locations() == dict.fromkeys(LOCATIONS, True)
    assert deployed.finished(deployed.launch_asset("raw/taxi_zones")) == "SUCCESS"
    opened = Socket(deployed, deployed.admin)
    assert opened.status == 101
    assert opened.greeted()
    opened.close()


def test_a_browser_gets_headers_that_confine_the_page(deployed: Deployment) -> None:
    for path in ("/", "/reports/report.html"):
        headers = ask(deployed, path, deployed.admin).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "same-origin"
    assert headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in headers["content-security-policy"]


# -- what viewers cannot do -----------------------------------------------------------------------

INGESTION = 'repositoryLocationName: "ingestion", repositoryName: "__repository__"'
ASSET = '{path: ["raw", "taxi_zones"]}'
EXECUTION = f'{{selector: {{{INGESTION}, jobName: "trip_update_job"}}, mode: "default"}}'
PARTITIONED = f'{{title: "x", assetSelection: [{ASSET}], allPartitions: true}}'
# Every mutation there is, with arguments that an editor's server would take as far as it could.
MUTATIONS = {
    "launchPipelineExecution": f"(executionParams: {EXECUTION}) {{ __typename }}",
    "launchRun": f"(executionParams: {EXECUTION}) {{ __typename }}",
    "launchMultipleRuns": f"(executionParamsList: [{EXECUTION}]) {{ ... on LaunchMultipleRunsResult "
    "{ launchMultipleRunsResult { __typename } } }",
    "launchPipelineReexecution": '(reexecutionParams: {parentRunId: "RUN", strategy: ALL_STEPS}) { __typename }',
    "launchRunReexecution": '(reexecutionParams: {parentRunId: "RUN", strategy: ALL_STEPS}) { __typename }',
    "startSchedule": f'(scheduleSelector: {{{INGESTION}, scheduleName: "SCHEDULE"}}) {{ __typename }}',
    "stopRunningSchedule": '(id: "SCHEDULE_ID") { __typename }',
    "resetSchedule": f'(scheduleSelector: {{{INGESTION}, scheduleName: "SCHEDULE"}}) {{ __typename }}',
    "startSensor": "(sensorSelector: {SENSOR}) { __typename }",
    "setSensorCursor": '(sensorSelector: {SENSOR}, cursor: "x") { __typename }',
    "stopSensor": '(id: "SENSOR_ID") { __typename }',
    "resetSensor": "(sensorSelector: {SENSOR}) { __typename }",
    "sensorDryRun": '(selectorData: {SENSOR}, cursor: "x") { __typename }',
    "scheduleDryRun": f'(selectorData: {{{INGESTION}, scheduleName: "SCHEDULE"}}, timestamp: 1700000000) '
    "{ __typename }",
    "terminatePipelineExecution": '(runId: "RUN", terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { ...stopped }',
    "terminateRun": '(runId: "RUN", terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { ...stopped }',
    "terminateRuns": '(runIds: ["RUN"], terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { ... on TerminateRunsResult '
    "{ terminateRunResults { ...stopped } } }",
    "deletePipelineRun": '(runId: "RUN") { __typename }',
    "deleteRun": '(runId: "RUN") { __typename }',
    "reloadRepositoryLocation": '(repositoryLocationName: "ingestion") { __typename }',
    "reloadWorkspace": "{ __typename }",
    "shutdownRepositoryLocation": '(repositoryLocationName: "ingestion") { __typename }',
    "wipeAssets": f"(assetPartitionRanges: [{{assetKey: {ASSET}}}]) {{ __typename }}",
    "reportRunlessAssetEvents": f"(eventParams: {{eventType: ASSET_MATERIALIZATION, assetKey: {ASSET}}})"
    " { __typename }",
    "reportAssetCheckEvaluations": f'(eventParams: {{assetKey: {ASSET}, checkName: "x", passed: true}})'
    " { __typename }",
    "launchPartitionBackfill": f"(backfillParams: {PARTITIONED}) {{ __typename }}",
    "resumePartitionBackfill": '(backfillId: "BACKFILL") { __typename }',
    "reexecutePartitionBackfill": '(reexecutionParams: {parentRunId: "BACKFILL", strategy: ALL_STEPS}) { __typename }',
    "cancelPartitionBackfill": '(backfillId: "BACKFILL") { __typename }',
    "addDynamicPartition": f'(repositorySelector: {{{INGESTION}}}, partitionsDefName: "x", partitionKey: "x")'
    " { __typename }",
    "deleteDynamicPartitions": f'(repositorySelector: {{{INGESTION}}}, partitionsDefName: "x", partitionKeys: ["x"])'
    " { __typename }",
    "setAutoMaterializePaused": "(paused: true)",
    "setConcurrencyLimit": '(concurrencyKey: "report", limit: 7)',
    "deleteConcurrencyLimit": '(concurrencyKey: "report")',
    "freeConcurrencySlotsForRun": '(runId: "RUN")',
    "freeConcurrencySlots": '(runId: "RUN")',
}
STOPPED = " fragment stopped on TerminateRunResult { __typename ... on TerminateRunFailure { message } }"
# They change nothing but what the UI shows of itself, or count clicks.
HARMLESS = {"setNuxSeen", "logTelemetry"}
# Only Dagster's paid edition has what these change.
ELSEWHERE = {"setAppManagedComponent", "deleteAppManagedComponent", "refreshComponentState"}

STATE = """{
    runsOrError { ... on Runs { results { runId status } } }
    assetNodes { assetKey { path } assetMaterializations { timestamp } }
    partitionBackfillsOrError { ... on PartitionBackfills { results { id status } } }
    workspaceOrError { ... on Workspace { locationEntries { name loadStatus updatedTimestamp } } }
    instance { autoMaterializePaused concurrencyLimits { concurrencyKey slotCount } }
    ingestion: repositoryOrError(repositorySelector: {INGESTION}) { ... on Repository {
        schedules { name id scheduleState { status id } } sensors { name id sensorState { status id } } } }
    analytics: repositoryOrError(repositorySelector: {ANALYTICS}) { ... on Repository {
        schedules { name id scheduleState { status id } } sensors { name id sensorState { status id } } } }
}""".replace("INGESTION", INGESTION).replace("ANALYTICS", INGESTION.replace("ingestion", "analytics"))


def canceled_backfill(deployed: Deployment) -> str:
    """One to cancel, to resume and to run again."""
    launched = deployed.graphql(
        """mutation { launchPartitionBackfill(backfillParams: {assetSelection: [{path: ["landing", "taxi_trips_file"]}],
            partitionNames: ["2023-01-01|green"]}) { __typename ... on LaunchBackfillSuccess { backfillId } } }"""
    )["launchPartitionBackfill"]
    backfill = str(launched["backfillId"])
    deployed.graphql(f'mutation {{ cancelPartitionBackfill(backfillId: "{backfill}") {{ __typename }} }}')
    query = f'{{ partitionBackfillOrError(backfillId: "{backfill}") {{ ... on PartitionBackfill {{ status }} }} }}'
    wait_for(
        lambda: deployed.graphql(query)["partitionBackfillOrError"]["status"] == "CANCELED", "the end of the backfill"
    )
    return backfill


def test_a_viewers_server_refuses_every_mutation_and_nothing_changes(with_viewer: Deployment) -> None:
    backfill = canceled_backfill(with_viewer)
    # What other tests set off would be taken for this one's doing.
    with_viewer.settled()
    schema = with_viewer.graphql("{ __schema { mutationType { fields { name } } } }")["__schema"]
    known = {field["name"] for field in schema["mutationType"]["fields"]}
    assert known == MUTATIONS.keys() | HARMLESS | ELSEWHERE
    before = with_viewer.graphql(STATE)
    schedule = before["ingestion"]["schedules"][0]
    sensor = before["analytics"]["sensors"][0]
    selector = INGESTION.replace("ingestion", "analytics") + f', sensorName: "{sensor["name"]}"'
    targets = {
        "SCHEDULE_ID": schedule["scheduleState"]["id"],
        "SENSOR_ID": sensor["sensorState"]["id"],
        "SCHEDULE": schedule["name"],
        "SENSOR": selector,
        "BACKFILL": backfill,
        "RUN": before["runsOrError"]["results"][0]["runId"],
    }
    not_refused = {}
    for name, rest in MUTATIONS.items():
        for placeholder, value in targets.items():
            rest = rest.replace(placeholder, value)
        document = {"query": f"mutation {{ {name}{rest} }}{STOPPED if '...stopped' in rest else ''}"}
        answers = [
            ask(with_viewer, "/graphql", VIEWER, "POST", json=document),
            ask(with_viewer, "/graphql", VIEWER, params=document, headers={"Sec-Fetch-Site": "same-origin"}),
        ]
        for answer in answers:
            # Where the answer of a mutation is a Boolean, Dagster cannot say it in a better way than an error.
            if "UnauthorizedError" not in answer.text and "You do not have permission" not in answer.text:
                not_refused[name] = answer.text
    assert not_refused == {}
    assert with_viewer.graphql(STATE) == before


def test_a_viewers_websocket_carries_no_mutation(with_viewer: Deployment) -> None:
    opened = Socket(with_viewer, VIEWER)
    assert opened.status == 101
    assert opened.greeted()
    mutation = {"type": "start", "id": "1", "payload": {"query": "mutation { reloadWorkspace { __typename } }"}}
    refused = json.dumps(opened.answer(mutation))
    assert '"data": {' not in refused
    opened.close()


REPORTS = [f"/report_asset_{what}/raw/taxi_zones" for what in ("materialization", "check", "observation")]


def test_a_viewer_cannot_report_what_did_not_happen(with_viewer: Deployment) -> None:
    before = with_viewer.graphql(STATE)
    body = {"check_name": "x", "passed": True}
    answers = [ask(with_viewer, path, VIEWER, "POST", json=body).status_code for path in REPORTS]
    assert answers == [403] * len(REPORTS)
    # Nor does the server behind it take them.
    post = f"""
import httpx, sys
for path in sys.argv[1:]:
    print(httpx.post("http://127.0.0.1:3000" + path, json={body}, trust_env=False).status_code)
"""
    behind = with_viewer.compose("exec", "-T", "viewer", "python", "-c", post, *REPORTS).stdout.split()
    assert behind == ["401"] * len(REPORTS)
    assert with_viewer.graphql(STATE) == before


def test_a_viewer_reads_and_sends_nothing_else(with_viewer: Deployment) -> None:
    asked = ask(with_viewer, "/graphql", VIEWER, "POST", json={"query": "{ version }"})
    assert asked.json()["data"]["version"]
    assert ask(with_viewer, "/reports/report.html", VIEWER).status_code == 200
    for method, path in (("PUT", "/graphql"), ("DELETE", "/graphql"), ("POST", "/%67raphql"), ("POST", "/server_info")):
        assert ask(with_viewer, path, VIEWER, method).status_code == 403


# -- what other sites cannot do -------------------------------------------------------------------

QUERY = {"query": "{ version }"}


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/graphql", {"Sec-Fetch-Site": "cross-site"}),
        ("POST", "/graphql", {"Sec-Fetch-Site": "same-site"}),
        ("POST", "/graphql", {"Origin": "https://evil.example"}),
        ("POST", "/graphql", {"Origin": "null"}),
        ("POST", "/report_asset_materialization/raw/taxi_zones", {"Sec-Fetch-Site": "cross-site"}),
        ("GET", "/graphql", {"Sec-Fetch-Site": "cross-site"}),
        ("GET", "/%67raphql", {"Sec-Fetch-Site": "cross-site"}),
        ("GET", "/graphql", UPGRADE | {"Sec-Fetch-Site": "cross-site"}),
        ("GET", "/graphql", UPGRADE | {"Origin": "https://evil.example"}),
    ],
)
def test_another_site_cannot_use_a_browsers_login(
    deployed: Deployment, method: str, path: str, headers: dict[str, str]
) -> None:
    body = {"json": QUERY} if method == "POST" else {"params": QUERY}
    answer = ask(deployed, path, deployed.admin, method, headers=headers, **body)
    assert answer.status_code == 403
    assert "another site" in answer.text


def test_the_ui_itself_and_links_from_elsewhere_work(deployed: Deployment) -> None:
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": deployed.url}, {}):
        assert ask(deployed, "/graphql", deployed.admin, "POST", json=QUERY, headers=headers).status_code == 200
    for path in ("/runs", "/reports/report.html"):
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert ask(deployed, path, deployed.admin, headers=link).status_code == 200
    # An address that holds a mutation, and a browser that does not say where it has it from.
    assert ask(deployed, "/graphql", deployed.admin, params=QUERY).status_code == 405


# -- people come and go ---------------------------------------------------------------------------


def test_people_come_change_and_go_while_others_work_on(deployed: Deployment) -> None:
    open_page = Socket(deployed, deployed.admin)
    assert open_page.greeted()
    failed: list[object] = []
    enough = threading.Event()

    def work() -> None:
        with httpx.Client(base_url=deployed.url, auth=deployed.admin, trust_env=False, timeout=30) as client:
            while not enough.is_set():
                try:
                    found = client.post("/graphql", json=QUERY).status_code
                except httpx.TransportError as error:
                    found = repr(error)  # type: ignore[assignment]
                if found != 200:
                    failed.append(found)
                enough.wait(0.02)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        first, second = ("wim", "wims first password"), ("wim", "wims second password")
        assert status(deployed, first) == 401
        assert users(deployed, "add", "wim", "--role", "editor", password=first[1]).returncode == 0
        wait_for(lambda: status(deployed, first) == 200, "wim to be let in", 10)
        assert users(deployed, "password", "wim", password=second[1]).returncode == 0
        wait_for(lambda: status(deployed, second) == 200, "the new password", 10)
        wait_for(lambda: status(deployed, first) == 401, "the end of the old password", 10)
        assert users(deployed, "remove", "wim").returncode == 0
        wait_for(lambda: status(deployed, second) == 401, "wim to be let in no longer", 10)
    finally:
        enough.set()
        worker.join()
    assert failed == []
    assert open_page.greeted()
    open_page.close()


def test_a_change_that_will_not_do_is_refused_in_words(with_viewer: Deployment) -> None:
    refused = users(with_viewer, "remove", "admin")
    assert refused.returncode == 1
    assert refused.stderr == "codeloc: 'admin' is the only editor: add another one first\n"
    listed = [line.split() for line in users(with_viewer, "list").stdout.splitlines()]
    assert listed[1:] == [["admin", "editor"], [VIEWER[0], "viewer"]]


def test_the_admins_login_follows_the_settings(deployed: Deployment) -> None:
    def prepare(password: str) -> subprocess.CompletedProcess[str]:
        done = deployed.compose("run", "--rm", "--no-deps", "-T", "init", check=False, ADMIN_PASSWORD=password)
        deployed.compose("kill", "--signal", "SIGUSR2", "proxy")
        return done

    changed = ("admin", "another one altogether")
    try:
        assert prepare(changed[1]).returncode == 0
        wait_for(lambda: status(deployed, changed) == 200, "the new password", 10)
        assert status(deployed, deployed.admin) == 401
    finally:
        assert prepare(deployed.password).returncode == 0
    wait_for(lambda: status(deployed, deployed.admin) == 200, "the former password", 10)


def test_only_hashes_are_stored_and_nothing_secret_is_logged(with_viewer: Deployment) -> None:
    kept = with_viewer.compose("exec", "-T", "proxy", "cat", "/people/people.cfg").stdout
    logins = [line.split()[1:4] for line in kept.splitlines() if line.startswith("  user ")]
    assert {name for name, _, _ in logins} == {"admin", VIEWER[0]}
    assert all(hash.startswith("$6$") and len(hash) > 90 for _, _, hash in logins)
    logged = with_viewer.compose("logs", "--no-color", "proxy", "init").stdout
    for name, password in (with_viewer.admin, VIEWER):
        search = ["run", "--rm", "--no-deps", "-T", "--entrypoint", "grep", "init", "-rlF", "-e", password, "/data"]
        assert with_viewer.compose(*search, check=False).returncode == 1
        assert password not in logged
        assert b64encode(f"{name}:{password}".encode()).decode() not in logged
    assert f'"{VIEWER[0]}" viewer GET "/reports/report.html" 200' in logged


def test_guessing_is_stopped_and_stops_nobody_else(with_viewer: Deployment) -> None:
    guesses = [status(with_viewer, ("guessed", f"guess {attempt}")) for attempt in range(25)]
    assert guesses == [401] * 20 + [429] * 5
    assert status(with_viewer, with_viewer.admin) == 200


# -- what is reached from where -------------------------------------------------------------------

_PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(address):
    try:
        socket.create_connection(address, timeout=3).close()
        return True
    except OSError:
        return False
addresses = [tuple(address) for address in json.loads(sys.argv[1])]
print(json.dumps(list(ThreadPoolExecutor(len(addresses)).map(reached, addresses))))
"""


def test_servers_are_reached_from_inside_and_from_nowhere_else(deployed: Deployment) -> None:
    containers = deployed.containers()
    ports = {"postgres": 5432, "webserver": 3000, "viewer": 3000, "files": 3001}
    addresses = [
        (network["IPAddress"], port)
        for service, port in ports.items()
        for network in containers[service]["NetworkSettings"]["Networks"].values()
    ]
    probe = ["python", "-c", _PROBE, json.dumps(addresses)]
    inside = json.loads(deployed.compose("exec", "-T", "webserver", *probe).stdout)
    assert inside == [True] * len(addresses)
    image = containers["webserver"]["Config"]["Image"]
    outside = subprocess.run(["docker", "run", "--rm", image, *probe], capture_output=True, text=True, check=True)
    assert json.loads(outside.stdout) == [False] * len(addresses)

    in_front = [
        (containers[service]["NetworkSettings"]["Networks"][f"{deployed.project}_front"]["IPAddress"], port)
        for service, port in ports.items()
        if f"{deployed.project}_front" in containers[service]["NetworkSettings"]["Networks"]
    ]
    knock = "(timeout 3 bash -c 'exec 3<>/dev/tcp/{0}/{1}' && echo {0} {1}) & "
    knocks = "".join(knock.format(*address) for address in addresses) + "wait"
    opened = deployed.compose("exec", "-T", "proxy", "bash", "-c", knocks).stdout.splitlines()
    assert sorted(opened) == sorted(f"{host} {port}" for host, port in in_front)

    # The locations listen on no port at all: state 0A, and not Docker's own name server at 127.0.0.11.
    for location in LOCATIONS:
        sockets = deployed.compose("exec", "-T", location, "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
        listening = [line.split()[1] for line in sockets.splitlines() if line.split()[3] == "0A"]
        assert [address for address in listening if not address.startswith("0B00007F:")] == []

    published = {
        service: [binding for bindings in container["NetworkSettings"]["Ports"].values() for binding in bindings or []]
        for service, container in containers.items()
    }
    assert published.pop("proxy") == [{"HostIp": "127.0.0.1", "HostPort": str(deployed.port)}]
    assert not any(published.values())


# -- the proxy by itself: with TLS and single sign-on, before servers that repeat what they are told ---

_ECHO = """
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"path": self.path} | {name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
for port in (3001, 3000):
    server = http.server.ThreadingHTTPServer(("", port), Echo)
    __import__("threading").Thread(target=server.serve_forever).start()
"""
# Of "correct horse battery".
_HASH = "$6$mWHEhN4JuWsQHAKz$8/IPlln5Dpn10G6ydf6YlVrugu/t38z4FQVaCNPHS1LjAkStcyAT2MlNL720f6YlYlkH8bDlbL7RsB.sLjP.Q0"
PERSON = ("maria", "correct horse battery")
SIGN_ON = "known to the proxy in front alone"


@dataclass
class Alone:
    """The proxy with servers that repeat what they are told; on HTTPS."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def compose(self, *arguments: str) -> None:
        files = ["docker-compose.yml", "docker-compose.tls.yml", str(self.folder / "servers.json")]
        chosen = {
            "COMPOSE_PROJECT_NAME": f"taxi-proxy-{os.getpid()}",
            "COMPOSE_FILE": ":".join(files),
            "ADMIN_PASSWORD": "unused in this one",
            "PUBLIC_URL": self.url,
            "TLS_CERTIFICATE": str(self.folder / "certificate.pem"),
            "HTTPS_ADDRESS": "127.0.0.1",
            "HTTPS_PORT": str(self.port),
        }
        command = ["docker", "compose", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment() | chosen, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr

    def get(self, path: str, login: tuple[str, str] | None, **headers: str) -> httpx.Response:
        trusted = ssl.create_default_context(cafile=self.folder / "certificate.pem")
        return httpx.get(f"{self.url}{path}", auth=login, headers=headers, verify=trusted, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def alone(deployed: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("proxy")
    found = Alone(folder, free_port())
    certificate = folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", certificate, "-out", folder / "public.pem"], capture_output=True, check=True)
    certificate.write_text((folder / "public.pem").read_text() + certificate.read_text())
    people = folder / "people"
    people.mkdir()
    (people / "people.cfg").write_text(f"userlist editors\nuserlist viewers\n  user {PERSON[0]} password {_HASH}\n")
    # The container's user is another one.
    for file in (folder, people, certificate, people / "people.cfg"):
        file.chmod(0o755)
    image = deployed.containers()["webserver"]["Config"]["Image"]
    names = {"front": {"aliases": ["webserver", "viewer", "files"]}}
    echo = {"image": image, "pull_policy": "never", "init": True, "command": ["python", "-c", _ECHO], "networks": names}
    signed_on = {"SSO_PASSWORD": SIGN_ON, "SSO_EDITORS": "data-team"}
    proxy = {"volumes": [f"{people}:/people:ro"], "environment": signed_on}
    (folder / "servers.json").write_text(json.dumps({"services": {"proxy": proxy, "echo": echo}}))
    try:
        found.compose("up", "--detach", "--wait", "--no-deps", "proxy", "echo")
        yield found
    finally:
        found.compose("--profile", "seed", "down", "--volumes", "--remove-orphans", "--timeout", "1")


def test_https_is_asked_for_a_login_and_says_so_to_the_servers(alone: Alone) -> None:
    assert alone.get("/", None).status_code == 401
    answer = alone.get("/server_info", PERSON)
    assert answer.headers["strict-transport-security"]
    assert answer.json()["x-forwarded-proto"] == "https"


def test_servers_are_told_the_name_and_not_the_password(alone: Alone) -> None:
    forged = {"X-Forwarded-User": "admin", "X-Forwarded-Groups": "data-team", "X-Forwarded-Email": "x@example.org"}
    told = alone.get("/server_info", PERSON, **forged).json()
    assert told["x-forwarded-user"] == "maria"
    assert {"authorization", "x-forwarded-groups", "x-forwarded-email"}.isdisjoint(told)


@pytest.mark.parametrize(
    ("groups", "allowed"), [("data-team,all", 200), ("all", 403), ("not-data-team", 403), (None, 403)]
)
def test_a_single_sign_on_proxy_is_believed_the_person_and_the_groups(
    alone: Alone, groups: str | None, allowed: int
) -> None:
    login = ("maria@example.org", SIGN_ON)
    headers = {"X-Forwarded-Groups": groups} if groups else {}
    assert alone.get("/", login, **headers).json()["x-forwarded-user"] == "maria@example.org"
    trusted = ssl.create_default_context(cafile=alone.folder / "certificate.pem")
    posted = httpx.put(f"{alone.url}/", auth=login, headers=headers, verify=trusted, trust_env=False)
    # Servers that only repeat what they are told know no other method: 501 is their answer to what got through.
    assert posted.status_code == {200: 501, 403: 403}[allowed]


def test_servers_come_and_go_without_the_proxy(alone: Alone) -> None:
    alone.compose("rm", "--stop", "--force", "echo")
    away = wait_for(
        lambda: (found := alone.get("/", PERSON)).status_code == 503 and found, "the servers to be away", 20
    )
    assert "Dagster is starting" in away.text  # type: ignore[union-attr]
    assert away.headers["retry-after"]  # type: ignore[union-attr]
    assert alone.get("/", None).status_code == 401
    alone.compose("up", "--detach", "--no-deps", "echo")
    started = time.monotonic()
    wait_for(lambda: alone.get("/", PERSON).status_code == 200, "the servers to be found again", 20)
    assert time.monotonic() - started < 15
