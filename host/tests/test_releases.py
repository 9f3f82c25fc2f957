"""Releases on a machine: the link, and what is found of them."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from codeloc import releases
from codeloc.home import Home
from codeloc.ledger import Ledger
from codeloc.machine import LocalReleases
from codeloc.psql import literal
from codeloc.releases import Release, current, forget_current, made, make_current, make_release, short
from codeloc.sources import Source
from codeloc.workspace import Location

VERSIONS = ("1a2b3c4-00000001", "1a2b3c4-dirty-00000002")


def home_with(tmp_path: Path, versions: tuple[str, ...] = VERSIONS) -> Home:
    home = Home(tmp_path)
    for version in versions:
        Release(home, "analytics", version).folder.mkdir(parents=True)
    return home


def test_the_link_says_what_serves(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    assert current(home, "analytics") is None
    for version in VERSIONS:
        make_current(home, "analytics", version)
        assert current(home, "analytics") == version
        assert Release(home, "analytics", version).socket.name == short(version)
    forget_current(home, "analytics")
    assert current(home, "analytics") is None


def test_the_link_is_there_at_any_moment_while_it_is_turned(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    make_current(home, "analytics", VERSIONS[0])
    link = home.sockets("analytics") / "current"
    found: list[list[str | None]] = [[] for _ in range(4)]
    over = threading.Event()

    def look(into: list[str | None]) -> None:
        while not over.is_set():
            # What is missing ends the thread, with what it found so far.
            into += [current(home, "analytics"), f"?-{link.readlink()}"]

    readers = [threading.Thread(target=look, args=(into,)) for into in found]
    for reader in readers:
        reader.start()
    for turn in range(500):
        make_current(home, "analytics", VERSIONS[turn % 2])
    assert all(reader.is_alive() for reader in readers)
    over.set()
    for reader in readers:
        reader.join()
    assert {each for into in found for each in into} <= {*VERSIONS, *(f"?-{short(version)}" for version in VERSIONS)}
    assert all(len(into) > 10 for into in found)


def test_what_serves_is_found_while_others_are_removed(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    make_current(home, "analytics", VERSIONS[0])
    found: list[str | None] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            found.append(current(home, "analytics"))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1000):
        other = Release(home, "analytics", f"1a2b3c4-1{number:07}").folder
        other.mkdir()
        other.rename(other.with_name(f".{other.name}.gone"))
    assert reader.is_alive()
    over.set()
    reader.join()
    assert set(found) == {VERSIONS[0]}


def test_half_a_release_is_none(tmp_path: Path) -> None:
    home = home_with(tmp_path, (VERSIONS[0], f".{VERSIONS[1]}.4711"))
    assert made(home, "analytics") == [VERSIONS[0]]
    assert made(home, "nobody") == []


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one location, and its environment."""
    root = tmp_path / "repository"
    for name in ("shared/src/taxi_shared/a.py", "locations/analytics/src/analytics/b.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("here = 1\n")
    environment = root / "locations" / "analytics" / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text("#!/bin/sh\n")
    (environment / "bin" / "python").chmod(0o755)
    (environment / "made-from").write_text("0123456789abcdef")
    monkeypatch.setattr(releases, "ROOT", root)
    monkeypatch.setattr(releases, "is_current", lambda _package: True)
    return root


def source_of(root: Path, commit: str = "1a2b3c4") -> Source:
    files = {str(file.relative_to(root)): file.read_text() for file in root.rglob("*.py")}
    return Source(commit, False, files)


def test_a_release_is_a_copy_that_later_edits_do_not_reach(tmp_path: Path, repository: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    release = Release(home, "analytics", make_release(home, "analytics", source_of(repository), print))
    edited = repository / "locations/analytics/src/analytics/b.py"
    edited.write_text("here = 2\n")
    assert (release.code / "locations/analytics/src/analytics/b.py").read_text() == "here = 1\n"
    assert release.python.is_file()
    assert release.variables["PYTHONPATH"].split(":") == [
        str(release.code / "locations/analytics/src"),
        str(release.code / "shared/src"),
    ]
    # The home folder may be moved.
    moved = Home(home.path.rename(tmp_path / "moved"))
    assert Release(moved, "analytics", release.version).python.is_file()


def test_the_same_content_is_made_once(tmp_path: Path, repository: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    said: list[str] = []
    first = make_release(home, "analytics", source_of(repository), said.append)
    # Committed meanwhile: another name, the same files.
    assert make_release(home, "analytics", source_of(repository, "9f8e7d6"), said.append) == first
    assert made(home, "analytics") == [first]
    assert len(said) == 1


def test_two_may_make_the_same(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan` makes a release too, and does not wait for whoever deploys."""
    home = Home(tmp_path / "home")
    home.make()
    others = home.environments / f"analytics-{'0123456789abcdef'[:12]}"
    link = releases._link

    def while_another_makes_the_environment(source: str, target: str) -> None:
        link(source, target)
        shutil.copytree(repository / "locations/analytics/.venv", others, dirs_exist_ok=True)

    def while_another_makes_the_release(_line: str) -> None:
        release.folder.mkdir()
        (release.folder / "code").mkdir()

    monkeypatch.setattr(releases, "_link", while_another_makes_the_environment)
    release = Release(home, "analytics", source_of(repository).version)
    release.folder.parent.mkdir()
    assert make_release(home, "analytics", source_of(repository), while_another_makes_the_release) == release.version
    assert [folder.name for folder in release.folder.parent.iterdir()] == [release.version]
    assert [folder.name for folder in home.environments.iterdir()] == [others.name]


def test_a_release_is_whole_or_not_at_all(tmp_path: Path, repository: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    source = source_of(repository)
    incomplete = Source(source.commit, False, {**source.files, "shared/src/taxi_shared/gone.py": "?"})
    with pytest.raises(FileNotFoundError):
        make_release(home, "analytics", incomplete, print)
    assert not Release(home, "analytics", incomplete.version).is_there
    assert made(home, "analytics") == []
    # The next one is not disturbed by what is left of it.
    (repository / "shared/src/taxi_shared/gone.py").write_text("back = 1\n")
    version = make_release(home, "analytics", incomplete, print)
    assert made(home, "analytics") == [version]
    assert (Release(home, "analytics", version).code / "shared/src/taxi_shared/gone.py").is_file()


def test_what_is_not_kept_goes_and_what_serves_stays(tmp_path: Path, repository: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    versions = []
    for number in range(3):
        (repository / "shared/src/taxi_shared/a.py").write_text(f"here = {number}\n")
        # The last one has a lock of its own.
        (repository / "locations/analytics/.venv/made-from").write_text(f"{number // 2:012}")
        versions.append(make_release(home, "analytics", source_of(repository), print))
    serves, kept, unwanted = versions
    make_current(home, "analytics", serves)
    # A removal that was cut off.
    left = home.releases / "analytics" / f".{unwanted}.gone" / "code"
    left.mkdir(parents=True)
    assert {folder.name for folder in home.environments.iterdir()} == {f"analytics-{lock:012}" for lock in (0, 1)}

    platform = SimpleNamespace(home=home)
    assert LocalReleases(platform).prune(Location("analytics"), {kept}) == [unwanted]  # type: ignore[arg-type]
    assert set(made(home, "analytics")) == {serves, kept}
    assert {folder.name for folder in (home.releases / "analytics").iterdir()} == {serves, kept}
    assert [folder.name for folder in home.environments.iterdir()] == [f"analytics-{0:012}"]


class Rows:
    """A session that finds these."""

    def __init__(self, bodies: list[str]) -> None:
        self._bodies = bodies

    def rows(self, _query: str) -> list[dict[str, str]]:
        return [{"run_body": body} for body in self._bodies]


def test_versions_that_runs_need_are_read_from_the_runs() -> None:
    images = ("analytics:a-1", "taxi-analytics:b-2", "registry.example:5000/team/taxi-analytics:c-3", "ingestion:d-4")
    bodies = [f'{{"x": {{"container_image": "{image}", "y": 1}}}}' for image in images]
    found = Ledger(Rows(bodies)).active_versions("analytics")  # type: ignore[arg-type]
    assert found == {"a-1", "b-2", "c-3"}


def test_no_version_is_read_from_what_is_another_locations() -> None:
    images = ("taxi-analytics", "myanalytics:a-1", "analytics2:b-2", "analytics.x:c-3", "team/analytics/other:d-4")
    bodies = [f'{{"container_image": "{image}"}}' for image in images] + ['{"container_image": null}', "{}"]
    assert Ledger(Rows(bodies)).active_versions("analytics") == set()  # type: ignore[arg-type]


def test_a_text_stands_in_sql_as_it_is() -> None:
    assert literal(None) == "NULL"
    assert literal("it's") == "'it''s'"
    assert literal(r"C:\temp") == r"'C:\temp'"
