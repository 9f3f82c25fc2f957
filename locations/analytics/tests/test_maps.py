"""Manhattan's zones: each once, none of another borough, and the numbers those of the mart."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from analytics.defs.maps import MAP_FILE, STATS_FILE, manhattan_map, manhattan_stats
from analytics.defs.marts import ZONES, zone_hourly_demand
from analytics.served import ServedFiles
from dagster import ExecuteInProcessResult, materialize
from taxi_shared.warehouse import Warehouse

from conftest import Run, Trip, failure, insert, load_months, metadata

AT = datetime(2023, 1, 10, 8)
TRIPS = {
    "2023-01-01|green": [Trip(AT, zone) for zone in (4, 4, 4, 7, 103, 264)],
    "2023-01-01|yellow": [Trip(AT, zone, total_amount=0.1) for zone in (4, 7, 13)],
}


def square(west: float, south: float) -> str:
    east, north = west + 0.01, south + 0.01
    # Anticlockwise: d3 would take it for all the world but the square.
    return f"MULTIPOLYGON ((({west} {south}, {east} {south}, {east} {north}, {west} {north}, {west} {south})))"


ROWS = [
    [4, "Alphabet City", "Manhattan", "Yellow Zone", square(-73.98, 40.72)],
    [7, "Astoria", "Queens", "Boro Zone", square(-73.92, 40.76)],
    [13, "Battery Park City", "Manhattan", "Yellow Zone", square(-73.97, 40.72)],
    [103, "Governor's Island/Ellis Island/Liberty Island", "Manhattan", "Yellow Zone", square(-74.02, 40.69)],
    [104, "Governor's Island/Ellis Island/Liberty Island", "Manhattan", "Yellow Zone", square(-74.04, 40.69)],
    [264, "NV", "Unknown", "N/A", None],
]


@pytest.fixture
def demand(ingestion: Warehouse, run: Run) -> None:
    """What the maps are made of: zones with shapes, and the mart."""
    load_months(ingestion, TRIPS)
    with ingestion.write(ZONES) as connection:
        insert(connection, ZONES.table, [column.name for column in ZONES.columns], ROWS)
    assert run(zone_hourly_demand, "2023-01-01|green").success
    assert run(zone_hourly_demand, "2023-01-01|yellow").success


def make(warehouse: Warehouse, served: ServedFiles) -> ExecuteInProcessResult:
    resources = {"warehouse": warehouse, "served": served}
    return materialize([manhattan_stats, manhattan_map], resources=resources, raise_on_error=False)


@pytest.mark.usefixtures("demand")
def test_each_zone_of_manhattan_stands_once_with_its_pickups(warehouse: Warehouse, served: ServedFiles) -> None:
    result = make(warehouse, served)
    found = metadata(result, manhattan_stats.key)[None]
    collection = json.loads(served.path(STATS_FILE).read_text())
    properties = {feature["id"]: feature["properties"] for feature in collection["features"]}
    assert len(collection["features"]) == len(properties) == 4
    numbers = ("trips", "yellow_trips", "green_trips", "total_amount")
    assert {zone: tuple(values[name] for name in numbers) for zone, values in properties.items()} == {
        4: (4, 1, 3, 34.0),
        13: (1, 1, 0, 0.1),
        103: (1, 0, 1, 11.3),
        104: (0, 0, 0, 0),
    }
    assert {values["borough"] for values in properties.values()} == {"Manhattan"}
    assert (found["dagster/row_count"], found["trips"]) == (4, 6)
    assert found["link"] == "http://127.0.0.1:3001/reports/manhattan_stats.geojson"
    assert found["busiest"].records[0].data["zone"] == "Alphabet City"


@pytest.mark.usefixtures("demand")
def test_the_map_is_a_png_in_the_file_and_in_the_ui(warehouse: Warehouse, served: ServedFiles) -> None:
    found = metadata(make(warehouse, served), manhattan_map.key)[None]
    picture = served.path(MAP_FILE).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert "](data:image/png;base64,iVBORw0KGgo" in found["map"]
    assert (found["trips"], found["bytes"]) == (6, len(picture))


def test_the_map_without_its_data_says_what_to_do_first(warehouse: Warehouse, served: ServedFiles) -> None:
    result = materialize([manhattan_map], resources={"served": served}, raise_on_error=False)
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failed.user_failure_data is not None
    assert "materialize reports/manhattan_stats first" in str(failed.user_failure_data.description)


@pytest.mark.usefixtures("demand")
def test_a_run_that_fails_leaves_the_file_as_it_was(
    warehouse: Warehouse, served: ServedFiles, ingestion: Warehouse
) -> None:
    assert make(warehouse, served).success
    before = served.path(STATS_FILE).read_bytes()
    with ingestion.write(ZONES) as connection:
        connection.execute(f"UPDATE {ZONES.table} SET geometry_wkt = 'MULTIPOLYGON ((x' WHERE zone_id = 4")
    assert "ParseException" in failure(make(warehouse, served))
    assert served.path(STATS_FILE).read_bytes() == before
    assert [path.name for path in Path(served.folder).iterdir() if path.name.startswith(".")] == []
