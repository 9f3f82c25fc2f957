import hashlib
import http.server
import os
import platform
import shutil
import threading
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from codeloc import environments
from codeloc.environments import EnvironmentFailedError, find_uv, is_current, make_environment

SAID: list[str] = []


def package(folder: Path, dependencies: str = "[]") -> Path:
    """A package without dependencies, locked."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "nothing"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = {dependencies}\n'
    )
    (folder / "uv.lock").write_text(
        'version = 1\nrevision = 3\nrequires-python = ">=3.11"\n\n'
        '[[package]]\nname = "nothing"\nversion = "0"\nsource = { virtual = "." }\n'
    )
    return folder


def test_an_environment_is_made_once_and_again_when_its_lock_changed(tmp_path: Path) -> None:
    said: list[str] = []
    made = package(tmp_path / "nothing")
    assert not is_current(made)
    make_environment(made, tmp_path / "tools", said.append)
    assert is_current(made)
    assert (made / ".venv" / "bin" / "python").exists()
    make_environment(made, tmp_path / "tools", said.append)
    assert said[-1:] == ["making the environment of nothing from its lock"]
    assert len([line for line in said if line.startswith("making")]) == 1

    with (made / "uv.lock").open("a") as lock:
        lock.write("\n")
    assert not is_current(made)


def test_a_lock_that_does_not_fit_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    wrong = package(tmp_path / "nothing", dependencies='["rich>=14"]')
    with pytest.raises(EnvironmentFailedError, match="run `uv lock` in that folder"):
        make_environment(wrong, tmp_path / "tools", SAID.append)
    assert not is_current(wrong)


def test_an_environment_does_not_count_as_current_after_a_move(tmp_path: Path) -> None:
    made = package(tmp_path / "nothing")
    make_environment(made, tmp_path / "tools", SAID.append)
    moved = tmp_path / "moved"
    shutil.move(made, moved)
    assert not is_current(moved)


def test_the_lock_names_a_uv_for_every_machine_this_runs_on() -> None:
    lock = (Path(environments.__file__).parents[2] / "uv.lock").read_text()
    for tag in environments._WHEEL_TAGS.values():
        assert f"-py3-none-{tag}" in lock


# -- a machine without uv -------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a wheel of a uv that only says its name; no uv is on PATH and the lock names that wheel."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("uv-9.9.9.data/scripts/uv", "#!/bin/sh\necho uv 9.9.9\n")
    body = content.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    tag = environments._WHEEL_TAGS[platform.system(), platform.machine()]
    url = f"http://127.0.0.1:{server.server_address[1]}/uv-9.9.9-py3-none-{tag}.whl"
    (tmp_path / "host" / "src" / "codeloc").mkdir(parents=True)
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "host" / "src" / "codeloc" / "environments.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "host" / "uv.lock").write_text(
        f'[[package]]\nname = "uv"\nversion = "9.9.9"\n'
        f'wheels = [{{ url = "{url}", hash = "sha256:{hashlib.sha256(body).hexdigest()}" }}]\n'
    )
    yield url
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("registry")
def test_uv_is_downloaded_verified_and_found_the_next_time(tmp_path: Path) -> None:
    said: list[str] = []
    uv = find_uv(tmp_path / "tools", said.append)
    assert os.popen(str(uv)).read() == "uv 9.9.9\n"  # noqa: S605
    assert find_uv(tmp_path / "tools", said.append) == uv
    assert said == ["getting uv 9.9.9"]


@pytest.mark.usefixtures("registry")
def test_a_uv_that_is_not_the_locks_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "host" / "uv.lock"
    lock.write_text(lock.read_text().replace("sha256:", "sha256:0"))
    with pytest.raises(EnvironmentFailedError, match="not the one the lock names"):
        find_uv(tmp_path / "tools", SAID.append)
    assert not list((tmp_path / "tools").rglob("uv"))


def test_a_registry_that_cannot_be_reached_says_what_to_do(registry: str, tmp_path: Path) -> None:
    lock = tmp_path / "host" / "uv.lock"
    # Port 9 is the discard service's; nothing listens there.
    lock.write_text(lock.read_text().replace(registry.rsplit("/", 1)[0], "http://127.0.0.1:9"))
    with pytest.raises(EnvironmentFailedError, match="install uv yourself"):
        find_uv(tmp_path / "tools", SAID.append)


def test_a_machine_the_lock_has_no_uv_for_is_named(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(EnvironmentFailedError, match="on riscv64"):
        find_uv(tmp_path / "tools", SAID.append)
