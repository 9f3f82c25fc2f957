"""What keeps the teams apart: imports, environments and locks; and the one list that everything follows."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from conftest import LOCATIONS, ROOT, environment

HOST_UV = ROOT / "host" / ".venv" / "bin" / "uv"


def imported_packages(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.split(".")[0])
    return names


def installed(folder: Path) -> set[str]:
    command = [str(HOST_UV), "pip", "list", "--quiet", "--format", "json", "--python", str(folder / ".venv")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    return {found["name"] for found in yaml.safe_load(listed)}


def test_the_lists_of_locations_agree() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    named = [entry["grpc_server"]["location_name"] for entry in workspace]
    dg = tomllib.loads((ROOT / "dg.toml").read_text())["workspace"]["projects"]
    assert [project["path"] for project in dg] == [f"locations/{name}" for name in named]
    assert sorted(named) == sorted(path.parent.name for path in (ROOT / "locations").glob("*/pyproject.toml"))


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_location_imports_neither_another_one_nor_the_host(location: str) -> None:
    others = {*LOCATIONS, "codeloc"} - {location}
    for folder in ("src", "tests"):
        assert imported_packages(ROOT / "locations" / location / folder).isdisjoint(others)


def test_shared_and_host_import_no_location() -> None:
    for folder in ("shared", "host"):
        assert imported_packages(ROOT / folder / "src").isdisjoint(LOCATIONS)
    assert "taxi_shared" not in imported_packages(ROOT / "host" / "src")


def test_the_hosts_environment_has_nothing_of_the_locations() -> None:
    assert installed(ROOT / "host").isdisjoint({*LOCATIONS, "taxi-shared", "duckdb", "pandas", "pyarrow", "shapely"})


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_locations_environment_has_nothing_of_the_others(location: str) -> None:
    assert installed(ROOT / "locations" / location).isdisjoint({*LOCATIONS, "codeloc"} - {location})


def test_analytics_can_be_locked_to_another_pandas(tmp_path: Path) -> None:
    for folder in ("shared", "locations/analytics", "locations/ingestion"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    analytics, ingestion = tmp_path / "locations" / "analytics", tmp_path / "locations" / "ingestion"
    project = analytics / "pyproject.toml"
    changed = re.sub(r'"pandas[^"]*"', '"pandas>=2.3,<3"', project.read_text(), count=1)
    project.write_text(changed)
    subprocess.run(
        [str(HOST_UV), "lock", "--project", str(analytics)], check=True, env=environment(), capture_output=True
    )
    locked = {package["name"]: package for package in tomllib.loads((analytics / "uv.lock").read_text())["package"]}
    assert locked["pandas"]["version"].startswith("2.")
    assert (ingestion / "uv.lock").read_bytes() == (ROOT / "locations" / "ingestion" / "uv.lock").read_bytes()
    command = [str(HOST_UV), "lock", "--check", "--project", str(ingestion)]
    subprocess.run(command, check=True, env=environment(), capture_output=True)


@pytest.mark.parametrize("package", ["host", "shared", ".", *(f"locations/{name}" for name in LOCATIONS)])
def test_every_lock_fits_its_project(package: str) -> None:
    checked = subprocess.run(
        [HOST_UV, "lock", "--check", "--project", str(ROOT / package)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("location", LOCATIONS)
def test_dg_loads_and_lists_the_location(location: str) -> None:
    folder = ROOT / "locations" / location
    for command in (["check", "defs"], ["list", "defs"]):
        done = subprocess.run(
            [str(folder / ".venv" / "bin" / "dg"), *command],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_local_instance_differs_in_the_run_launcher_only(tmp_path: Path) -> None:
    rendered = subprocess.run(
        [
            str(ROOT / "host" / ".venv" / "bin" / "python"),
            "-c",
            "import sys; from pathlib import Path; from codeloc.home import Home; from codeloc.instance import"
            " render_dagster_yaml; home = Home(Path(sys.argv[1])); home.make(); render_dagster_yaml(home)",
            str(tmp_path),
        ],
        check=False,
    )
    assert rendered.returncode == 0
    local = yaml.safe_load((tmp_path / "dagster" / "dagster.yaml").read_text())
    deployed = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    assert local.pop("run_launcher")
    deployed.pop("run_launcher", None)
    assert local == deployed


def test_every_setting_is_in_env_example() -> None:
    documented = set(re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = {
        name
        for file in [*(ROOT / "host" / "src").rglob("*.py"), *(ROOT / "shared" / "src").rglob("*.py")]
        for name in re.findall(r'EnvVar(?:\.int)?\("([A-Z0-9_]+)"\)', file.read_text())
    }
    settings = re.findall(
        r"^    ([a-z][a-z0-9_]+): ", (ROOT / "host" / "src" / "codeloc" / "settings.py").read_text(), re.MULTILINE
    )
    assert documented >= {name.upper() for name in settings}
    # WAREHOUSE_CATALOG and WAREHOUSE_TEMP are made for each process, never set by hand.
    assert documented >= used - {"WAREHOUSE_CATALOG", "WAREHOUSE_TEMP"}


def test_backups_and_the_maintenance_of_lakes_take_the_same_lock() -> None:
    # Neither side can import the other.
    files = (ROOT / "host" / "src" / "codeloc" / "dumps.py", ROOT / "shared" / "src" / "taxi_shared" / "warehouse.py")
    held, taken = (re.findall(r'^BACKUP_LOCK = "(.+)"$', file.read_text(), re.MULTILINE) for file in files)
    assert len(held) == 1
    assert held == taken
