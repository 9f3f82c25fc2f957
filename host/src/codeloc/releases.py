"""Releases on this machine: a copy of the code that a location is made from, and a server of its own for each.

A release is not touched by what is edited afterwards. Its server listens on a Unix socket, `current` is a link to the
socket of the one that serves, and webserver and daemon go through the link anew with each request: turning it, which is
one rename, swaps two servers without a moment in between.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from codeloc.environments import is_current
from codeloc.home import ROOT, Home
from codeloc.sources import Source

CURRENT = "current"


class Release:
    """A location's code at one version, as it lies on this machine.

    Attributes
    ----------
    code
        The files that it is made from, at their places in the repository.
    """

    def __init__(self, home: Home, location: str, version: str) -> None:
        self.location = location
        self.version = version
        self.folder = home.releases / location / version
        self.code = self.folder / "code"
        self.python = self.folder / "environment" / "bin" / "python"
        self.program = f"{location}-{short(version)}"
        self.socket = home.sockets(location) / short(version)
        self._home = home

    @property
    def is_there(self) -> bool:
        """Whether it was made."""
        return self.folder.is_dir()

    @property
    def package(self) -> Path:
        """The location's package in it, where its processes run."""
        return self.code / "locations" / self.location

    @property
    def variables(self) -> dict[str, str]:
        """What its processes are told besides the location's own settings."""
        sources = [self.package / "src", *sorted(self.code.glob("*/src"))]
        return {
            "PYTHONPATH": os.pathsep.join(str(folder) for folder in sources),
            "DAGSTER_CURRENT_IMAGE": f"{self.location}:{self.version}",
            "CODELOC_VERSION": self.version,
        }

    def make(self, source: Source) -> None:
        """Copy the files of the working tree, and add the environment that there is now; whole or not at all."""
        draft = self.folder.with_name(f".{self.version}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        for path in source.files:
            (draft / "code" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, draft / "code" / path)
        environment = _environment(self._home, self.location)
        # Relative: the home folder may be moved.
        (draft / "environment").symlink_to(os.path.relpath(environment, draft))
        # Otherwise each of its processes compiles it, on machines that don't keep the outcome again and again.
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "compileall", "-q", str(draft / "code")], check=False, capture_output=True)
        _take(draft, self.folder)


def short(version: str) -> str:
    """The part of a version that its content decides; the path of a socket has little room."""
    return version.rpartition("-")[2]


def made(home: Home, location: str) -> list[str]:
    """Versions whose release is there, newest first."""
    folder = home.releases / location
    found = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        # Whoever deploys may be removing it.
        with contextlib.suppress(FileNotFoundError):
            if not entry.name.startswith("."):
                found[entry.name] = entry.stat().st_mtime
    return sorted(found, key=lambda version: found[version], reverse=True)


def current(home: Home, location: str) -> str | None:
    """The version that the link points at."""
    try:
        target = (home.sockets(location) / CURRENT).readlink().name
    except OSError:
        return None
    return next((version for version in made(home, location) if short(version) == target), None)


def make_current(home: Home, location: str, version: str) -> None:
    """Turn the link."""
    folder = home.sockets(location)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{CURRENT}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(short(version))
    draft.replace(folder / CURRENT)


def forget_current(home: Home, location: str) -> None:
    """Take the link away: nothing serves."""
    (home.sockets(location) / CURRENT).unlink(missing_ok=True)


def make_release(home: Home, location: str, source: Source, say: Callable[[str], None]) -> str:
    """Make a release of the working tree, unless there is one of the same content; returns its version.

    The location's environment must have been made from its lock.
    """
    same = [version for version in made(home, location) if short(version) == short(source.version)]
    if same:
        return same[0]
    say(f"making release {source.version} of {location}")
    Release(home, location, source.version).make(source)
    return source.version


def remove_leftovers(home: Home, location: str) -> None:
    """Remove what is on its way out, and drafts of releases whose maker was killed."""
    for entry in (home.releases / location).glob(".*"):
        # Named `.VERSION.gone` and `.VERSION.PID`.
        if entry.suffix == ".gone" or not psutil.pid_exists(int(entry.suffix[1:])):
            shutil.rmtree(entry)


def _environment(home: Home, location: str) -> Path:
    """The environment of the location's lock as it is now, apart from the one that its developers work in.

    Made of links to the same files, which takes no room and a third of a second; the files themselves are never
    written to: whatever installs or compiles replaces them.
    """
    developed = ROOT / "locations" / location / ".venv"
    assert is_current(developed.parent), f"{developed} was not made from its lock"  # noqa: S101
    made_from = (developed / "made-from").read_text(encoding="utf-8")
    environment = home.environments / f"{location}-{made_from[:12]}"
    if not environment.is_dir():
        draft = environment.with_name(f".{environment.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(developed, draft, symlinks=True, copy_function=_link)
        _take(draft, environment)
    return environment


def _take(draft: Path, folder: Path) -> None:
    """Give a folder that is whole its name, unless another process was first: what is there is the same."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(draft)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copy2(source, target)
