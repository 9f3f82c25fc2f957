"""Manhattan's pickups as data for maps (GeoJSON) and as a picture."""

import json
from importlib.resources import files
from typing import Any

from dagster import Failure, MaterializeResult, MetadataValue, TableRecord, asset
from taxi_shared.charts import embedded, png
from taxi_shared.description import sql_metadata
from taxi_shared.previews import PREVIEW_ROWS
from taxi_shared.warehouse import Warehouse

from analytics import charts
from analytics.defs.automation import FOLLOW_MARTS
from analytics.defs.marts import FOR_PEOPLE, OWNERS, ZONE_HOURLY_DEMAND, ZONES
from analytics.served import ServedFiles
from analytics.shapes import features

BOROUGH = "Manhattan"
STATS_FILE = "manhattan_stats.geojson"
MAP_FILE = "manhattan_map.png"


@asset(
    key_prefix="reports",
    deps=[ZONE_HOURLY_DEMAND.table.asset_key, ZONES.asset_key],
    group_name="reports",
    owners=OWNERS,
    kinds={"duckdb", "geojson"},
    metadata=sql_metadata(__package__, "manhattan_stats.sql") | FOR_PEOPLE,
    automation_condition=FOLLOW_MARTS,
)
def manhattan_stats(warehouse: Warehouse, served: ServedFiles) -> MaterializeResult[None]:
    """The taxi zones of Manhattan with their shapes and the pickups of all loaded months, as GeoJSON."""
    query = files(__package__).joinpath("manhattan_stats.sql").read_text(encoding="utf-8")
    with warehouse.read() as connection:
        zones = connection.execute(query, {"borough": BOROUGH}).fetchall()
    numbers = {zone_id: counted for zone_id, _, _, _, *counted in zones}
    collection = features((zone_id, zone, borough, wkt) for zone_id, zone, borough, wkt, *_ in zones)
    for feature in collection["features"]:
        names = ("trips", "yellow_trips", "green_trips", "total_amount")
        feature["properties"] |= dict(zip(names, numbers[feature["id"]], strict=True))
    path = served.write(STATS_FILE, json.dumps(collection, separators=(",", ":")).encode())
    return MaterializeResult(
        metadata={
            "dagster/row_count": len(zones),
            "trips": sum(trips for trips, *_ in numbers.values()),
            "file": MetadataValue.path(path),
            "link": MetadataValue.url(served.url(STATS_FILE)),
            "bytes": path.stat().st_size,
            "busiest": MetadataValue.table([TableRecord(row) for row in _properties(collection)[:PREVIEW_ROWS]]),
        }
    )


@asset(
    key_prefix="reports",
    deps=[manhattan_stats],
    group_name="reports",
    owners=OWNERS,
    kinds={"png"},
    metadata=FOR_PEOPLE,
    automation_condition=FOLLOW_MARTS,
)
def manhattan_map(served: ServedFiles) -> MaterializeResult[None]:
    """Manhattan's pickups on the map, as a picture."""
    try:
        collection = json.loads(served.path(STATS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Failure(
            f"{served.path(STATS_FILE)} is not there: materialize reports/manhattan_stats first.", allow_retries=False
        ) from None
    zones = _properties(collection)
    all_trips = sum(zone["trips"] for zone in zones)
    rows = [zone | {"share": zone["trips"] / all_trips if all_trips else 0.0} for zone in zones]
    chart = charts.zone_map(rows, collection["features"]).properties(title="Taxi pickups in Manhattan")
    picture = png(chart)
    path = served.write(MAP_FILE, picture)
    return MaterializeResult(
        metadata={
            "map": embedded(picture, "Map of the taxi pickups in Manhattan, by zone"),
            "file": MetadataValue.path(path),
            "link": MetadataValue.url(served.url(MAP_FILE)),
            "bytes": len(picture),
            "trips": all_trips,
        }
    )


def _properties(collection: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of each zone, the busiest first."""
    zones = [feature["properties"] for feature in collection["features"]]
    return sorted(zones, key=lambda zone: -zone["trips"])
