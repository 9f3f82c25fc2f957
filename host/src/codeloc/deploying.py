"""How a location is redeployed: the same steps on this machine and in containers, each of which may fail or be cut off.

The link decides which version serves. Until it is turned, a failure leaves the old server as it is and takes the
candidate away; from then on the new version is what the next command, or the next start, goes on with.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from codeloc.commands import Command
from codeloc.errors import CodelocError
from codeloc.ledger import DONE, FAILED, UNDONE, Deployment, Ledger, ledger
from codeloc.plan import Description, Plan
from codeloc.platform import wait_until, whoami
from codeloc.releases import short
from codeloc.sources import Source, working_tree
from codeloc.workspace import Location, locations

Say = Callable[[str], None]

# Seconds.
LOAD_TIMEOUT = 60
PICKUP_TIMEOUT = 90
# A candidate must live that long before it serves: what dies by itself usually does so at once.
WATCHED = 8
# So many versions of a location are kept besides those that something still needs.
KEPT = 5


class Releases(Protocol):
    """Where locations are deployed: `codeloc.machine.LocalReleases`, `codeloc.containers.ComposeReleases`."""

    name: str

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Held while locations are deployed, so that the platform is not started or stopped meanwhile."""

    @property
    def psql(self) -> Command:
        """Psql as the administrator of the platform's Postgres."""

    def current(self, location: str) -> str | None:
        """The version that the link points at; None: nothing serves."""

    def known(self, location: str) -> list[str]:
        """Versions whose code is still there, newest first."""

    def admit(self, location: Location, say: Say) -> None:
        """Have the platform know a location that was added to workspace.yaml since it started."""

    def build(self, location: Location, source: Source, say: Say) -> str:
        """Make the release of the working tree unless one of the same content is there; returns its version."""

    def describe(self, location: Location, version: str, seconds: float) -> dict[str, Any]:
        """What a release defines, loaded in its own environment.

        Raises
        ------
        CandidateError
            It does not load, or not within `seconds`.
        """

    def begin(self, location: Location, version: str) -> None:
        """Have a server of a release load its code while the release is described: both take as long as one.

        Not in containers: a server that is up while no other is would serve before it was compared.
        """

    def start(self, location: Location, version: str, seconds: float) -> None:
        """Have a server of a release beside the one that serves, and return when it answers.

        Raises
        ------
        CandidateError
            It does not start.
        """

    def require_alive(self, location: Location, version: str) -> None:
        """See that the server that was started is still the same process.

        Raises
        ------
        CandidateError
            It ended.
        """

    def switch(self, location: Location, version: str) -> None:
        """Turn the link: from here on every request goes to that version."""

    def served(self, location: str) -> dict[str, str | None]:
        """The version that `webserver` and `daemon` have loaded; None where one has an error instead."""

    def settle(self, location: Location) -> None:
        """Have the version that serves be the one of the next start, and end every other server of the location."""

    def prune(self, location: Location, keep: set[str]) -> list[str]:
        """Remove the releases that are not to be kept and do not serve; returns them."""

    def dismiss(self, location: Location) -> None:
        """Have the platform forget a location that was taken out of workspace.yaml: its servers and releases go."""


@dataclass(frozen=True)
class Outcome:
    """What a deploy did; `before` and `after` are the same where there was nothing to do."""

    location: str
    before: str | None
    after: str
    seconds: float
    plan: Plan | None


