"""Asks analytics for a chart, as a person does who puts a file into its folder, and waits for the answer.

Besides `seed.py` the one module that knows the example: names of its sensor, asset, check and tags.
Whether a request is a good one is analytics' to say.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codeloc.errors import CodelocError
from codeloc.graphql import Webserver
from codeloc.home import write_whole
from codeloc.runs import FollowedRun

LOCATION = "analytics"
_SENSOR = "adhoc_request_sensor"
_ASSET = "reports/adhoc_request"
_CHECK = "requests_are_valid"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Seconds. The sensor looks every five, and takes some requests at a time.
_SEVERAL_LOOKS = 20
_LONGEST_SILENCE = 90
_LONGEST_RUN = 900
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class Request:
    """What is asked for; `name` names the file and the result."""

    name: str
    content: str

    @property
    def version(self) -> str:
        """How analytics tells one content of the file from another."""
        return hashlib.sha256(self.content.encode()).hexdigest()[:16]

    @property
    def tags(self) -> dict[str, str]:
        """Those of its runs."""
        return {"request": self.name, "request_sha256": self.version}


@dataclass(frozen=True)
class Answer:
    """What came of a request: where the chart is, what is said of it, and the page of the run that made it."""

    link: str
    file: str
    trips: int
    loaded: str
    run_url: str


def request(borough: str, first_day: str, last_day: str, service: str | None, name: str | None) -> Request:
    """A request for a chart; without `name` it is named after what it asks for.

    Raises
    ------
    CodelocError
        A file cannot have that name.
    """
    fields = {"borough": borough, "from": first_day, "to": last_day} | ({"service": service} if service else {})
    if name is None:
        name = re.sub("[^a-z0-9]+", "-", " ".join(fields.values()).lower()).strip("-")[:64] or "request"
    if not _NAME.fullmatch(name):
        raise CodelocError(f"--name {name}: must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit")
    return Request(name, json.dumps(fields, indent=2) + "\n")


def ask(
    webserver: Webserver,
    folder: Path,
    wanted: Request,
    require_all: Callable[[], None],
    progress: Callable[[str, int, int], None],
) -> Answer:
    """Put the request into `folder` and wait for its chart; one that is there already is made anew.

    Parameters
    ----------
    require_all
        Raises when a process of the platform is gone for good.
    progress
        Told a text, how much of it is done, and how much there is.

    Raises
    ------
    CodelocError
        Analytics refuses the request (its file is taken back), its run failed, or nothing happened.
    """

    def wait(text: str) -> None:
        progress(f"{wanted.name}: {text}", 0, 0)
        require_all()
        time.sleep(0.3)

    _require_sensor(webserver)
    file = folder / f"{wanted.name}.json"
    earlier = webserver.tagged_runs(wanted.tags)
    before = file.read_text(encoding="utf-8", errors="replace") if file.exists() else None
    if before == wanted.content and earlier:
        # The sensor does not follow a file that did not change.
        run_id = _run_again(webserver, earlier[0])
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, wanted.content)
        try:
            run_id = _wait_for_run(webserver, file, wanted, earlier, wait)
        except RequestRefusedError:
            _take_back(file, before if before != wanted.content else None)
            raise
    run = FollowedRun(webserver, run_id)
    deadline = time.monotonic() + _LONGEST_RUN
    while (status := run.end()) is None:
        if time.monotonic() > deadline:
            raise CodelocError(f"the run is not done after {_LONGEST_RUN} s: see {run.url}")
        wait(run.url)
    if status != "SUCCESS":
        reason = webserver.failure(run.run_id) or f"its run ended as {status}"
        raise CodelocError(f"{reason}\nSee {run.url}; the same command tries again.")
    made = webserver.result(run.run_id)
    return Answer(made["link"], made["file"], made["trips"], made["loaded"], run.url)


class RequestRefusedError(CodelocError):
    """Analytics says that the file is no request."""


def _require_sensor(webserver: Webserver) -> None:
    sensor = webserver.sensor(LOCATION, _SENSOR)
    if sensor is None:
        raise CodelocError(f"location {LOCATION} is not loaded, and its sensor follows requests: see ./codeloc status")
    if sensor["status"] != "RUNNING":
        raise CodelocError(
            f"the sensor {_SENSOR}, which follows requests, is turned off: turn it on at {webserver.url}/automation"
        )


def _run_again(webserver: Webserver, run: dict[str, str]) -> str:
    return webserver.reexecute(run["runId"]) if run["status"] in _ENDED else run["runId"]


def _wait_for_run(
    webserver: Webserver, file: Path, wanted: Request, earlier: list[dict[str, str]], wait: Callable[[str], None]
) -> str:
    """Id of the run that the sensor starts."""
    known = {run["runId"] for run in earlier}
    started = time.monotonic()
    while True:
        new = [run["runId"] for run in webserver.tagged_runs(wanted.tags) if run["runId"] not in known]
        if new:
            return new[-1]  # later ones are retries of it
        for found in webserver.check_table(_ASSET, _CHECK, "problems"):
            # The version: a problem of an earlier content of the file is none of this one.
            if (found["file"], found["version"]) == (file.name, wanted.version):
                raise RequestRefusedError(f"the request was refused: {found['problem']}")
        silence = time.monotonic() - started
        if earlier and silence > _SEVERAL_LOOKS:
            # The file was another one, or away, and was this one again before the sensor looked.
            return _run_again(webserver, earlier[0])
        if silence > _LONGEST_SILENCE:
            raise CodelocError(f"nothing happened within {_LONGEST_SILENCE} s. {_where_to_look(webserver, file)}")
        wait("waiting for the sensor")


def _take_back(file: Path, before: str | None) -> None:
    if before is None:
        file.unlink(missing_ok=True)
    else:
        write_whole(file, before)


def _where_to_look(webserver: Webserver, file: Path) -> str:
    sensor = webserver.sensor(LOCATION, _SENSOR)
    for tick in (sensor or {}).get("ticks", []):
        error = tick["error"]
        if error is not None:
            causes = "\n".join(cause["message"].strip() for cause in [error, *error["causes"]])
            return f"The sensor {_SENSOR} fails:\n{causes}"
    return (
        f"The request lies in {file}; look at {_SENSOR} in {webserver.url}/automation and at ./codeloc logs daemon."
        " To ask anew, remove the file first."
    )
