"""Where the plans come from: candidates against what is deployed, and the working tree against a revision of git."""

import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from codeloc.environments import EnvironmentFailedError, make_environment
from codeloc.errors import CandidateError
from codeloc.home import ROOT
from codeloc.ledger import Ledger
from codeloc.machine import description
from codeloc.plan import Description, Plan, make_plan
from codeloc.platform import TOOLS, sync
from codeloc.sources import affected, at_revision, causes, export, require_commit, working_tree
from codeloc.workspace import Location, locations

if TYPE_CHECKING:
    from codeloc.deploying import Releases

Say = Callable[[str], None]

_LOAD_TIMEOUT = 60


class Planning:
    """Makes plans against what is deployed in one platform."""

    def __init__(self, releases: "Releases") -> None:
        self._releases = releases

    def __call__(
        self, location: Location, version: str, candidate: Description, files: Mapping[str, str], history: Ledger
    ) -> Plan:
        """The plan of a candidate; `codeloc.deploying.Planner`."""
        described, before = self._deployed(), self._releases.current(location.name)
        return make_plan(
            described.get(location.name),
            candidate,
            {name: found for name, found in described.items() if name != location.name},
            versions=(before, version),
            causes=causes(history.files(location.name, before), files, location.name),
            host_dagster=installed("dagster"),
            running=history.running_automation(location.name),
            registry=registry_problems(),
        )

    def users_of(self, location: Location) -> list[str]:
        """Deployed assets of other locations that depend on what a location makes."""
        described = self._deployed()
        own = described.pop(location.name, {"assets": {}})["assets"]
        return [
            f"{other}'s {key}"
            for other, found in described.items()
            for key, asset in found["assets"].items()
            if set(asset["deps"]) & own.keys()
        ]

    def _deployed(self) -> dict[str, Description]:
        """What every location defines now."""
        return {
            found.name: self._releases.describe(found, serves, _LOAD_TIMEOUT)
            for found in locations()
            if (serves := self._releases.current(found.name)) is not None
        }

    def of_working_tree(self, location: Location, history: Ledger, say: Say) -> Plan:
        """The plan of the code as it is now."""
        source = working_tree(location.name)
        version = self._releases.build(location, source, say)
        described = self._releases.describe(location, version, _LOAD_TIMEOUT)
        return self(location, version, described, source.files, history)

    def of_version(self, location: Location, version: str, history: Ledger) -> Plan:
        """The plan of a release that is there."""
        described = self._releases.describe(location, version, _LOAD_TIMEOUT)
        return self(location, version, described, history.files(location.name, version), history)


def against(revision: str, chosen: list[Location], say: Say) -> tuple[list[Plan], dict[str, list[str]]]:
    """Plans of the working tree against a revision, for the locations that it affects; and all packages it affects.

    Nothing that runs is asked.

    Raises
    ------
    CodelocError
        There is no such revision, or the working tree's definitions do not load.
    """
    commit = require_commit(revision)
    touched = affected(commit)
    names = [location for location in chosen if location.name in touched]
    now: dict[str, Description] = {}
    for location in locations() if names else []:
        sync(location.folder, say)
        now[location.name] = _described(location, ROOT, location.python)
    plans = []
    with tempfile.TemporaryDirectory(prefix="codeloc") as folder:
        exported = Path(folder)
        if names:
            export(commit, exported)
        for location in names:
            say(f"loading {location.name} as it was at {revision}")
            before, warning = _at(location, exported, say)
            files_before, files_now = at_revision(location.name, commit), working_tree(location.name)
            plan = make_plan(
                before,
                now[location.name],
                {name: found for name, found in now.items() if name != location.name},
                versions=(files_before.version if files_before.files else None, files_now.version),
                causes=causes(files_before.files, files_now.files, location.name),
                host_dagster=_locked_dagster(),
                running={},
                registry=registry_problems(),
            )
            plan.warnings.extend([warning] if warning else [])
            plans.append(plan)
    return plans, touched


def _at(location: Location, exported: Path, say: Say) -> tuple[Description | None, str | None]:
    """What a location defined at the revision that was exported, or why nobody can say."""
    package = exported / "locations" / location.name
    if not package.is_dir():
        return None, None
    python = location.python
    if (package / "uv.lock").read_bytes() != (location.folder / "uv.lock").read_bytes():
        try:
            make_environment(package, TOOLS, say)
        except EnvironmentFailedError as error:
            return None, f"what it defined before is not known: {error}"
        python = package / ".venv" / "bin" / "python"
    try:
        return _described(location, exported, python), None
    except CandidateError as error:
        return None, f"what it defined before is not known: {error}"


def _described(location: Location, root: Path, python: Path) -> Description:
    sources = [root / "locations" / location.name / "src", root / "shared" / "src"]
    # This repository's own: an earlier revision may not have it.
    program = ROOT / "shared" / "src" / "taxi_shared" / "description.py"
    variables = {"PYTHONPATH": os.pathsep.join(map(str, sources))}
    command = [str(python), "-P", str(program), location.name]
    package = root / "locations" / location.name
    found: dict[str, Any] = json.loads(description(location.name, command, variables, package, _LOAD_TIMEOUT))
    return found


def _locked_dagster() -> str:
    lock = tomllib.loads((ROOT / "host" / "uv.lock").read_text(encoding="utf-8"))
    return str(next(package["version"] for package in lock["package"] if package["name"] == "dagster"))


def registry_problems(root: Path = ROOT) -> list[str]:
    """Where workspace.yaml, dg.toml, docker-compose.yml and the folders below locations/ list other locations."""
    listed = {
        "workspace.yaml": {
            entry["grpc_server"]["location_name"]
            for entry in yaml.safe_load((root / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
        },
        "dg.toml": {
            Path(project["path"]).name
            for project in tomllib.loads((root / "dg.toml").read_text(encoding="utf-8"))["workspace"]["projects"]
        },
        "docker-compose.yml": _services(yaml.safe_load((root / "docker-compose.yml").read_text(encoding="utf-8"))),
        "locations/": {file.parent.name for file in (root / "locations").glob("*/pyproject.toml")},
    }
    everything = set().union(*listed.values())
    problems = [
        f"location '{name}' is not in {place}, and in {', '.join(other for other in listed if name in listed[other])}"
        for name in sorted(everything)
        for place in listed
        if name not in listed[place]
    ]
    for name in sorted(listed["locations/"]):
        missing = [
            file for file in ("Dockerfile", "uv.lock", "tests") if not (root / "locations" / name / file).exists()
        ]
        problems += [f"location '{name}' has no locations/{name}/{file}" for file in missing]
    return problems


def _services(compose: Mapping[str, Any]) -> set[str]:
    """Names of the locations whose images docker-compose.yml builds."""
    found = set()
    for service in compose["services"].values():
        dockerfile = str((service.get("build") or {}).get("dockerfile", ""))
        if dockerfile.startswith("locations/"):
            found.add(Path(dockerfile).parent.name)
    return found
