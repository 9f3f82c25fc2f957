"""Every chart draws what its rows say, with the rows in it and with rows that come by name."""

from collections.abc import Callable
from datetime import date
from typing import Any

import altair as alt
import pytest
import vl_convert
from analytics import charts
from analytics.report.check import marks
from taxi_shared.charts import config, png

SQUARE = {"type": "Polygon", "coordinates": [[[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]]}
SHAPES = [
    {
        "type": "Feature",
        "id": zone,
        "properties": {"zone_id": zone, "zone": name, "borough": "Bronx"},
        "geometry": SQUARE,
    }
    for zone, name in [(3, "Allerton"), (18, "Bedford Park")]
]
Rows = list[dict[str, Any]]
# Each chart with rows as the marts have them, and words that it must show for them.
CASES: list[tuple[Callable[..., Any], Rows, list[str]]] = [
    (
        charts.weekly_trend,
        [
            {"service": service, "week": date(2023, 1, day), "trips": day * factor}
            for service, factor in [("yellow", 1000), ("green", 10)]
            for day in (2, 9, 16)
        ],
        ["yellow", "green", "trips per week", "Jan", "2023", "15k"],
    ),
    (
        charts.hour_of_week,
        [{"weekday": day, "hour": hour, "pickups": hour * 1.5} for day in charts.WEEKDAYS for hour in range(24)],
        ["Mon", "Sun", "21", "pickups per hour, on average"],
    ),
    (
        charts.fares_by_payment,
        [
            {"payment": "card", "trips": 2, "fare_amount": 30.0, "tip_amount": 6.0, "total_amount": 40.0},
            {"payment": "card", "trips": 1, "fare_amount": 15.0, "tip_amount": 3.0, "total_amount": 20.0},
            {"payment": "cash", "trips": 1, "fare_amount": 9.0, "tip_amount": 0.0, "total_amount": 10.0},
        ],
        ["card", "75.0% of trips", "25.0% of trips", "tip", "USD per trip, on average"],
    ),
    (
        charts.fares_by_distance,
        [
            {"distance_band": "0 to 1", "from_miles": 0.0, "trips": 4, "fare_amount": 28.0},
            {"distance_band": "20 and more", "from_miles": 20.0, "trips": 1, "fare_amount": 61.0},
            {"distance_band": "20 and more", "from_miles": 20.0, "trips": 1, "fare_amount": 65.0},
            {"distance_band": "none recorded", "from_miles": None, "trips": 9, "fare_amount": 9.0},
        ],
        ["0-1", "20+", "$7", "$63"],
    ),
    (
        charts.tips_by_distance,
        [
            {
                "distance_band": "1 to 2",
                "from_miles": 1.0,
                "card_trips": 4,
                "card_fare_amount": 50.0,
                "card_tip_amount": 12.5,
            },
            {
                "distance_band": "3 to 5",
                "from_miles": 3.0,
                "card_trips": 0,
                "card_fare_amount": 0,
                "card_tip_amount": 0,
            },
        ],
        ["1-2", "25%", "tip, % of the fare"],
    ),
    (
        charts.airport_trips,
        [
            {
                "airport": "JFK Airport",
                "direction": way,
                "trips": trips,
                "duration_seconds": 2400 * trips,
                "fare_amount": 70.5 * trips,
            }
            for way, trips in [("from", 1000), ("from", 200), ("to", 3)]
        ],
        ["JFK", "from: 1,200 trips, 40 min, $70.50", "to: 3 trips, 40 min, $70.50"],
    ),
    (
        charts.quarantine_share,
        [
            {"service": "green", "file_month": date(2023, month, 1), "outcome": outcome, "row_count": rows}
            for month in (1, 2)
            for outcome, rows in [("kept", 990), ("no_duration", 10 * month)]
        ],
        ["green", "Jan", "Feb", "2023"],
    ),
    (
        charts.quarantine_reasons,
        [
            {"outcome": "kept", "row_count": 5000},
            {"outcome": "no_duration", "row_count": 30},
            {"outcome": "no_duration", "row_count": 45},
            {"outcome": "unknown_zone", "row_count": 25},
        ],
        ["no duration: 75 rows, 75%", "unknown zone: 25 rows, 25%"],
    ),
]


def drawn(chart: dict[str, Any]) -> str:
    svg = vl_convert.vegalite_to_svg(chart | {"config": config()})
    return str(svg)


@pytest.mark.parametrize(("make", "rows", "words"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_chart_shows_its_rows(make: Callable[..., Any], rows: Rows, words: list[str]) -> None:
    svg = drawn(make(rows).to_dict())
    assert [word for word in words if f">{word}<" not in svg] == []
    assert ">NaN" not in svg
    assert "kept" not in svg


@pytest.mark.parametrize(("make", "rows", "words"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_rows_by_name_draw_the_same_chart(make: Callable[..., Any], rows: Rows, words: list[str]) -> None:
    inline = make(rows).to_dict()
    (values,) = inline["datasets"].values()
    named = make(alt.NamedData("rows")).to_dict()
    assert "datasets" not in named
    assert marks(named, {"rows": values}) > 0
    assert marks(named, {"rows": values}) == marks(inline, inline["datasets"])
    assert named["description"] == inline["description"] != ""


def test_the_map_colours_zones_by_pickups_and_greys_those_without() -> None:
    rows = [{"zone_id": 3, "trips": 40, "share": 0.4}]
    svg = drawn(charts.zone_map(rows, SHAPES).to_dict())
    assert svg.count('aria-roledescription="geoshape"') == len(SHAPES)
    assert svg.count('fill="#80808040"') == 1
    named = charts.zone_map(alt.NamedData("zones"), alt.NamedData("shapes")).to_dict()
    assert marks(named, {"zones": rows, "shapes": SHAPES}) >= len(SHAPES)
    assert named["description"]


def test_many_weeks_are_a_line_without_points() -> None:
    def weeks(number: int) -> Rows:
        monday = date(2022, 1, 3).toordinal()
        return [
            {"service": "green", "week": date.fromordinal(monday + 7 * week), "trips": week} for week in range(number)
        ]

    few, many = (drawn(charts.weekly_trend(weeks(number)).to_dict()) for number in (40, 41))
    assert few.count('aria-roledescription="point"') == 40
    assert many.count('aria-roledescription="point"') == 0
    assert many.count('aria-roledescription="line mark"') == 1


def test_charts_become_pictures() -> None:
    make, rows, _ = CASES[0]
    assert png(make(rows)).startswith(b"\x89PNG")
