"""`codeloc test`: the linter, the type checker and the tests of each package, in its own environment."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
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

    Two commands run at once where the machine has the cores; what each prints then comes when it has
    ended. The tests across packages start whole platforms and run alone, after the others.

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

    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {TEST_DOCKER: "1"} if docker else {}
    with tempfile.TemporaryDirectory(prefix="t") as temporary:  # short: sockets lie in it
        # The last packages' tests take longest and begin first.
        beside = [name for name in reversed(known) if name in chosen and name != ACROSS]
        at_once = 2 if len(beside) > 1 and (os.cpu_count() or 1) > 1 else 1
        commands = [command for name in beside for command in _commands(name, known[name], temporary)]
        done = _run(commands, at_once, environment, say)
        if ACROSS in chosen:
            done += _run(_commands(ACROSS, ROOT, temporary), 1, environment, say)
    return sorted(done, key=lambda check: chosen.index(check.package))


@dataclass(frozen=True)
class _Command:
    package: str
    title: str
    words: list[str]
    folder: Path


def _run(
    commands: list[_Command], at_once: int, environment: dict[str, str], say: Callable[[str], None]
) -> list[Check]:
    """Run commands in their order, `at_once` of them at a time; what several print is never mixed."""
    waiting = list(enumerate(commands))
    running: dict[Future[tuple[str, str]], tuple[int, subprocess.Popen[str], float]] = {}
    done: dict[int, Check] = {}
    with ThreadPoolExecutor(at_once) as readers:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    number, command = waiting.pop(0)
                    say(f"{command.package}: {command.title}")
                    process = subprocess.Popen(
                        command.words,
                        cwd=command.folder,
                        env=environment,
                        text=True,
                        # In a group of its own: Ctrl-C reaches it from here, once, however it came here.
                        process_group=0,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE if at_once > 1 else None,
                        stderr=subprocess.STDOUT if at_once > 1 else None,
                    )
                    running[readers.submit(process.communicate)] = number, process, time.monotonic()
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    number, process, started = running.pop(ended)
                    command, passed = commands[number], process.returncode == 0
                    done[number] = Check(command.package, command.title, passed, time.monotonic() - started)
                    printed, _ = ended.result()
                    if printed:
                        say(f"{command.package}: {command.title} printed")
                        sys.stdout.write(printed)
                        sys.stdout.flush()
        except BaseException:
            for _, process, _ in running.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)
            raise
    return [done[number] for number in range(len(commands))]


def _commands(name: str, folder: Path, temporary: str) -> list[_Command]:
    tools = ROOT / ".venv" / "bin"
    own = folder / ".venv" / "bin"
    # The root's own files are its tests; the packages below it are checked by themselves.
    targets = ["tests", "benchmarks", "conftest.py", "codeloc"] if name == ACROSS else ["."]
    typed = ["tests", "benchmarks"] if name == ACROSS else ["src", "tests"]
    # The folder that pytest takes by itself is the same for all of a user's.
    apart = [] if name == ACROSS else ["--basetemp", f"{temporary}/{name}"]
    commands = {
        "ruff check": [str(tools / "ruff"), "check", "--quiet", *targets],
        "ruff format": [str(tools / "ruff"), "format", "--check", "--quiet", *targets],
        "mypy": [str(own / "mypy"), "--config-file", str(ROOT / "pyproject.toml"), *typed],
        "pytest": [str(own / "python"), "-m", "pytest", *apart, "tests"],
    }
    return [_Command(name, title, words, folder) for title, words in commands.items()]
