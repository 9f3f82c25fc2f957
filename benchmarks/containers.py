"""The deployment with Docker Compose against Dagster's own example of one: a run in its container, and a redeploy."""

import os
import secrets
import shutil
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.table import Row
from benchmarks.workplace import (
    LOCATIONS,
    PROGRAMS,
    ROOT,
    BenchmarkError,
    Dagster,
    clone,
    environment,
    folder,
    free_port,
    side_by_side,
    wait_for,
)

STOCK = Path(__file__).parent / "stock_docker"
# Seconds between two questions: twenty times a second whether all is loaded, and for what only the code server knows
# as often as one core can answer beside all else.
LOOK, ASK = 0.05, 0.25
ASSET, SENSOR = "contained", "probed"


def measure(short: bool) -> list[Row]:
    """Both deployments are up at the same time; `short`: one run of each instead of five."""
    with folder() as work, _ours(work / "ours") as ours, _stock(work / "stock") as stock:
        for deployed in (ours, stock):
            # The first run of each finds nothing cached, and is not counted.
            deployed.run()
        running = side_by_side(ours.run, stock.run, 1 if short else 5)
        ours.change()
        failed_of_ours = _failed_while(ours, ["deploy", "analytics", "--watch", "0", "--compose"])
        stock.change()
        failed_of_stock = _failed_while(
            stock, ["up", "--detach", "--build", "--force-recreate", "--no-deps", "user_code"]
        )
    return [
        Row(
            name="run in a container",
            what="a trivial run, queued to SUCCESS, in a container of its own",
            against="Dagster's example deploy_docker",
            ours=running[0],
            theirs=running[1],
            unit="s",
            at_most=0.5,
            clearly_worse=0.65,
        ),
        Row(
            name="deploy gap",
            what="probes that fail while `./codeloc deploy analytics --compose` replaces the code",
            against="deploy_docker, `docker compose up -d --build --force-recreate` of the code's container",
            ours=failed_of_ours,
            theirs=failed_of_stock,
            unit="probes",
            at_most=0,
            clearly_worse=0,
        ),
    ]


@dataclass
class Deployed:
    """A deployment that is up.

    Attributes
    ----------
    command
        What replaces the code, without its arguments.
    module
        The definitions that are deployed, which may be changed.
    """

    dagster: Dagster
    locations: set[str]
    location: str
    command: list[str]
    variables: dict[str, str]
    module: Path

    def run(self) -> float:
        """Seconds from the queue to SUCCESS."""
        return self.dagster.seconds(self.dagster.launch(self.location, ASSET))

    def change(self) -> None:
        """Have the code be another one."""
        self.module.write_text(f"{self.module.read_text(encoding='utf-8')}\nCHANGED = True\n", encoding="utf-8")

    def all_loaded(self) -> bool:
        """Whether the webserver has every location."""
        return self.dagster.loaded() == self.locations

    def code_answers(self) -> bool:
        """Whether the code server looks as a sensor when it is asked to."""
        selector = {
            "repositoryLocationName": self.location,
            "repositoryName": "__repository__",
            "sensorName": SENSOR,
        }
        try:
            told = self.dagster.graphql(
                """mutation ($it: SensorSelector!) { sensorDryRun(selectorData: $it, cursor: "") {
                    __typename ... on DryRunInstigationTick { evaluationResult { error { message } } } } }""",
                it=selector,
            )["sensorDryRun"]
        except (httpx.HTTPError, ValueError, BenchmarkError):
            return False
        return told["__typename"] == "DryRunInstigationTick" and not told["evaluationResult"]["error"]


@dataclass
class _Probe:
    """Asks the same again and again, in a thread."""

    ask: Callable[[], bool]
    every: float
    asked: int = 0
    failed: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "_Probe":
        self._thread = threading.Thread(target=self._repeat)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _repeat(self) -> None:
        due = time.monotonic()
        while not self._end.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.every, time.monotonic())
            self.asked += 1
            self.failed += not self.ask()


