"""What every location must keep, whichever team owns it: a new one in workspace.yaml is held to it too."""

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from conftest import LOCATIONS, ROOT

if TYPE_CHECKING:
    from pathlib import Path

# Run in the location's own environment, with no way out and no settings.
LOAD_CUT_OFF = """
import importlib, json, socket, sys, time

def refuse(*_args, **_kwargs):
    raise AssertionError("reached for the network while loading")

socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = socket.getaddrinfo = refuse

began = time.process_time()
import dagster

imported = time.process_time()
definitions = importlib.import_module(f"{sys.argv[1]}.definitions").defs()
definitions.get_repository_def()
heavy = {"altair", "geopandas", "matplotlib", "numpy", "pandas", "polars", "psycopg2", "pyarrow", "shapely"}
found = {"heavy": sorted(heavy & set(sys.modules))}
found["cost"] = (time.process_time() - imported) / (imported - began)

from dagster import Definitions
from taxi_shared.conventions import violations

Definitions.validate_loadable(definitions)
found["violations"] = violations(definitions, sys.argv[1])
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=LOCATIONS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What loading one location's definitions showed."""
    python = ROOT / "locations" / request.param / ".venv" / "bin" / "python"
    folder: Path = tmp_path_factory.mktemp(request.param)
    loading = subprocess.run(
        [str(python), "-c", LOAD_CUT_OFF, request.param],
        env={},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loading.stderr == ""
    assert loading.returncode == 0
    found: dict[str, Any] = json.loads(loading.stdout)
    return found | {"written": [path.name for path in folder.iterdir()]}


def test_definitions_load_without_network_and_settings_and_write_nothing(loaded: dict[str, Any]) -> None:
    assert loaded["written"] == []


def test_definitions_load_without_heavy_libraries(loaded: dict[str, Any]) -> None:
    assert loaded["heavy"] == []


def test_definitions_keep_their_budget_of_time_to_load(loaded: dict[str, Any]) -> None:
    # In imports of Dagster itself, time of the processor: a busy machine changes both alike.
    assert loaded["cost"] < 1.5


def test_every_asset_job_schedule_and_sensor_keeps_the_conventions(loaded: dict[str, Any]) -> None:
    assert loaded["violations"] == []
