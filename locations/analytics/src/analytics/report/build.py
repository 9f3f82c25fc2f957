"""Puts the report page together: one HTML file with its data, its charts and the libraries that draw them.

A page is opened years later, offline or from a mail. So nothing in it is fetched: the browser is told to refuse
it (Content-Security-Policy), and `check.py` looks.
"""

import html
import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any, Final

from taxi_shared.charts import config
from taxi_shared.contracts import TableContract, contract

from analytics import charts
from analytics.shapes import features

if TYPE_CHECKING:
    import altair
    import duckdb

NEWEST_MONTHS: Final = 36
"""The report is about so many months, so that the page keeps its size."""

DATASETS: Final = (
    "loaded",
    "weeks",
    "hours",
    "zones",
    "pickups",
    "payments",
    "distances",
    "airports",
    "quality",
    "freshness",
    "sources",
)
"""What the page knows; each is made by the `.sql` file of its name."""

SQL_FILES: Final = ("reported.sql", "shapes.sql", *(f"{name}.sql" for name in DATASETS))
"""All SQL that reads the report's sources."""

Columns = dict[str, list[Any]]
"""A table as the page holds it: the values of each column, in the order of the rows."""


@cache
def sources() -> tuple[TableContract, ...]:
    """The tables that the report is made from."""
    return (
        contract("marts.trips_by_week"),
        contract("marts.zone_hourly_demand"),
        contract("marts.fare_economics"),
        contract("marts.fares_by_distance"),
        contract("marts.airport_trips"),
        contract("marts.load_quality"),
        contract("raw.taxi_zones"),
        contract("raw.taxi_trips_loads"),
    )


def open_sources(connection: "duckdb.DuckDBPyConnection") -> None:
    """Make the tables of `sources` views of their plain names; one that was never made counts as empty."""
    for source in sources():
        name = source.table.split(".")[1]
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {_rows_of(connection, source)}")


def datasets(connection: "duckdb.DuckDBPyConnection") -> dict[str, Columns]:
    """Read what the page shows: each of DATASETS by its name.

    Parameters
    ----------
    connection
        After `open_sources`, and in a transaction, so that all datasets are of one moment.
    """
    connection.execute("SET VARIABLE newest_months = $1", [NEWEST_MONTHS])
    connection.execute(_text("reported.sql"))
    return {name: _columns(connection.execute(_text(f"{name}.sql"))) for name in DATASETS}


def shapes(connection: "duckdb.DuckDBPyConnection") -> list[dict[str, Any]]:
    """The zones' shapes as features, for the map; `connection` as for `datasets`."""
    zones = connection.execute(_text("shapes.sql")).fetchall()
    found: list[dict[str, Any]] = features(zones)["features"]
    return found


def page(data: Mapping[str, Columns], zone_shapes: list[dict[str, Any]], made_at: datetime) -> str:
    """The finished page.

    Parameters
    ----------
    data
        What `datasets` returns.
    zone_shapes
        What `shapes` returns.
    made_at
        When the data was read, UTC.
    """
    addresses: list[str] = data["sources"]["address"]
    made_up = [address for address in addresses if address.endswith("/sample")]
    return Template(_text("page.html")).substitute(
        state="loaded" if data["loaded"]["month"] else "empty",
        made_up="" if not made_up else "Made-up sample data" if made_up == addresses else "Partly made-up sample data",
        sources=html.escape(", ".join(addresses) or "none yet"),
        made_at=f"{made_at:%Y-%m-%dT%H:%MZ}",
        made_at_words=f"{made_at.day} {made_at:%B %Y, %H:%M} UTC",
        months=NEWEST_MONTHS,
        style=_text("page.css"),
        vega=_vega(),
        script=_text("page.js"),
        data=_embedded(data),
        shapes=_embedded(zone_shapes),
        charts=_embedded({name: _fluid(chart) for name, chart in page_charts().items()}),
        looks=_embedded({name: config(name == "dark") | {"background": "transparent"} for name in ("light", "dark")}),
    )


@cache
def _vega() -> str:
    """The libraries that draw the charts; putting them together takes a second."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", r"<\/script")


def page_charts() -> dict[str, "altair.Chart | altair.LayerChart"]:
    """The charts by the id of their place in the page; each chart's rows come under that name too."""
    import altair as alt

    makers = (
        charts.weekly_trend,
        charts.hour_of_week,
        charts.fares_by_payment,
        charts.fares_by_distance,
        charts.tips_by_distance,
        charts.airport_trips,
        charts.quarantine_share,
        charts.quarantine_reasons,
    )
    return {
        "zone_map": charts.zone_map(alt.NamedData("zone_map"), alt.NamedData("shapes")),
        **{make.__name__: make(alt.NamedData(make.__name__)) for make in makers},
    }


def _fluid(chart: "altair.Chart | altair.LayerChart") -> dict[str, Any]:
    """The chart as wide as its place, in the look that the page gives it."""
    specification: dict[str, Any] = chart.to_dict()
    del specification["config"]
    return specification | {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}


def _rows_of(connection: "duckdb.DuckDBPyConnection", source: TableContract) -> str:
    schema, table = source.table.split(".")
    exists = connection.execute(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = $1 AND schema_name = $2 AND table_name = $3",
        [source.owner, schema, table],
    ).fetchone()
    if exists:
        return f"FROM {source.owner}.{source.table}"
    columns = ", ".join(f"NULL::{column.type} AS {column.name}" for column in source.columns)
    return f"SELECT {columns} WHERE false"


def _columns(rows: "duckdb.DuckDBPyConnection") -> Columns:
    names = [name for name, *_ in rows.description or []]
    found = rows.fetchall()
    return {name: [row[position] for row in found] for position, name in enumerate(names)}


def _embedded(value: object) -> str:
    # A "</script>" in the name of a zone would end the element it stands in.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
