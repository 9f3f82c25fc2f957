"""A copy of the repository on a machine with python3 and nothing else: started from nothing, edited, reloaded."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT, Clone, copy_repository, free_port

MAKING_SAMPLE = "making the sample months"


class BareClone(Clone):
    """On a machine with nothing but python3."""

    def codeloc(self, *arguments: str, timeout: float = 420) -> subprocess.CompletedProcess[str]:
        # And what every system has, so that uv is not found and has to be got.
        return self.run_codeloc(*arguments, timeout=timeout, PATH=f"{self.root.parent / 'bin'}:/usr/bin:/bin")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareClone]:
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    repository = folder / "repository"
    copy_repository(repository)
    found = BareClone(repository / "var", free_port())
    yield found
    stopped = found.codeloc("down")
    assert stopped.returncode == 0, stopped.stderr
    assert found.processes() == []


@pytest.fixture(scope="module")
def running(clone: BareClone) -> BareClone:
    assert shutil.which("uv", path=f"{clone.root.parent / 'bin'}:/usr/bin:/bin") is None
    started = clone.codeloc("up", "--empty", "--port", str(clone.port))
    assert started.returncode == 0, started.stdout + started.stderr
    assert "getting uv" in started.stderr
    for name in ("host", "ingestion", "analytics"):
        assert f"making the environment of {name} from its lock" in started.stdout + started.stderr
    assert MAKING_SAMPLE in started.stdout + started.stderr
    return clone


def test_it_starts_from_nothing_and_makes_nothing_twice(running: BareClone) -> None:
    assert running.loaded_locations() == {"ingestion": True, "analytics": True}
    again = running.codeloc("up", "--empty")
    assert again.returncode == 0
    assert "making the environment" not in again.stdout + again.stderr


def test_everything_it_writes_in_the_repository_lies_under_var_or_in_the_environments(running: BareClone) -> None:
    committed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    allowed = {"var", ".venv", "__pycache__"}
    written = {
        str(path.relative_to(running.root))
        for path in running.root.rglob("*")
        if path.is_file() and not allowed & set(path.relative_to(running.root).parts)
    }
    assert written <= set(committed.stdout.splitlines())


def test_what_it_writes_is_closed_to_other_users(running: BareClone) -> None:
    # Root's Postgres runs as another user, who must pass through.
    assert running.home.stat().st_mode & 0o777 in (0o700, 0o701, 0o711)
    for file in (running.home / "secrets.json", *(running.home / "tmp").glob("*.env")):
        assert file.stat().st_mode & 0o777 == 0o600


def test_edited_code_is_served_after_a_reload_and_the_other_location_notices_nothing(running: BareClone) -> None:
    other = running.pid("ingestion")
    extra = running.root / "locations" / "analytics" / "src" / "analytics" / "defs" / "extra.py"
    extra.write_text(
        "from dagster import asset\n\n\n@asset(key_prefix='marts')\ndef extra() -> None:\n    '''Made by a test.'''\n"
    )
    assert "marts/extra" not in running.asset_keys()
    reloaded = running.codeloc("reload", "analytics")
    assert reloaded.returncode == 0, reloaded.stderr
    assert "marts/extra" in running.asset_keys()

    extra.unlink()
    assert running.codeloc("reload", "analytics").returncode == 0
    assert "marts/extra" not in running.asset_keys()
    assert running.pid("ingestion") == other


@pytest.mark.parametrize("code", ["def broken(:\n", "import a_package_that_is_missing\n", "raise RuntimeError('no')\n"])
def test_code_that_does_not_load_changes_nothing(running: BareClone, code: str) -> None:
    before = running.asset_keys()
    broken = running.root / "locations" / "analytics" / "src" / "analytics" / "defs" / "broken.py"
    broken.write_text(code)
    try:
        refused = running.codeloc("reload", "analytics")
        assert refused.returncode == 1
        assert "does not load" in refused.stderr
        assert "analytics goes on with" in refused.stderr
        assert "broken.py" in refused.stderr
        assert running.asset_keys() == before
        assert running.loaded_locations() == {"ingestion": True, "analytics": True}
    finally:
        broken.unlink()


def test_a_lock_that_does_not_fit_is_refused_with_the_way_out(running: BareClone) -> None:
    project = running.root / "locations" / "analytics" / "pyproject.toml"
    before = project.read_text()
    project.write_text(before.replace('"pandas>=3,<4"', '"pandas>=3,<4", "pytz"'))
    try:
        refused = running.codeloc("reload", "analytics")
        assert refused.returncode == 1
        assert "uv lock" in refused.stderr
        assert str(project.parent) in refused.stderr
    finally:
        project.write_text(before)
    assert running.loaded_locations()["analytics"]


def test_a_location_that_does_not_load_at_up_goes_on_with_the_code_before(running: BareClone) -> None:
    before = running.asset_keys()
    broken = running.root / "locations" / "analytics" / "src" / "analytics" / "defs" / "broken.py"
    broken.write_text("import a_package_that_is_missing\n")
    try:
        assert running.codeloc("down").returncode == 0
        started = running.codeloc("up")
        assert started.returncode == 1
        assert "location 'analytics' did not load" in started.stderr
        assert "No module named 'a_package_that_is_missing'" in started.stderr
        assert "analytics goes on with the code it had before" in started.stderr
        assert running.loaded_locations() == {"ingestion": True, "analytics": True}
        assert running.asset_keys() == before
        assert running.finished(running.launch("zone_update_job")) == "SUCCESS"
        # By the first start.
        assert MAKING_SAMPLE not in started.stdout + started.stderr

        # Without any: the others work without it. And a file of the sample that is not as it was is made again.
        assert running.codeloc("down").returncode == 0
        shutil.rmtree(running.home / "releases" / "analytics")
        month = next((running.home / "served" / "sample").rglob("*.parquet"))
        whole = month.read_bytes()
        month.write_bytes(whole[: len(whole) // 2])
        started = running.codeloc("up")
        assert started.returncode == 1
        assert MAKING_SAMPLE in started.stdout + started.stderr
        assert month.read_bytes() == whole
        assert "goes on with" not in started.stderr
        assert running.loaded_locations() == {"ingestion": True, "analytics": False}
        assert running.finished(running.launch("zone_update_job")) == "SUCCESS"
    finally:
        broken.unlink()
    assert running.codeloc("deploy", "analytics", "--watch", "0").returncode == 0
    assert running.loaded_locations() == {"ingestion": True, "analytics": True}