def _failed_while(deployed: Deployed, arguments: list[str]) -> int:
    """How many probes failed from before the code is replaced until after it answers again."""
    wait_for(lambda: deployed.all_loaded() and deployed.code_answers(), "the deployment to be whole", pause=0.2)
    with _Probe(deployed.all_loaded, LOOK) as looks, _Probe(deployed.code_answers, ASK) as answers:
        wait_for(lambda: looks.asked > 20 and answers.asked > 4, "the probes to begin")
        _run([*deployed.command, *arguments], deployed.variables, deployed.module.parent)
        # However long the webserver needs until it has noticed.
        wait_for(
            lambda: deployed.all_loaded() and deployed.code_answers(), "the deployment to be whole again", pause=0.2
        )
    print(
        f"{deployed.location}: {looks.failed} of {looks.asked} looks at the locations and {answers.failed} of"
        f" {answers.asked} questions to the code server failed"
    )
    return looks.failed + answers.failed


@contextmanager
def _ours(repository: Path) -> Iterator[Deployed]:
    """Our deployment, of a copy of the repository with the asset in analytics."""
    clone(repository)
    module = repository / "locations" / "analytics" / "src" / "analytics" / "defs" / "contained.py"
    shutil.copy2(PROGRAMS / "contained.py", module)
    port, project, password = free_port(), f"bench-ours-{os.getpid()}", secrets.token_urlsafe(12)
    settings = repository / "deployment.env"
    settings.write_text(f"ADMIN_PASSWORD={password}\nWEBSERVER_PORT={port}\nIMAGE_PREFIX={project}\n", encoding="utf-8")
    variables = {"COMPOSE_PROJECT_NAME": project, "COMPOSE_ENV_FILES": str(settings)}
    dagster = Dagster(port, login=("admin", password))
    deployed = Deployed(dagster, set(LOCATIONS), "analytics", [str(repository / "codeloc")], variables, module)
    with _up(deployed, repository, project):
        yield deployed


@contextmanager
def _stock(target: Path) -> Iterator[Deployed]:
    """Dagster's example, with the versions that our host has."""
    shutil.copytree(STOCK, target)
    lock = tomllib.loads((ROOT / "host" / "uv.lock").read_text(encoding="utf-8"))
    pins = [f"{found['name']}=={found['version']}\n" for found in lock["package"] if "registry" in found["source"]]
    (target / "constraints.txt").write_text("".join(pins), encoding="utf-8")
    module = target / "definitions.py"
    shutil.copy2(PROGRAMS / "contained.py", module)
    with module.open("a", encoding="utf-8") as opened:
        # Of a single file without it Dagster takes assets only.
        opened.write(f"\n\nfrom dagster import Definitions\n\ndefs = Definitions([{ASSET}], sensors=[{SENSOR}])\n")
    port, project = free_port(), f"bench-stock-{os.getpid()}"
    variables = {"COMPOSE_PROJECT_NAME": project, "PORT": str(port)}
    deployed = Deployed(Dagster(port), {"stock"}, "stock", ["docker", "compose"], variables, module)
    with _up(deployed, target, project):
        yield deployed


@contextmanager
def _up(deployed: Deployed, root: Path, project: str) -> Iterator[None]:
    """The compose project is up inside; nothing of it is left afterwards, of its runs and images neither."""
    try:
        _run(["docker", "compose", "up", "--detach", "--build", "--wait"], deployed.variables, root)
        wait_for(lambda: deployed.all_loaded() and deployed.code_answers(), "the locations to be loaded", pause=0.5)
        yield
    finally:
        # Run containers are no part of the project, and keep its network; an image that was built anew lost its name.
        label = f"label=codeloc.benchmark={project}"
        _remove(["rm", "--force", "--volumes"], _docker("ps", "--all", "--quiet", "--filter", label))
        down = ["docker", "compose", "down", "--volumes", "--remove-orphans", "--timeout", "10"]
        _run(down, deployed.variables, root)
        for built in (label, f"reference={project}-*"):
            _remove(["rmi", "--force"], _docker("images", "--quiet", "--filter", built))


def _docker(*arguments: str) -> list[str]:
    return _run(["docker", *arguments], {}, ROOT).split()


def _remove(command: list[str], found: list[str]) -> None:
    if found:
        _run(["docker", *command, *set(found)], {}, ROOT)


def _run(command: list[str], variables: dict[str, str], where: Path) -> str:
    done = subprocess.run(command, env=environment(**variables), cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout
