"""`codeloc request`: what it files, and what it makes of the webserver's answers."""

import hashlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from codeloc import requests, runs
from codeloc.errors import CodelocError
from codeloc.graphql import Webserver
from codeloc.requests import Answer, ask, request
from codeloc.runs import FollowedRun

WANTED = request("Staten Island", "2023-01-01", "2023-01-31", None, None)


# -- what is filed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("borough", "service", "name"),
    [
        ("Manhattan", None, "manhattan-2023-01-01-2023-01-31"),
        ("Staten Island", "green", "staten-island-2023-01-01-2023-01-31-green"),
        ("../../etc/passwd", None, "etc-passwd-2023-01-01-2023-01-31"),
        ("x" * 100, None, "x" * 64),
    ],
)
def test_a_request_is_named_after_what_it_asks_for(borough: str, service: str | None, name: str) -> None:
    found = request(borough, "2023-01-01", "2023-01-31", service, None)
    assert found.name == name
    fields = {"borough": borough, "from": "2023-01-01", "to": "2023-01-31"}
    assert json.loads(found.content) == fields | ({"service": service} if service else {})
    assert found.tags == {
        "request": name,
        "request_sha256": hashlib.sha256(found.content.encode()).hexdigest()[:16],
    }


@pytest.mark.parametrize("name", ["", "..", "../up", "/etc/x", "a/b", "a.json", "Upper", "-x", "x" * 65, "a\n"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(CodelocError, match=r"^--name (.|\n)*: must be 1 to 64"):
        request("Queens", "2023-01-01", "2023-01-31", None, name)


# -- what is made of the answers ------------------------------------------------------------------


class Instance:
    """A webserver's GraphQL endpoint: runs by id, newest first, the sensor's status, the check's problems."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.sensor: dict[str, Any] | None = {"status": "RUNNING", "ticks": []}
        self.problems: list[dict[str, str]] = []
        self.reexecuted: list[str] = []

    def add(self, run_id: str, status: str, tags: dict[str, str] | None = None) -> None:
        """A run that is new, or is so from now on."""
        run = {"runId": run_id, "status": status, "tags": tags or {}}
        self.runs = {run_id: run} | self.runs | {run_id: run}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Data of a query."""
        if "sensorOrError" in query:
            return {"sensorOrError": {"sensorState": self.sensor} if self.sensor else {}}
        if "assetCheckExecutions" in query:
            table = {"label": "problems", "table": {"records": [json.dumps(found) for found in self.problems]}}
            under_way = {"evaluation": None}
            return {"assetCheckExecutions": [under_way, {"evaluation": {"metadataEntries": [table]}}]}
        if "launchRunReexecution" in query:
            self.reexecuted.append(variables["id"])
            self.add("again", "SUCCESS")
            return {"launchRunReexecution": {"__typename": "LaunchRunSuccess", "run": {"runId": "again"}}}
        if "runsOrError" in query:
            return {"runsOrError": {"results": list(self.runs.values())}}
        run = self.runs[variables["id"]]
        if "assetMaterializations" in query:
            link, file = {"label": "link", "url": "http://link"}, {"label": "file", "path": "/file"}
            trips, loaded = {"label": "trips", "intValue": 7}, {"label": "loaded", "text": "all"}
            failed = {"failureMetadata": {"description": "no trips"}, "error": {"message": "Failure"}}
            return {
                "runOrError": {
                    "assetMaterializations": [{"metadataEntries": [link, file, trips, loaded]}],
                    "eventConnection": {"events": [{}, failed]},
                }
            }
        return {"runOrError": run | {"tags": [{"key": key, "value": value} for key, value in run["tags"].items()]}}


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def webserver(instance: Instance) -> Iterator[Webserver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"data": instance.answer(asked["query"], asked["variables"])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield Webserver(server.server_address[1])
        server.shutdown()
        thread.join()


Ask = Callable[..., Answer]


@pytest.fixture
def asking(webserver: Webserver, tmp_path: Path) -> Ask:
    """Asks, and has `then` happen once the command waits."""

    def asked(then: Callable[[], None] = lambda: None) -> Answer:
        return ask(webserver, tmp_path, WANTED, lambda: None, lambda _text, _done, _total: then())

    return asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / f"{WANTED.name}.json"


def test_the_file_is_put_there_and_the_run_it_starts_is_waited_for(
    instance: Instance, asking: Ask, file: Path, webserver: Webserver
) -> None:
    instance.add("of-this-content-before", "SUCCESS")
    file.write_text("another request")

    def start() -> None:
        assert file.read_text() == WANTED.content
        instance.add("new", "SUCCESS")

    assert asking(start) == Answer("http://link", "/file", 7, "all", f"{webserver.url}/runs/new")
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_request_that_is_there_is_run_again(instance: Instance, asking: Ask, file: Path) -> None:
    instance.add("first", "FAILURE")
    instance.add("second", "SUCCESS")
    file.write_text(WANTED.content)
    assert asking().run_url.endswith("/runs/again")
    assert instance.reexecuted == ["second"]


def test_a_request_that_is_under_way_is_waited_for(instance: Instance, asking: Ask, file: Path) -> None:
    instance.add("first", "STARTED")
    file.write_text(WANTED.content)
    assert asking(lambda: instance.add("first", "SUCCESS")).run_url.endswith("/runs/first")
    assert instance.reexecuted == []


def test_a_file_that_changed_and_changed_back_between_two_looks_is_run_again(
    instance: Instance, asking: Ask, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_SEVERAL_LOOKS", 0)
    instance.add("first", "SUCCESS")
    assert asking().run_url.endswith("/runs/again")
    assert file.read_text() == WANTED.content


@pytest.mark.parametrize("before", [None, WANTED.content, "another request"])
def test_a_refused_request_is_taken_back(instance: Instance, asking: Ask, file: Path, before: str | None) -> None:
    if before is not None:
        file.write_text(before)
    # Of another content of this file, and of another file.
    instance.problems = [
        {"file": file.name, "problem": "of yesterday", "version": "0" * 16},
        {"file": "x.json", "problem": "another's", "version": WANTED.version},
    ]

    def refuse() -> None:
        instance.problems.append({"file": file.name, "problem": "borough: wrong", "version": WANTED.version})

    with pytest.raises(CodelocError, match=r"^the request was refused: borough: wrong$"):
        asking(refuse)
    assert [path.read_text() for path in file.parent.iterdir()] == (
        ["another request"] if before == "another request" else []
    )


def test_a_run_that_failed_says_why_and_where(instance: Instance, asking: Ask, webserver: Webserver) -> None:
    with pytest.raises(CodelocError) as caught:
        asking(lambda: instance.add("new", "FAILURE", {"dagster/will_retry": "false"}))
    assert str(caught.value) == f"no trips\nSee {webserver.url}/runs/new; the same command tries again."


def test_silence_ends_with_where_to_look(
    instance: Instance, asking: Ask, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_LONGEST_SILENCE", 0)
    with pytest.raises(CodelocError, match="nothing happened within 0 s") as caught:
        asking()
    assert str(file) in str(caught.value)
    assert "/automation" in str(caught.value)
    assert instance.sensor is not None
    instance.sensor["ticks"] = [{"status": "FAILURE", "error": {"message": "outer", "causes": [{"message": "why"}]}}]
    with pytest.raises(CodelocError, match="The sensor adhoc_request_sensor fails:\nouter\nwhy"):
        asking()


@pytest.mark.parametrize(
    ("sensor", "told"),
    [({"status": "STOPPED", "ticks": []}, "is turned off: turn it on at"), (None, "location analytics is not loaded")],
)
def test_without_the_sensor_nothing_is_put_there(
    instance: Instance, asking: Ask, file: Path, sensor: dict[str, Any] | None, told: str
) -> None:
    instance.sensor = sensor
    with pytest.raises(CodelocError, match=told):
        asking()
    assert not file.exists()


# -- runs and their retries -----------------------------------------------------------------------


def test_a_run_is_followed_through_its_retries(instance: Instance, webserver: Webserver) -> None:
    instance.add("first", "STARTED")
    run = FollowedRun(webserver, "first")
    assert run.end() is None
    instance.add("first", "FAILURE", {"dagster/will_retry": "true"})
    assert run.end() is None
    instance.add("first", "FAILURE", {"dagster/will_retry": "true", "dagster/auto_retry_run_id": "second"})
    instance.add("second", "QUEUED")
    assert run.end() is None
    assert run.end() is None
    assert run.url == f"{webserver.url}/runs/second"
    instance.add("second", "SUCCESS")
    assert run.end() == "SUCCESS"


@pytest.mark.parametrize(
    ("tags", "patience"),
    [({"dagster/will_retry": "true"}, "_LONGEST_DECISION"), ({}, "_LONGEST_SILENCE")],
)
def test_a_retry_that_does_not_come_is_not_waited_for_forever(
    instance: Instance, webserver: Webserver, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], patience: str
) -> None:
    instance.add("first", "FAILURE", tags)
    run = FollowedRun(webserver, "first")
    assert run.end() is None
    monkeypatch.setattr(runs, patience, 0)
    assert run.end() == "FAILURE"
