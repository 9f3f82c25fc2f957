"""The zones' shapes as maps draw them: GeoJSON, simplified together so that neighbours keep their common border."""

from collections.abc import Iterable
from typing import Any, Final

TOLERANCE: Final = 5e-4
"""How coarse the simplified borders may be, degrees: about 50 m, a tenth of a small zone in Manhattan."""

GRID: Final = 1e-4
"""What coordinates are rounded to, degrees: about 10 m."""


def features(zones: Iterable[tuple[int, str, str, str | None]]) -> dict[str, Any]:
    """A FeatureCollection with one feature per zone that has a shape.

    A feature's id is the zone's; its properties are `zone_id`, `zone` and `borough`. Exterior rings run clockwise:
    d3-geo, which draws Vega's maps, takes a ring that runs the other way for the rest of the globe.

    Parameters
    ----------
    zones
        Id, name, borough and shape (WKT, longitude and latitude, degrees) of each zone. Those whose shape is
        null are left out.
    """
    import shapely

    shaped = [(zone_id, zone, borough, wkt) for zone_id, zone, borough, wkt in zones if wkt is not None]
    shapes = shapely.from_wkt([wkt for *_, wkt in shaped])
    # All at once: simplified one by one, neighbours would overlap in some places and part in others.
    simplified = shapely.set_precision(shapely.coverage_simplify(shapes, TOLERANCE), GRID)
    wound = shapely.orient_polygons(simplified, exterior_cw=True)
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": zone_id,
                "properties": {"zone_id": zone_id, "zone": zone, "borough": borough},
                "geometry": _geometry(shape),
            }
            for (zone_id, zone, borough, _), shape in zip(shaped, wound, strict=True)
        ],
    }


def _geometry(shape: Any) -> dict[str, Any]:  # noqa: ANN401  (shapely is not typed)
    import shapely

    multiple = shapely.multipolygons(shapely.get_parts(shape))
    coordinates = [[_ring(ring) for ring in polygon] for polygon in shapely.geometry.mapping(multiple)["coordinates"]]
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _ring(ring: Iterable[tuple[float, float]]) -> list[list[float]]:
    # The grid's points are floats such as -73.98310000000001.
    return [[round(longitude, 4), round(latitude, 4)] for longitude, latitude in ring]
