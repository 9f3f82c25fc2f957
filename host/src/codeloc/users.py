"""`codeloc users`: has a container of the deployment change who may log in, and its proxy take that over.

The logins are in a volume that only init and the proxy mount, so it is done where they are.
"""

import shutil
import subprocess

from codeloc.errors import CodelocError
from codeloc.home import ROOT
from codeloc.people import Role


def everybody() -> list[tuple[str, str]]:
    """Name and role of each person."""
    return [(name, role) for name, role in (line.split("\t") for line in _people("list").splitlines())]


def add(name: str, role: Role, password: str) -> None:
    """Let a person in."""
    _people("add", "--role", role, "--", name, password=password)
    _take_over()


def change_password(name: str, password: str) -> None:
    """Give a person another password."""
    _people("password", "--", name, password=password)
    _take_over()


def remove(name: str) -> None:
    """Let a person in no longer."""
    _people("remove", "--", name)
    _take_over()


def _people(*arguments: str, password: str = "") -> str:
    # Over standard input: arguments are seen by everybody on the machine.
    return _compose("run", "--rm", "--no-deps", "-T", "init", "people", *arguments, given=f"{password}\n")


def _take_over() -> None:
    if _compose("ps", "--quiet", "--status", "running", "proxy").strip():
        # Its master process starts another worker; the former one goes on with the connections it has.
        _compose("kill", "--signal", "SIGUSR2", "proxy")


def _compose(*arguments: str, given: str = "") -> str:
    docker = shutil.which("docker")
    if docker is None:
        raise CodelocError("there is no docker here: logins are those of the deployment with Docker Compose")
    done = subprocess.run(
        [docker, "compose", *arguments], cwd=ROOT, input=given, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        own = [line.removeprefix("codeloc: ") for line in done.stderr.splitlines() if line.startswith("codeloc: ")]
        raise CodelocError("\n".join(own) or f"docker compose {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
