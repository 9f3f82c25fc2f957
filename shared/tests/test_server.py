"""Who of a location's servers takes the link that webserver and daemon follow, and who leaves it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from taxi_shared.server import Watch, answers, name, take


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """Somebody listens there inside; the file stays, as after a kill."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A socket's path has little room.
    return tmp_path_factory.mktemp("s")


def link(folder: Path) -> str:
    return str((folder / "current").readlink())


def test_a_server_is_named_by_its_version_and_its_container() -> None:
    assert name("registry.example.org:5000/taxi-analytics:1a2b3c4-5d6e7f80", "0123") == "1a2b3c4-5d6e7f80.0123"


def test_the_first_that_answers_is_the_one(folder: Path) -> None:
    watch = Watch(folder, "1.a")
    assert not watch.look(0)
    assert not (folder / "current").is_symlink()
    with listening(folder / "1.a"):
        assert watch.look(1)
        assert link(folder) == "1.a"
        assert not watch.look(2)


def test_one_that_serves_is_left_alone(folder: Path) -> None:
    with listening(folder / "1.a"), listening(folder / "2.b"):
        take(folder, "1.a")
        assert not Watch(folder, "2.b").look(0)
        assert link(folder) == "1.a"


def test_one_that_is_gone_is_replaced_whatever_it_left(folder: Path) -> None:
    with listening(folder / "1.a"):
        take(folder, "1.a")
    assert (folder / "1.a").exists()
    assert not answers(folder / "current")
    with listening(folder / "2.b"):
        assert Watch(folder, "2.b").look(0)
        assert link(folder) == "2.b"
        assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []


def test_one_in_reserve_waits_for_the_one_that_serves_to_come_back(folder: Path) -> None:
    take(folder, "1.a")
    (folder / "reserve.2.b").touch()
    watch = Watch(folder, "2.b")
    with listening(folder / "2.b"):
        assert not watch.look(0)
        with listening(folder / "1.a"):
            assert not watch.look(59)
        # From here on anew.
        assert not watch.look(60)
        assert not watch.look(119)
        assert watch.look(120)
        assert link(folder) == "2.b"
