"""The taxi zones in the warehouse: every zone once, named and with a valid shape."""

from collections.abc import Iterator
from importlib.resources import files

import duckdb
from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    Failure,
    MaterializeResult,
    TableRecord,
    TableSchema,
    asset,
)
from dagster import MetadataValue as Metadata
from taxi_shared.contracts import contract
from taxi_shared.previews import PREVIEW_ROWS, preview
from taxi_shared.quality import RefusedError, check_results, check_specs, keep, measure, require, results_contract
from taxi_shared.warehouse import Warehouse

from ingestion.defs.common import OWNERS
from ingestion.defs.files import taxi_zone_lookup_file, taxi_zones_file
from ingestion.landing import LandingStore

ZONES = contract("raw.taxi_zones")
RESULTS = results_contract()


@asset(
    key=ZONES.asset_key,
    deps=[taxi_zones_file, taxi_zone_lookup_file],
    group_name="raw",
    owners=OWNERS,
    kinds={"duckdb", "ducklake"},
    metadata=ZONES.asset_metadata,
    freshness_policy=ZONES.freshness,
    check_specs=check_specs(ZONES),
)
def taxi_zones(
    context: AssetExecutionContext, landing: LandingStore, warehouse: Warehouse
) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
    """All 265 TLC taxi zones, one row each, with their shapes.

    The shapes' file gives one LocationID to several zones (56 to Corona's two, 103 to the three
    islands) and so leaves others without a shape. Its OBJECTID numbers the zones as TLC's own lookup
    does, so shapes are joined by that; nothing is dropped and nothing fans out.
    """
    source = landing.record("taxi_zone_lookup.csv")
    if source is None or landing.record("taxi_zones.csv") is None:
        raise Failure(
            f"the zones' files are not in {landing.folder}: materialize landing/taxi_zone_lookup_file and"
            " landing/taxi_zones_file first.",
            allow_retries=False,
        )
    files_at_hand = f"{landing.path('taxi_zone_lookup.csv')} and {landing.path('taxi_zones.csv')}"
    try:
        with warehouse.write(ZONES, appends=[RESULTS]) as connection:
            for name in ("taxi_zone_lookup", "taxi_zones"):
                connection.execute(f"SET VARIABLE {name} = $1", [str(landing.path(f"{name}.csv"))])
            connection.create_function("valid_multipolygon", valid_multipolygon, ["VARCHAR"], "VARCHAR")
            connection.execute(f"DELETE FROM {ZONES.table}")
            load = files(__package__).joinpath("load_zones.sql").read_text(encoding="utf-8")
            try:
                connection.execute(load)
            except duckdb.Error as error:
                raise Failure(
                    f"the zones' files cannot be read as tables: {' '.join(str(error).split())[:500]} The table stays"
                    f" as it was. Look at {files_at_hand}.",
                    allow_retries=False,
                ) from error
            findings = measure(connection, ZONES)
            require(findings)
            keep(connection, "", {ZONES: findings}, context.run.run_id)
            duplicates = connection.execute(
                """SELECT LocationID, count(*), string_agg(OBJECTID, ', ' ORDER BY OBJECTID::INTEGER)
                FROM read_csv(getvariable('taxi_zones'), all_varchar = true)
                GROUP BY LocationID HAVING count(*) > 1 ORDER BY LocationID::INTEGER"""
            ).fetchall()
            counted = connection.execute(f"SELECT count(*), count(geometry_wkt) FROM {ZONES.table}").fetchone()
            rows, with_shape = counted or (0, 0)
            first_rows = preview(
                connection.execute(
                    f"SELECT * EXCLUDE (geometry_wkt) FROM {ZONES.table} ORDER BY zone_id LIMIT {PREVIEW_ROWS}"
                )
            )
    except RefusedError as error:
        with warehouse.write(ZONES, appends=[RESULTS], message="notes why the zones were refused") as connection:
            keep(connection, "", {ZONES: error.findings}, context.run.run_id)
        yield from check_results(ZONES, {"": error.findings})
        raise Failure(
            f"{error} The table stays as it was. Look at {files_at_hand}.",
            allow_retries=False,
        ) from error
    yield MaterializeResult(
        metadata={
            "dagster/row_count": rows,
            "source": Metadata.url(source.url),
            "preview": first_rows,
            "zones_with_shape": with_shape,
            "resolved_duplicates": Metadata.table(
                [
                    TableRecord({"location_id": int(location), "times": times, "loaded_as": zones})
                    for location, times, zones in duplicates
                ],
                schema=TableSchema.from_name_type_dict({"location_id": "int", "times": "int", "loaded_as": "string"}),
            ),
        }
    )
    yield from check_results(ZONES, {"": findings})


def valid_multipolygon(wkt: str) -> str:
    """`wkt` itself where it is a valid shape, else the valid shape nearest to it."""
    import shapely

    shape = shapely.from_wkt(wkt)
    if shape.is_valid and shape.geom_type == "MultiPolygon":
        return wkt
    # Mended, a shape may be a collection of multipolygons and loose lines: parts of parts.
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(shape)))
    polygons = [part for part in parts if part.geom_type == "Polygon"]
    return str(shapely.MultiPolygon(polygons).wkt)
