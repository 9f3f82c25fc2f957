"""Shapes for maps: simplified, still fitting together, and wound as the maps need them."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest
import shapely
from analytics.shapes import features

# Two squares whose common border is jagged, an island with a lake, and a place that is nowhere.
BORDER = [(0.01 + 0.0002 * (step % 2), 0.001 * step) for step in range(11)]
WEST = shapely.MultiPolygon([shapely.Polygon([(0, 0), *BORDER, (0, 0.01)])])
EAST = shapely.MultiPolygon([shapely.Polygon([*reversed(BORDER), (0.02, 0), (0.02, 0.01)])])
ISLAND = shapely.MultiPolygon([shapely.box(0.1, 0.1, 0.2, 0.2) - shapely.box(0.13, 0.13, 0.16, 0.16)])
ZONES = [
    (4, "West", "Left", WEST.wkt),
    (7, "East", "Right", EAST.wkt),
    (9, "Island", "Right", ISLAND.wkt),
    (264, "NV", "Unknown", None),
]


@pytest.fixture(scope="module")
def collection() -> dict[str, Any]:
    found = features(ZONES)
    assert json.loads(json.dumps(found)) == found
    return found


def shape(feature: dict[str, Any]) -> Any:  # noqa: ANN401
    return shapely.from_geojson(json.dumps(feature["geometry"]))


def area(ring: list[list[float]]) -> float:
    """The shoelace formula: positive where the ring runs counter-clockwise."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring)) / 2


def test_zones_with_a_shape_are_features_named_by_id_and_properties(collection: dict[str, Any]) -> None:
    assert collection["type"] == "FeatureCollection"
    assert [(feature["id"], feature["properties"]) for feature in collection["features"]] == [
        (4, {"zone_id": 4, "zone": "West", "borough": "Left"}),
        (7, {"zone_id": 7, "zone": "East", "borough": "Right"}),
        (9, {"zone_id": 9, "zone": "Island", "borough": "Right"}),
    ]


def test_neighbours_keep_their_common_border_with_fewer_points(collection: dict[str, Any]) -> None:
    west, east, _ = (shape(feature) for feature in collection["features"])
    assert shapely.get_num_coordinates([west, east]).sum() < shapely.get_num_coordinates([WEST, EAST]).sum()
    assert west.intersection(east).area == 0
    assert west.intersection(east).length > 0
    assert shapely.coverage_is_valid([west, east])
    assert shapely.union_all([west, east]).area == pytest.approx(0.02 * 0.01, rel=0.05)


def test_exterior_rings_run_clockwise_and_lakes_the_other_way(collection: dict[str, Any]) -> None:
    for feature in collection["features"]:
        for exterior, *lakes in feature["geometry"]["coordinates"]:
            assert area(exterior) < 0
            assert all(area(lake) > 0 for lake in lakes)
    island = collection["features"][2]["geometry"]["coordinates"]
    assert [len(polygon) for polygon in island] == [2]


def test_coordinates_are_short(collection: dict[str, Any]) -> None:
    for feature in collection["features"]:
        for polygon in feature["geometry"]["coordinates"]:
            numbers = [number for ring in polygon for point in ring for number in point]
            assert all(math.isclose(number, round(number, 4), abs_tol=0) for number in numbers)
            assert max(len(repr(number)) for number in numbers) <= len("-73.1234")


def test_without_any_shape_there_is_an_empty_collection() -> None:
    assert features([(264, "NV", "Unknown", None)]) == {"type": "FeatureCollection", "features": []}
