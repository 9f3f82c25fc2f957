"""What a backup is taken of and restored into: the platform on this machine, or the one in containers.

They differ in how Postgres' programs and the archive program are run, and in what must stand still during a restore.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

from codeloc import postgres
from codeloc.commands import Command
from codeloc.errors import CodelocError
from codeloc.home import ROOT, Restoring, State
from codeloc.platform import Platform

Say = Callable[[str], None]

_S3 = "s3://"


class LocalTarget:
    """The platform in a home folder of this machine, with the embedded Postgres or an existing one."""

    name = "local"

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._home = platform.home
        self._server: postgres.Server | None = None

    @property
    def lakes_on_s3(self) -> str | None:
        """Address of the lakes' files; None: they lie in a folder and belong to the backup."""
        data = self._platform.settings.warehouse_data or ""
        return data if data.startswith(_S3) else None

    @property
    def state(self) -> State:
        """What a platform that this one is restored into should go on with."""
        return self._platform.state

    @property
    def archive(self) -> Command:
        """The archive program, where the platform's files are."""
        words = [sys.executable, "-m", "codeloc.archive", "--home", str(self._home.path)]
        if self._platform.settings.warehouse_data and not self.lakes_on_s3:
            words += ["--lakes", self._platform.settings.warehouse_data]
        return Command(words)

    def program(self, name: str) -> Command:
        """One of Postgres' programs, as its administrator; only while it is reachable."""
        return Command([str(postgres.programs() / name)], self._reachable_server.client_environment)

    @contextmanager
    def reachable(self, say: Say) -> Iterator[None]:
        """Held during a backup: Postgres answers, and whatever runs goes on.

        Raises
        ------
        CodelocError
            There is no platform.
        """
        if not (self._home.path / "secrets.json").exists():
            raise CodelocError(f"there is no platform in {self._home.path}: name its folder with --home")
        if restoring := Restoring.load(self._home):
            raise restoring.error(f"./codeloc restore --home {self._home.path}")
        if self._platform.supervisor.is_running():
            self._platform.require_complete()
            self._server = self._platform.running_server
            yield
            return
        with self._platform.database(say) as self._server:
            yield

    @contextmanager
    def still(self, say: Say) -> Iterator[Restoring | None]:
        """Held during a restore: Postgres answers and nothing else runs. Tells which restore was interrupted before.

        Raises
        ------
        CodelocError
            The platform is up.
        """
        with self._platform.database(say) as self._server:
            yield Restoring.load(self._home)

    def begin(self, restoring: Restoring, _say: Say) -> None:
        """Mark the platform as half of one, and make its roles and databases."""
        restoring.begin(self._home)
        self._platform.provision(self._reachable_server)

    def end(self, restoring: Restoring, state: State) -> None:
        """Take the mark off: the next start goes on with this state."""
        self._platform.provision(self._reachable_server)
        own = self._platform.state
        own.source = own.source or state.source
        own.ports = state.ports | own.ports
        restoring.end(self._home, own)

    @property
    def how_to_empty(self) -> str:
        """How a person gets an empty platform."""
        return "restore into another folder with --home (and another server, where POSTGRES_HOST is set)"

    @property
    def how_to_go_on(self) -> str:
        """What starts the restored platform."""
        return self._home.command("up")

    @property
    def _reachable_server(self) -> postgres.Server:
        assert self._server is not None, "asked for Postgres before it was reachable"  # noqa: S101
        return self._server


class ComposeTarget:
    """The platform in containers, as `docker compose` in the repository's root knows it: its .env, its project."""

    name = "compose"

    def __init__(self) -> None:
        if shutil.which("docker") is None:
            raise CodelocError("there is no `docker` on PATH: --compose is for the platform in containers")
        self._compose = Command(["docker", "compose"], folder=ROOT)

    @cached_property
    def lakes_on_s3(self) -> str | None:
        """Address of the lakes' files; None: they lie in volumes and belong to the backup."""
        configured: dict[str, Any] = json.loads(self._compose.with_words("config", "--format", "json").run())
        data = configured["services"]["init"]["environment"].get("WAREHOUSE_DATA") or ""
        return data if data.startswith(_S3) else None

    @property
    def state(self) -> State:
        """What a platform that this one is restored into should go on with; ports and source are in .env."""
        return State()

    @property
    def archive(self) -> Command:
        """The archive program, in a container that mounts the volumes."""
        return self._once("archive")

    def program(self, name: str) -> Command:
        """One of Postgres' programs, those of the server's own version, as its administrator."""
        return self._compose.with_words("exec", "-T", "postgres", name, "-U", "postgres")

    @contextmanager
    def reachable(self, _say: Say) -> Iterator[None]:
        """Held during a backup: Postgres answers, and whatever runs goes on.

        Raises
        ------
        CodelocError
            It does not run, or the platform is half of one.
        """
        if not self._postgres_runs:
            raise CodelocError("Postgres does not run: docker compose up -d --wait postgres")
        if restoring := self._interrupted:
            raise restoring.error("./codeloc restore --compose")
        yield

    @contextmanager
    def still(self, say: Say) -> Iterator[Restoring | None]:
        """Held during a restore: Postgres answers. Tells which restore was interrupted before."""
        # Builds the image where there is none yet.
        say("looking at the deployment")
        restoring = self._interrupted
        if not self._postgres_runs:
            say("starting Postgres")
            self._compose.with_words("up", "-d", "--wait", "postgres").run()
        yield restoring

    def begin(self, restoring: Restoring, say: Say) -> None:
        """Stop everything but Postgres, mark the platform as half of one, and make its roles and databases."""
        services = self._compose.with_words("ps", "--status", "running", "--services").run().split()
        others = [service for service in services if service != "postgres"]
        if others:
            say(f"stopping {', '.join(others)}")
            self._compose.with_words("stop", *others).run()
        say("making roles and databases")
        self._once("init", "begin-restore").run(json.dumps(asdict(restoring)))

    def end(self, restoring: Restoring, _state: State) -> None:
        """Take the mark off: the next start goes on."""
        self._once("init", "end-restore").run()

    @property
    def how_to_empty(self) -> str:
        """How a person gets an empty platform."""
        return (
            "docker compose down --volumes removes what is there for good; another COMPOSE_PROJECT_NAME (with ports of"
            " its own) leaves it"
        )

    @property
    def how_to_go_on(self) -> str:
        """What starts the restored platform."""
        return "docker compose up -d --wait"

    @property
    def _postgres_runs(self) -> bool:
        return "postgres" in self._compose.with_words("ps", "--status", "running", "--services").run().split()

    @property
    def _interrupted(self) -> Restoring | None:
        # Below what was built, if the image had to be.
        told = json.loads(self._once("init", "restoring").run().splitlines()[-1])
        return Restoring(**told) if told else None

    def _once(self, service: str, *words: str) -> Command:
        return self._compose.with_words("run", "--rm", "--no-deps", "-T", service, *words)


Target = LocalTarget | ComposeTarget
