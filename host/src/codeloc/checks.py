"""`codeloc test`: the linter, the type checker and the tests of each package, in its own environment."""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codeloc.errors import CodelocError
from codeloc.home import ROOT
from codeloc.platform import sync
from codeloc.workspace import locations

# The package that holds what no single package can test.
ACROSS = "tests"
# Tells the tests that they may use Docker.
TEST_DOCKER = "CODELOC_TEST_DOCKER"


@dataclass(frozen=True)
class Check:
    """One command and how it ended."""

    package: str
    name: str
    passed: bool
    seconds: float


def packages() -> dict[str, Path]:
    """Every package that can be tested, by the name it is asked for with."""
    return {
        "host": ROOT / "host",
        "shared": ROOT / "shared",
        **{location.name: location.folder for location in locations()},
        ACROSS: ROOT,
    }


def run_checks(names: list[str], docker: bool, say: Callable[[str], None]) -> list[Check]:
    """Check the packages of these names, or all; goes on after a failure.

    Parameters
    ----------
    docker
        Whether the deployment with Docker Compose is tested too. It takes minutes and some gigabytes.

    Raises
    ------
    CodelocError
        There is no such package.
    """
    known = packages()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CodelocError(f"there is no package {', '.join(unknown)}: choose from {', '.join(known)}")
    chosen = names or list(known)
    # What is tested across packages starts all of them.
    for name in known if ACROSS in chosen else chosen:
        sync(known[name], say)
    sync(ROOT, say)

    done: list[Check] = []
    for name in chosen:
        for title, command in _commands(name, known[name]):
            say(f"{name}: {title}")
            started = time.monotonic()
            environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
            environment |= {TEST_DOCKER: "1"} if docker else {}
            finished = subprocess.run(command, cwd=known[name], env=environment, check=False)
            done.append(Check(name, title, finished.returncode == 0, time.monotonic() - started))
    return done


def _commands(name: str, folder: Path) -> list[tuple[str, list[str]]]:
    tools = ROOT / ".venv" / "bin"
    own = folder / ".venv" / "bin"
    # The root's own files are its tests; the packages below it are checked by themselves.
    targets = ["tests", "conftest.py", "codeloc"] if name == ACROSS else ["."]
    typed = ["tests"] if name == ACROSS else ["src", "tests"]
    return [
        ("ruff check", [str(tools / "ruff"), "check", "--quiet", *targets]),
        ("ruff format", [str(tools / "ruff"), "format", "--check", "--quiet", *targets]),
        ("mypy", [str(own / "mypy"), "--config-file", str(ROOT / "pyproject.toml"), *typed]),
        ("pytest", [str(own / "python"), "-m", "pytest", "tests"]),
    ]
