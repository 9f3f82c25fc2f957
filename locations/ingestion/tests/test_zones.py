"""Every taxi zone once, with its name and a valid shape, whatever the files' quirks."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapely
from ingestion import sample
from ingestion.defs.files import taxi_zone_lookup_file, taxi_zones_file
from ingestion.defs.zones import ZONES, taxi_zones, valid_multipolygon
from taxi_shared.warehouse import Warehouse

from conftest import Run, Source, content, failure, metadata

LOOKUP = "/misc/taxi_zone_lookup.csv"
SHAPES = "/misc/taxi_zones.csv"
ASSETS = (taxi_zones_file, taxi_zone_lookup_file, taxi_zones)
COLUMNS = [column.name for column in ZONES.columns]


@pytest.fixture(params=["sample", pytest.param("real", marks=pytest.mark.tlc_data)])
def misc(request: pytest.FixtureRequest) -> Path:
    """Folder of the two zone files."""
    if request.param == "sample":
        return sample.SAMPLE_DATA
    tlc_data: Path = request.getfixturevalue("tlc_data")
    return tlc_data / "misc"


def serve(source: Source, misc: Path) -> None:
    for path in (LOOKUP, SHAPES):
        source.serve(path, (misc / Path(path).name).read_bytes())


def zones(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return content(warehouse, ZONES.table)[ZONES.table]


@pytest.fixture
def loaded(source: Source, run: Run, warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """The table as the sample's files make it."""
    serve(source, sample.SAMPLE_DATA)
    assert run(*ASSETS).success
    return zones(warehouse)


def read_csv(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 24)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_zone_is_there_once_with_its_name_and_shape(
    source: Source, run: Run, warehouse: Warehouse, misc: Path
) -> None:
    serve(source, misc)
    result = run(*ASSETS)
    assert result.success
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zones(warehouse)]
    assert [row["zone_id"] for row in rows] == list(range(1, 266))

    names = {
        int(row["LocationID"]): (row["Zone"], row["Borough"], row["service_zone"])
        for row in read_csv(misc / Path(LOOKUP).name)
    }
    assert {row["zone_id"]: (row["zone"], row["borough"], row["service_zone"]) for row in rows} == names

    published = {int(row["OBJECTID"]): row["the_geom"] for row in read_csv(misc / Path(SHAPES).name)}
    shapes = {row["zone_id"]: shapely.from_wkt(row["geometry_wkt"]) for row in rows if row["geometry_wkt"]}
    assert sorted(shapes) == list(range(1, 264))
    assert {shape.geom_type for shape in shapes.values()} == {"MultiPolygon"}
    assert all(shape.is_valid and shape.area > 0 for shape in shapes.values())
    for zone, shape in shapes.items():
        as_published = shapely.make_valid(shapely.from_wkt(published[zone]))
        assert shape.symmetric_difference(as_published).area < 1e-12
    assert len({shapes[zone].wkt for zone in (56, 57, 103, 104, 105)}) == 5

    (found,) = metadata(result, "raw/taxi_zones").values()
    assert (found["dagster/row_count"], found["zones_with_shape"]) == (265, 263)
    assert [row.data["zone"] for row in found["preview"].records] == [row["zone"] for row in rows[:10]]
    assert [row.data for row in found["resolved_duplicates"].records] == [
        {"location_id": 56, "times": 2, "loaded_as": "56, 57"},
        {"location_id": 103, "times": 3, "loaded_as": "103, 104, 105"},
    ]


def test_the_same_files_again_change_nothing(run: Run, warehouse: Warehouse, loaded: list[tuple[Any, ...]]) -> None:
    assert run(*ASSETS).success
    assert zones(warehouse) == loaded


def test_names_that_look_like_nothing_are_names(loaded: list[tuple[Any, ...]]) -> None:
    assert loaded[-2:] == [(264, "NV", "Unknown", "N/A", None), (265, "NA", "Unknown", "N/A", None)]


def a_zone_less(lookup: bytes, shapes: bytes) -> tuple[bytes, bytes]:
    return b"".join(line for line in lookup.splitlines(True) if not line.startswith(b"57,")), shapes


def a_zone_twice(lookup: bytes, shapes: bytes) -> tuple[bytes, bytes]:
    return lookup + lookup.splitlines(True)[57], shapes


def a_zone_in_place_of_another(lookup: bytes, shapes: bytes) -> tuple[bytes, bytes]:
    return lookup.replace(b"\r\n57,", b"\r\n56,"), shapes


def a_shape_twice(lookup: bytes, shapes: bytes) -> tuple[bytes, bytes]:
    return lookup, shapes + shapes.splitlines(True)[57]