class Deploying:
    """Deploys to one platform, one at a time.

    Parameters
    ----------
    plan
        Makes the plan of a location's candidate against what is deployed.
    """

    def __init__(self, releases: Releases, plan: "Planner", say: Say) -> None:
        self._releases = releases
        self._plan = plan
        self._say = say

    def deploy(
        self,
        location: Location,
        *,
        action: str,
        watched: float,
        timeout: float,
        reason: str | None,
        forced: bool,
    ) -> Outcome:
        """Bring the working tree's code of a location out.

        Parameters
        ----------
        watched
            Seconds that the new server must live before it serves.
        timeout
            Seconds that its code may take to load.

        Raises
        ------
        CodelocError
            It was not done; why, and that the old version serves on.
        """
        with self._alone() as history:
            started = time.monotonic()
            source = working_tree(location.name)
            before = self._releases.current(location.name)
            if before is not None and short(before) == short(source.version):
                # Also where somebody changed by hand what the next start would go on with.
                self._releases.settle(location)
                return Outcome(location.name, before, before, 0, None)
            row = history.begin(
                location.name, action, before, source.version, source.commit, whoami(), reason, source.files
            )
            with self._recorded(history, row, location):
                history.note(row, step="build")
                self._releases.admit(location, self._say)
                version = self._releases.build(location, source, self._say)
                history.note(row, to_version=version)
                plan = self._swap(history, row, location, version, source.files, watched, timeout, forced)
            return Outcome(location.name, before, version, time.monotonic() - started, plan)

    def rollback(self, location: Location, version: str | None, *, reason: str | None, forced: bool) -> Outcome:
        """Have an earlier version of a location serve again, without building anything.

        Parameters
        ----------
        version
            None: the one that served before the one that serves now.
        """
        with self._alone() as history:
            before = self._releases.current(location.name)
            chosen = self._earlier(history, location, before, version)
            started = time.monotonic()
            row = history.begin(location.name, "rollback", before, chosen, None, whoami(), reason)
            with self._recorded(history, row, location):
                files = history.files(location.name, chosen)
                plan = self._swap(history, row, location, chosen, files, 0, LOAD_TIMEOUT, forced)
            return Outcome(location.name, before, chosen, time.monotonic() - started, plan)

    def remove(self, location: Location, take_out: Callable[[], None], *, forced: bool) -> None:
        """Have the platform forget a location.

        Parameters
        ----------
        take_out
            Takes it out of the repository.

        Raises
        ------
        CodelocError
            Runs of it are queued or under way; or others use its assets, and it is not forced.
        """
        with self._alone() as history:
            users = self._plan.users_of(location)
            if users and not forced:
                raise CodelocError(
                    f"others use what {location.name} makes: {', '.join(users)}. Have them stop first, or use --force"
                )
            active = history.active_versions(location.name)
            if active:
                raise CodelocError(
                    f"runs of {location.name} are queued or under way: wait for their end, or cancel them"
                )
            before = self._releases.current(location.name)
            row = history.begin(location.name, "remove", before, None, None, whoami())
            try:
                history.note(row, step="take out")
                take_out()
                history.note(row, step="dismiss")
                self._releases.dismiss(location)
            except CodelocError as error:
                history.end(row, FAILED, str(error))
                raise
            history.end(row, DONE)

    # -- the steps --------------------------------------------------------------------------------

    def _swap(
        self,
        history: Ledger,
        row: str,
        location: Location,
        version: str,
        files: Mapping[str, str],
        watched: float,
        timeout: float,
        forced: bool,
    ) -> Plan:
        def step(name: str, text: str) -> None:
            history.note(row, step=name)
            self._say(text)

        name, releases = location.name, self._releases
        step("load", f"loading {name} {version} beside the running one")
        releases.begin(location, version)
        candidate = releases.describe(location, version, timeout)
        step("check", "comparing it with what is deployed")
        plan = self._plan(location, version, candidate, files, history)
        history.note(row, plan=json.dumps(plan.as_json()))
        if plan.blockers and not forced:
            blockers = "\n".join(f"  {blocker}" for blocker in plan.blockers)
            raise CodelocError(
                f"{name} {version} is refused:\n{blockers}\nMend that; or, if it must be so, --force --reason TEXT"
            )
        step("start", f"starting {name} {version}")
        releases.start(location, version, timeout)
        if watched:
            step("watch", f"watching it for {watched:.0f} s")
            deadline = time.monotonic() + watched
            wait_until(
                lambda: self._is_over(deadline, location, version), watched + 30, "the candidate was not watched"
            )
        releases.require_alive(location, version)
        before = releases.current(name)
        step("switch", f"switching {name} to {version}")
        releases.switch(location, version)
        step("wait", "waiting until webserver and daemon have it")
        try:
            self._wait_for_pickup(name, version)
        except CodelocError:
            if before is not None:
                self._say(f"switching {name} back to {before}")
                releases.switch(location, before)
            raise
        step("settle", "ending the server of the old version")
        return plan

    def _is_over(self, deadline: float, location: Location, version: str) -> str | None:
        self._releases.require_alive(location, version)
        return None if time.monotonic() >= deadline else "watching"

    def _wait_for_pickup(self, location: str, version: str) -> None:
        def other() -> str | None:
            served = self._releases.served(location)
            behind = [
                f"the {process} has {served[process] or 'an error'}" for process in served if served[process] != version
            ]
            return ", ".join(behind) or None

        wait_until(other, PICKUP_TIMEOUT, f"not everybody has {location} {version}")

    # -- around them ------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[Ledger]:
        """Held by the one who deploys; what an earlier one left is healed first."""
        with ledger(self._releases.psql) as history:
            history.lock()
            for found in history.unfinished():
                self._heal(history, found)
            yield history

    def _heal(self, history: Ledger, found: Deployment) -> None:
        location = Location(found.location)
        if found.action == "remove":
            # Its folder goes last: without its place in workspace.yaml it is gone.
            taken_out = location not in locations()
            self._say(f"`remove {found.location}` was cut off: {'finishing' if taken_out else 'it did nothing yet'}")
            if taken_out:
                self._releases.dismiss(location)
            history.end(found.id, DONE if taken_out else UNDONE)
            return
        finished = self._releases.current(found.location) == found.to_version
        self._say(
            f"`{found.action} {found.location}` of {found.started:%Y-%m-%d %H:%M} UTC was cut off at the step"
            f" '{found.step}': {'finishing' if finished else 'undoing'} it"
        )
        self._releases.settle(location)
        history.end(found.id, DONE if finished else UNDONE)

    @contextmanager
    def _recorded(self, history: Ledger, row: str, location: Location) -> Iterator[None]:
        """Have the end written down, whatever it is, and only what serves go on."""
        try:
            yield
            self._releases.settle(location)
        except BaseException as error:
            what = str(error).strip() if isinstance(error, CodelocError) else "interrupted"
            with contextlib.suppress(CodelocError):
                self._releases.settle(location)
            serves = self._releases.current(location.name)
            history.end(row, DONE if serves is not None and serves == history.wanted(row) else FAILED, what)
            if isinstance(error, CodelocError):
                goes_on = f"{location.name} goes on with {serves}" if serves else f"nothing serves {location.name}"
                raise CodelocError(f"{what}\n{goes_on}.") from None
            raise
        history.end(row, DONE)
        self._prune(history, location)

    def _prune(self, history: Ledger, location: Location) -> None:
        newest = list(
            dict.fromkeys(
                found.to_version
                for found in history.history(location.name)
                if found.outcome == DONE and found.to_version is not None
            )
        )
        keep = {*newest[:KEPT], *history.active_versions(location.name)}
        removed = self._releases.prune(location, keep)
        if removed:
            self._say(f"removed {len(removed)} old version(s) of {location.name}: {', '.join(removed)}")

    def _earlier(self, history: Ledger, location: Location, before: str | None, wanted: str | None) -> str:
        known = self._releases.known(location.name)
        if wanted is not None:
            if wanted not in known:
                raise CodelocError(
                    f"there is no version {wanted} of {location.name} any more; there are: {', '.join(known) or 'none'}"
                )
            if wanted == before:
                raise CodelocError(f"{location.name} serves {wanted} already")
            return wanted
        for found in history.history(location.name):
            if found.outcome == DONE and found.to_version not in (None, before) and found.to_version in known:
                return str(found.to_version)
        raise CodelocError(
            f"there is no earlier version of {location.name} to go back to: ./codeloc history {location.name} shows all"
        )


class Planner(Protocol):
    """Makes the plan of a candidate."""

    def __call__(
        self, location: Location, version: str, candidate: Description, files: Mapping[str, str], history: Ledger
    ) -> Plan:
        """The plan of a location's candidate against what is deployed now."""

    def users_of(self, location: Location) -> list[str]:
        """Deployed assets of other locations that depend on what a location makes."""
