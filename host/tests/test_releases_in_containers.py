"""What is read from the engine and written for Compose; on a real engine it is tested in tests/."""

import stat
from pathlib import Path
from typing import Any

import pytest
from codeloc import containers
from codeloc.containers import ComposeReleases
from codeloc.errors import CodelocError


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "ANALYTICS_TAG=2\n"),
        ("A=1", "A=1\nANALYTICS_TAG=2\n"),
        ("A=1\nANALYTICS_TAG=1\nB=2\n", "A=1\nANALYTICS_TAG=2\nB=2\n"),
        ("export ANALYTICS_TAG = '1'\n", "ANALYTICS_TAG=2\n"),
        ("#ANALYTICS_TAG=dev\nMY_ANALYTICS_TAG=1\n", "#ANALYTICS_TAG=dev\nMY_ANALYTICS_TAG=1\nANALYTICS_TAG=2\n"),
    ],
)
def test_a_tag_is_remembered_and_all_else_stays(tmp_path: Path, before: str, after: str) -> None:
    file = tmp_path / ".env"
    file.write_text(before)
    file.chmod(0o640)
    containers._set(file, "ANALYTICS_TAG", "2")
    assert file.read_text() == after
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == [".env"]


def test_settings_that_were_not_there_are_closed_to_others(tmp_path: Path) -> None:
    containers._set(tmp_path / ".env", "ANALYTICS_TAG", "2")
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_the_file_that_compose_reads_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(containers, "ROOT", tmp_path)
    monkeypatch.delenv("COMPOSE_ENV_FILES", raising=False)
    assert containers._settings_file() == tmp_path / ".env"
    monkeypatch.setenv("COMPOSE_ENV_FILES", f"first.env,{tmp_path}/second.env")
    assert containers._settings_file() == tmp_path / "second.env"


def test_a_tag_in_the_environment_is_refused_because_it_would_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/docker")
    monkeypatch.setenv("ANALYTICS_TAG", "1")
    with pytest.raises(CodelocError, match="unset ANALYTICS_TAG"):
        ComposeReleases()._require_unset("analytics")


@pytest.mark.parametrize(
    ("changed", "version"),
    [
        ({}, "1a2b3c4-5d6e7f80"),
        ({"loadStatus": "LOADING"}, None),
        ({"locationOrLoadError": {"__typename": "PythonError"}}, None),
        ({"locationOrLoadError": None}, None),
        ({"displayMetadata": []}, None),
    ],
)
def test_what_a_webserver_shows_of_a_location_is_its_version_or_an_error(
    changed: dict[str, Any], version: str | None
) -> None:
    shown = {
        "loadStatus": "LOADED",
        "locationOrLoadError": {"__typename": "RepositoryLocation"},
        "displayMetadata": [{"key": "image", "value": "registry:5000/taxi-analytics:1a2b3c4-5d6e7f80"}],
    }
    assert containers._loaded(shown | changed) == version


def test_a_container_is_a_server_of_its_images_version() -> None:
    container: dict[str, Any] = {
        "Id": "0123456789abcdef",
        "Created": "2026-11-26T17:00:00Z",
        "RestartCount": 0,
        "State": {"Status": "running", "Health": {"Status": "healthy"}},
        "Config": {"Image": "taxi-analytics:1a2b3c4-5d6e7f80", "Hostname": "0123456789ab"},
    }
    server = containers._server(container, "1a2b3c4-5d6e7f80.0123456789ab")
    assert (server.version, server.container, server.state) == ("1a2b3c4-5d6e7f80", "0123456789ab", "running (healthy)")
    assert (server.current, server.alive, server.healthy, server.running) == (True, True, True, True)
    restarted = containers._server(container | {"RestartCount": 1}, "1a2b3c4-5d6e7f80.other")
    assert (restarted.current, restarted.alive) == (False, False)
