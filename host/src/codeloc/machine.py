"""Where `codeloc deploy` brings a location on this machine: the platform in a home folder."""

import json
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from codeloc.commands import Command
from codeloc.errors import CandidateError, CodelocError
from codeloc.home import write_whole
from codeloc.ledger import ledger
from codeloc.platform import Platform, Say, sync
from codeloc.releases import (
    Release,
    current,
    forget_current,
    made,
    make_current,
    make_release,
    remove_leftovers,
)
from codeloc.serving import answers
from codeloc.settings import inherited_environment
from codeloc.sources import Source
from codeloc.supervision import log_file
from codeloc.workspace import Location


class LocalReleases:
    """Releases of the platform in a home folder, which is up. What the methods do: `codeloc.deploying.Releases`."""

    name = "local"

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._home = platform.home
        self._started: dict[tuple[str, str], int] = {}

    def alone(self) -> AbstractContextManager[None]:
        """Held by whoever changes the platform, `up` and `down` too."""
        return self._platform.exclusive()

    @property
    def psql(self) -> Command:
        """Psql as the administrator."""
        return self._platform.psql

    def current(self, location: str) -> str | None:
        """The version that serves."""
        return current(self._home, location)

    def known(self, location: str) -> list[str]:
        """Versions that can be started."""
        return made(self._home, location)

    def admit(self, location: Location, say: Say) -> None:
        """Give a new location its role, its schemas and what its processes are told."""
        if not self._home.settings_of(location.name).exists():
            say(f"making the database role of {location.name}")
            self._platform.admit_locations()

    def build(self, location: Location, source: Source, say: Say) -> str:
        """Make a release of the working tree, unless there is one."""
        sync(location.folder, say)
        return make_release(self._home, location.name, source, say)

    def describe(self, location: Location, version: str, seconds: float) -> dict[str, Any]:
        """What the release defines, loaded in its own environment."""
        release = self._release(location, version)
        kept = release.folder / "description.json"
        if kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            return found
        command = [str(release.python), "-m", "taxi_shared.description", location.name]
        printed = description(f"{location.name} {version}", command, release.variables, release.package, seconds)
        found = json.loads(printed)
        write_whole(kept, printed)
        return found

    def begin(self, location: Location, version: str) -> None:
        """Start a server of the release beside the one that serves."""
        release = self._release(location, version)
        self._have(location, release)
        self._platform.supervisor.start_program(release.program)

    def start(self, location: Location, version: str, seconds: float) -> None:
        """Wait until the server that `begin` started answers."""
        release = self._release(location, version)
        self._platform.wait_for_server(release, seconds)
        self._started[location.name, version] = self._pid(release)

    def require_alive(self, location: Location, version: str) -> None:
        """See that the server is the process that was started."""
        release = self._release(location, version)
        if self._pid(release) != self._started[location.name, version] or not answers(release.socket):
            raise CandidateError(
                f"{location.name} {version} did not stay up; the end of its log:\n"
                f"{self._platform.supervisor.log_end(release.program)}"
            )

    def switch(self, location: Location, version: str) -> None:
        """Turn the link; a webserver that does not know the location yet reads workspace.yaml anew."""
        make_current(self._home, location.name, version)
        webserver = self._platform.webserver
        if location.name not in (status.name for status in webserver.locations()):
            webserver.reload_workspace()

    def served(self, location: str) -> dict[str, str | None]:
        """What webserver and daemon have loaded."""
        with ledger(self.psql) as history:
            daemon = history.daemon_serves(location)
        loaded = {status.name: status.version for status in self._platform.webserver.locations() if status.loaded}
        return {"webserver": loaded.get(location), "daemon": daemon}

    def settle(self, location: Location) -> None:
        """End every server of the location but the one that serves."""
        self._have(location)

    def prune(self, location: Location, keep: set[str]) -> list[str]:
        """Remove releases, and environments that no release has any longer."""
        keep = keep | {version for version in (self.current(location.name),) if version}
        unwanted = [version for version in self.known(location.name) if version not in keep]
        remove_leftovers(self._home, location.name)
        for version in unwanted:
            release = Release(self._home, location.name, version)
            # Renamed first: half a release is none.
            release.folder.rename(release.folder.with_name(f".{version}.gone"))
            release.socket.unlink(missing_ok=True)
            log_file(self._home, release.program).unlink(missing_ok=True)
        remove_leftovers(self._home, location.name)
        used = {entry.resolve().name for entry in self._home.releases.glob("*/*/environment")}
        for environment in self._home.environments.iterdir():
            if environment.name not in used:
                shutil.rmtree(environment)
        return unwanted

    def dismiss(self, location: Location) -> None:
        """End its servers, and remove its releases and what its processes were told; the lake stays."""
        self._platform.webserver.reload_workspace()
        forget_current(self._home, location.name)
        self._have(location)
        self.prune(location, set())
        self._home.settings_of(location.name).unlink(missing_ok=True)

    def _have(self, location: Location, candidate: Release | None = None) -> None:
        """Have the servers that serve, and beside that of one location a candidate; all others of it end."""
        running = {process.name for process in self._platform.supervisor.processes()}
        servers = []
        for other in self._platform.locations:
            version = self.current(other.name)
            if version is not None:
                servers.append(Release(self._home, other.name, version))
            if other != location:
                found = [Release(self._home, other.name, version) for version in made(self._home, other.name)]
                servers += [release for release in found if release.program in running]
        if candidate is not None:
            servers.append(candidate)
        self._platform.supervisor.change(self._platform.programs(list({s.program: s for s in servers}.values())))

    def _release(self, location: Location, version: str) -> Release:
        release = Release(self._home, location.name, version)
        if not release.is_there:
            there = ", ".join(self.known(location.name)) or "none"
            raise CodelocError(f"there is no release {version} of {location.name} on this machine; there are: {there}")
        return release

    def _pid(self, release: Release) -> int:
        return next(found.pid for found in self._platform.supervisor.processes() if found.name == release.program)


def description(code: str, command: list[str], variables: dict[str, str], folder: Path, seconds: float) -> str:
    """What `taxi_shared.description` prints of some code.

    Parameters
    ----------
    code
        For errors: the location, and which version of it.

    Raises
    ------
    CandidateError
        It does not load, or not within `seconds`.
    """
    try:
        done = subprocess.run(
            command,
            env=inherited_environment() | variables,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CandidateError(f"{code} did not load within {seconds:.0f} s") from None
    if done.returncode != 0:
        # Where the cause stands.
        end = "\n".join(done.stderr.strip().splitlines()[-25:])
        raise CandidateError(f"{code} does not load:\n{end}")
    return done.stdout