@pytest.mark.parametrize(
    ("spoil", "fault", "broken"),
    [
        (a_zone_less, "rows: observed 264 rows, expected 265 rows", {"completeness"}),
        (a_zone_twice, 'observed 1 rows, expected 0 rows, for example {"zone_id": 57}', {"uniqueness", "completeness"}),
        (a_zone_in_place_of_another, 'for example {"zone_id": 56}', {"uniqueness"}),
        (a_shape_twice, 'for example {"zone_id": 57}', {"uniqueness", "completeness"}),
    ],
)
def test_files_that_do_not_give_each_zone_once_leave_the_table_as_it_was(
    source: Source,
    run: Run,
    warehouse: Warehouse,
    loaded: list[tuple[Any, ...]],
    spoil: Callable[[bytes, bytes], tuple[bytes, bytes]],
    fault: str,
    broken: set[str],
) -> None:
    right = [(sample.SAMPLE_DATA / Path(path).name).read_bytes() for path in (LOOKUP, SHAPES)]
    for path, body in zip((LOOKUP, SHAPES), spoil(*right), strict=True):
        source.serve(path, body)
    result = run(*ASSETS)
    assert fault in failure(result)
    assert "The table stays as it was. Look at " in failure(result)
    assert {check.check_name for check in result.get_asset_check_evaluations() if not check.passed} == broken
    assert zones(warehouse) == loaded


def test_a_shape_that_cannot_be_read_leaves_the_table_as_it_was(
    source: Source, run: Run, warehouse: Warehouse, loaded: list[tuple[Any, ...]]
) -> None:
    shapes = (sample.SAMPLE_DATA / Path(SHAPES).name).read_bytes()
    source.serve(SHAPES, shapes.replace(b"MULTIPOLYGON (((", b"MULTIPOLYGON ((x", 1))
    assert not run(*ASSETS).success
    assert zones(warehouse) == loaded


@pytest.mark.tlc_data
def test_another_table_in_place_of_the_shapes_leaves_the_table_as_it_was(
    source: Source, run: Run, warehouse: Warehouse, loaded: list[tuple[Any, ...]], tlc_data: Path
) -> None:
    source.serve(SHAPES, (tlc_data.parent / "malformed" / "not_the_zones.csv").read_bytes())
    assert "not the expected CSV: column OBJECTID is missing" in failure(run(*ASSETS))
    assert zones(warehouse) == loaded


SQUARE = "MULTIPOLYGON (((0 0, 0 4, 4 4, 4 0, 0 0)))"


def test_a_valid_shape_is_left_as_it_is() -> None:
    assert valid_multipolygon(SQUARE) == SQUARE


@pytest.mark.parametrize(
    ("wkt", "area", "parts"),
    [
        ("MULTIPOLYGON (((0 0, 2 2, 2 0, 0 2, 0 0)))", 2, 2),
        ("POLYGON ((0 0, 2 2, 2 0, 0 2, 0 0))", 2, 2),
        ("POLYGON ((0 0, 0 4, 4 4, 4 0, 0 0))", 16, 1),
        ("POLYGON ((0 0, 4 4, 4 0, 0 4, 0 0, -1 -1, 0 0))", 8, 2),
        ("MULTIPOLYGON (((0 0, 0 4, 4 4, 4 0, 0 0)), ((4 0, 4 4, 8 4, 8 0, 4 0)))", 32, 1),
    ],
    ids=["bow-tie", "single bow-tie", "single polygon", "bow-tie with a loose line", "parts that touch"],
)
def test_an_invalid_shape_becomes_a_valid_multipolygon(wkt: str, area: float, parts: int) -> None:
    shape = shapely.from_wkt(valid_multipolygon(wkt))
    assert (shape.geom_type, shape.is_valid) == ("MultiPolygon", True)
    assert (shape.area, len(shape.geoms)) == (area, parts)


def test_an_invalid_shape_is_mended_on_the_way_into_the_table(source: Source, run: Run, warehouse: Warehouse) -> None:
    serve(source, sample.SAMPLE_DATA)
    rows = read_csv(sample.SAMPLE_DATA / Path(SHAPES).name)
    bow_tie = "MULTIPOLYGON (((0 0, 2 2, 2 0, 0 2, 0 0)))"
    shapes = (sample.SAMPLE_DATA / Path(SHAPES).name).read_text(encoding="utf-8")
    source.serve(SHAPES, shapes.replace(rows[0]["the_geom"], bow_tie, 1).encode())
    assert run(*ASSETS).success
    (row,) = [row for row in zones(warehouse) if row[0] == int(rows[0]["OBJECTID"])]
    assert shapely.from_wkt(row[-1]).equals(shapely.make_valid(shapely.from_wkt(bow_tie)))
