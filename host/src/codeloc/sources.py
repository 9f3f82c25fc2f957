"""What a package is made from: the version of its code, and which packages a change affects.

A location's Dockerfile says which files its image is made from, and nothing else does: the same list decides what a
release on a machine holds, what its version is, and whether a commit affects it.
"""

import hashlib
import os
import shlex
import stat
import subprocess
import tarfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath

from codeloc.errors import CodelocError
from codeloc.home import ROOT
from codeloc.workspace import locations

# Made by tools, never part of the code.
_MADE = {".venv", "__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
# What the tests across packages do not look at, of the repository's top folder.
_NOT_TESTED = {"docs", "var"}


@dataclass(frozen=True)
class Source:
    """The files that a package is made from, at one moment.

    Attributes
    ----------
    commit
        Of the repository; None outside of git.
    dirty
        Whether the files differ from that commit.
    files
        Each path in the repository, with the id that git gives to its content.
    """

    commit: str | None
    dirty: bool
    files: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over paths and contents."""
        listed = "".join(f"{blob} {path}\n" for path, blob in sorted(self.files.items()))
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def version(self) -> str:
        """The commit, whether files differ from it, and their content: `1a2b3c4-dirty-5d6e7f80`."""
        commit = self.commit[:7] if self.commit else "nogit"
        return f"{commit}{'-dirty' if self.dirty else ''}-{self.digest[:8]}"


def working_tree(location: str) -> Source:
    """The files of a location as they are now."""
    files = _files(inputs(location))
    commit = _commit("HEAD")
    dirty = commit is not None and files != _committed(location, commit)
    return Source(commit, dirty, files)


def at_revision(location: str, revision: str) -> Source:
    """The files of a location at a revision of git.

    Raises
    ------
    CodelocError
        There is no such revision.
    """
    commit = require_commit(revision)
    return Source(commit, False, _committed(location, commit))


def affected(revision: str) -> dict[str, list[str]]:
    """The packages whose files differ between a revision and the working tree, each with those files.

    A package counts as affected too where a package that it is made from is. The tests across packages, which start
    all of them, are affected by each, and by what belongs to none.
    """
    commit = require_commit(revision)
    packages: dict[str, list[str]] = {}
    for name, now in _packages(commit).items():
        files, before = _files(now), _at(commit, now)
        differ = sorted(path for path in files.keys() | before.keys() if files.get(path) != before.get(path))
        if differ:
            packages[name] = differ
    if packages and "tests" not in packages:
        packages["tests"] = []
    return packages


def causes(before: Mapping[str, str], now: Mapping[str, str], location: str) -> dict[str, list[str]]:
    """What differs, by kind: code, lock, shared, Dockerfile, packaging; nothing where one of both is not known."""
    if not before or not now:
        return {}
    found: dict[str, list[str]] = {}
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) != now.get(path):
            found.setdefault(_kind(path, location), []).append(path)
    return found


def _kind(path: str, location: str) -> str:
    if path.endswith("/Dockerfile"):
        return "Dockerfile"
    if path.endswith("/uv.lock"):
        return "lock"
    if not path.startswith(f"locations/{location}/"):
        return "shared"
    return "code" if "/src/" in path else "packaging"


def inputs(location: str, tree: "_Tree | None" = None) -> list[str]:
    """The paths in the repository that a location is made from: its Dockerfile, and what that copies.

    Raises
    ------
    CodelocError
        There is no Dockerfile, or a package that the location depends on by its path is not copied.
    """
    tree = tree or _Tree(None)
    folder = f"locations/{location}"
    paths = _copied(f"{folder}/Dockerfile", tree)
    for dependency in _path_dependencies(folder, tree):
        if not any(path == dependency or path.startswith(f"{dependency}/") for path in paths):
            raise CodelocError(
                f"{folder}/pyproject.toml depends on {dependency}, and {folder}/Dockerfile does not copy it: the image"
                " would be built from something else than the environment"
            )
    return paths


def export(commit: str, folder: Path) -> None:
    """Write the repository as it was at a commit into a folder."""
    archive = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as opened:
        opened.extractall(folder, filter="data")


def require_commit(revision: str) -> str:
    """The commit that a revision names.

    Raises
    ------
    CodelocError
        There is none, or no git.
    """
    commit = _commit(revision)
    if commit is None:
        raise CodelocError(
            f"git knows no revision '{revision}' in {ROOT}: name a branch, tag or commit; in CI, fetch the history"
        )
    return commit


class _Tree:
    """Texts of the repository: as they are now, or at a commit."""

    def __init__(self, commit: str | None) -> None:
        self._commit = commit

    def text(self, path: str) -> str | None:
        """A file's content; None where there is no such file."""
        if self._commit is None:
            file = ROOT / path
            return file.read_text(encoding="utf-8") if file.is_file() else None
        shown = subprocess.run(["git", "show", f"{self._commit}:{path}"], cwd=ROOT, capture_output=True, check=False)
        return shown.stdout.decode() if shown.returncode == 0 else None


def _packages(commit: str) -> dict[str, list[str]]:
    """Every package that can be tested, with the paths that it is made from and that its tests are."""
    return {
        "host": [*_copied("host/Dockerfile", _Tree(None)), "host/tests", "host/pyproject.toml"],
        "shared": ["shared"],
        **{location.name: [*inputs(location.name), f"locations/{location.name}/tests"] for location in locations()},
        "tests": _everything_else(commit),
    }


def _everything_else(commit: str) -> list[str]:
    """What lies in the top folder, now or at a commit, and is no package's."""
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", commit], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {entry.name for entry in ROOT.iterdir()} | set(listed.stdout.splitlines())
    others = _MADE | _NOT_TESTED | {"host", "shared", "locations"}
    return sorted(name for name in found if name not in others and not name.endswith(".md"))


def _copied(dockerfile: str, tree: _Tree) -> list[str]:
    text = tree.text(dockerfile)
    if text is None:
        raise CodelocError(f"there is no {dockerfile}")
    paths = [dockerfile]
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if line.startswith("COPY ") else []
        if words and not any(word.startswith("--from=") for word in words):
            sources = [word for word in words[1:-1] if not word.startswith("--")]
            paths += [str(PurePosixPath(source)) for source in sources]
    return sorted(set(paths))


def _path_dependencies(folder: str, tree: _Tree) -> Iterable[str]:
    """The packages of the repository that one depends on, as `[tool.uv.sources]` says, those of those included."""
    waiting, seen = [folder], set()
    while waiting:
        package = waiting.pop()
        project = tomllib.loads(tree.text(f"{package}/pyproject.toml") or "")
        for source in project.get("tool", {}).get("uv", {}).get("sources", {}).values():
            path = source.get("path") if isinstance(source, dict) else None
            found = os.path.normpath(f"{package}/{path}") if path else None
            if found and found not in seen:
                seen.add(found)
                waiting.append(found)
    return sorted(seen)


def _files(paths: Iterable[str]) -> dict[str, str]:
    """Every file below these paths, with git's id of its content; what git ignores is left out."""
    found = {}
    for path in paths:
        top = ROOT / path
        files = [top] if top.is_symlink() or top.is_file() else sorted(top.rglob("*"))
        for file in files:
            relative = file.relative_to(ROOT)
            if not _MADE & set(relative.parts) and (file.is_symlink() or file.is_file()):
                found[relative.as_posix()] = _blob(file)
    for ignored in _ignored(found):
        del found[ignored]
    return found


def _ignored(paths: Iterable[str]) -> list[str]:
    asked = "\0".join(paths)
    if not asked or not (ROOT / ".git").exists():
        return []
    # What is tracked is never ignored, whatever the patterns say.
    try:
        done = subprocess.run(
            ["git", "check-ignore", "-z", "--stdin"], cwd=ROOT, input=asked, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # a machine without git
        return []
    return [path for path in done.stdout.split("\0") if path]


def _blob(file: Path) -> str:
    mode = file.lstat().st_mode
    content = str(file.readlink()).encode() if stat.S_ISLNK(mode) else file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _committed(location: str, commit: str) -> dict[str, str]:
    """The files of a location at a commit; none where it had no such location."""
    tree = _Tree(commit)
    if tree.text(f"locations/{location}/Dockerfile") is None:
        return {}
    return _at(commit, inputs(location, tree))


def _at(commit: str, paths: Iterable[str]) -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "-z", commit, "--", *paths], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {}
    for line in listed.stdout.split("\0"):
        if line:
            described, path = line.split("\t", 1)
            found[path] = described.split()[2]
    return found


def _commit(revision: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # a machine without git
        return None
    return done.stdout.strip() or None
