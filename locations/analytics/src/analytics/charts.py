"""The charts, declared once for the report page and for pictures in the UI.

Each function takes rows as the marts have them (`alt.NamedData` where the page supplies them) and sums them up
itself, so that whoever calls it only chooses the rows. Colours and fonts come with `taxi_shared.charts.config`.
"""

from datetime import date
from typing import TYPE_CHECKING, Any, Final

from taxi_shared.charts import CATEGORIES, SERVICE_COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import altair

    Rows = Sequence[Mapping[str, object]] | altair.NamedData

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
FARE_COLOUR, TIP_COLOUR, OTHER_COLOUR = CATEGORIES[0], CATEGORIES[1], CATEGORIES[7]
DIRECTION_COLOURS: Final = {"from": CATEGORIES[0], "to": CATEGORIES[5]}
WEEKS_WITH_POINTS: Final = 40
"""Up to so many weeks each gets a point; with more of them the line is clearer without."""


def weekly_trend(rows: "Rows") -> "altair.LayerChart":
    """Trips per week, one line per service.

    Parameters
    ----------
    rows
        `service`, `week` (its Monday), `trips`.
    """
    import altair as alt

    base = (
        alt.Chart(_data(rows))
        .transform_calculate(monday="toDate(datum.week)", begins="utcFormat(toDate(datum.week), '%-d %B %Y')")
        .encode(
            x=alt.X(
                "monday:T",
                scale=alt.Scale(type="utc", nice={"interval": "month", "step": 1}),
                axis=_months(alt, after_last=True),
                title="week, by the Monday it begins with",
            )
        )
    )
    lines = base.mark_line().encode(y=_trips(alt, "trips per week"), color=_service(alt))
    points = (
        base.transform_joinaggregate(weeks="distinct(week)")
        .transform_filter(f"datum.weeks <= {WEEKS_WITH_POINTS}")
        .mark_point(filled=True, size=36, opacity=1)
        .encode(y=_trips(alt, "trips per week"), color=_service(alt))
    )
    nearest = alt.selection_point(
        name="week", fields=["monday"], nearest=True, on="pointermove", clear="pointerout", empty=False
    )
    hovered = (
        base.transform_pivot("service", value="trips", groupby=["monday", "begins"])
        .mark_rule(color=OTHER_COLOUR)
        .encode(
            opacity=alt.condition(nearest, alt.value(0.7), alt.value(0)),
            tooltip=[
                alt.Tooltip("begins:N", title="week of"),
                *(alt.Tooltip(f"{service}:Q", format=",", title=service) for service in SERVICE_COLOURS),
            ],
        )
        .add_params(nearest)
    )
    return alt.LayerChart(
        layer=[lines, points, hovered],
        description="Line chart of the trips per week, one line per service.",
        width=720,
        height=280,
    )


def hour_of_week(rows: "Rows") -> "altair.Chart":
    """Average pickups in each hour of the week, as a heat map.

    Parameters
    ----------
    rows
        `weekday` (one of WEEKDAYS), `hour` (0 to 23), `pickups` (on average in such an hour).
    """
    import altair as alt

    chart: altair.Chart = (
        alt.Chart(_data(rows), description="Heat map of the average pickups per hour, by weekday and hour of the day.")
        .transform_calculate(time="datum.hour + ':00 to ' + (datum.hour + 1) + ':00'")
        .mark_rect()
        .encode(
            x=alt.X(
                "hour:O",
                axis=alt.Axis(values=list(range(0, 24, 3)), labelAngle=0, domain=False, ticks=False),
                scale=alt.Scale(paddingInner=0.06),
                title="hour of the pickup, New York time",
            ),
            y=alt.Y(
                "weekday:O",
                sort=list(WEEKDAYS),
                axis=alt.Axis(domain=False, ticks=False),
                scale=alt.Scale(paddingInner=0.06),
                title=None,
            ),
            color=alt.Color(
                "pickups:Q", scale=alt.Scale(zero=True), legend=_gradient(alt), title="pickups per hour, on average"
            ),
            tooltip=[
                alt.Tooltip("weekday:N", title="weekday"),
                alt.Tooltip("time:N", title="time"),
                alt.Tooltip("pickups:Q", format=",.1f", title="pickups on average"),
            ],
        )
        .properties(width=560, height=280)
    )
    return chart


def zone_map(rows: "Rows", shapes: "Rows") -> "altair.Chart":
    """Pickups by zone, on the map that `shapes` make up.

    The colours are logarithmic: the busiest zones have thousands of times the pickups of quiet ones.

    Parameters
    ----------
    rows
        `zone_id`, `trips` and, for the tooltip, `share` (of all pickups, 0 to 1).
    shapes
        The features of `analytics.shapes.features`.
    """
    import altair as alt

    hovered = alt.selection_point(name="zone", on="pointerover", clear="pointerout", empty=False)
    chart: altair.Chart = (
        alt.Chart(_data(shapes), description="Map of the taxi zones, coloured by the number of pickups.")
        .transform_lookup(lookup="id", from_=alt.LookupData(_data(rows), "zone_id", ["trips", "share"]))
        # The logarithm knows no zero.
        .transform_calculate(trips="datum.trips > 0 ? datum.trips : null")
        .mark_geoshape(invalid="show")
        .encode(
            color=alt.Color(
                "trips:Q", scale=alt.Scale(type="log"), legend=_gradient(alt), title="pickups, logarithmic"
            ),
            strokeWidth=alt.condition(hovered, alt.value(2.5), alt.value(0.5)),
            tooltip=[
                alt.Tooltip("properties.zone:N", title="zone"),
                alt.Tooltip("properties.borough:N", title="borough"),
                alt.Tooltip("trips:Q", format=",", title="pickups"),
                alt.Tooltip("share:Q", format=".2%", title="of all pickups"),
            ],
        )
        .project("mercator")
        .add_params(hovered)
        .properties(width=640, height=560)
    )
    return chart


def fares_by_payment(rows: "Rows") -> "altair.Chart":
    """What a trip costs on average and what that is made up of, by way of payment.

    Parameters
    ----------
    rows
        `payment`, `trips`, `fare_amount`, `tip_amount`, `total_amount` (sums, USD).
    """
    import altair as alt

    parts = {"fare": FARE_COLOUR, "tip": TIP_COLOUR, "tolls, taxes, fees": OTHER_COLOUR}
    chart: altair.Chart = (
        alt.Chart(_data(rows), description="Bars of the average amounts per trip, by way of payment.")
        .transform_aggregate(
            trips="sum(trips)",
            fares="sum(fare_amount)",
            tips="sum(tip_amount)",
            total="sum(total_amount)",
            groupby=["payment"],
        )
        .transform_filter("datum.trips > 0")
        .transform_joinaggregate(all_trips="sum(trips)")
        .transform_calculate(
            label="datum.payment + '|' + format(datum.trips / datum.all_trips, '.1%') + ' of trips'",
            fare="datum.fares / datum.trips",
            tip="datum.tips / datum.trips",
            other="(datum.total - datum.fares - datum.tips) / datum.trips",
        )
        .transform_fold(["fare", "tip", "other"], ["part", "amount"])
        .transform_calculate(
            part="datum.part == 'other' ? 'tolls, taxes, fees' : datum.part",
            place="indexof(['fare', 'tip', 'tolls, taxes, fees'], datum.part)",
        )
        .mark_bar(cornerRadius=0)
        .encode(
            y=alt.Y(
                "label:N",
                sort=alt.EncodingSortField("trips", op="max", order="descending"),
                axis=alt.Axis(labelExpr="split(datum.label, '|')", labelOffset=-6, domain=False, ticks=False),
                scale=alt.Scale(paddingInner=0.45),
                title=None,
            ),
            x=alt.X("amount:Q", axis=alt.Axis(format="$~s", tickCount=5), title="USD per trip, on average"),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(parts), range=list(parts.values())),
                legend=alt.Legend(orient="top", title=None),
            ),
            order=alt.Order("place:Q"),
            tooltip=[
                alt.Tooltip("payment:N", title="paid by"),
                alt.Tooltip("trips:Q", format=",", title="trips"),
                alt.Tooltip("part:N", title="part"),
                alt.Tooltip("amount:Q", format="$,.2f", title="per trip"),
            ],
        )
        .properties(width=360, height=280)
    )
    return chart


def fares_by_distance(rows: "Rows") -> "altair.LayerChart":
    """The average fare of a trip, by its length.

    Parameters
    ----------
    rows
        `distance_band`, `from_miles`, `trips`, `fare_amount` (sum, USD). Trips without a distance are left out.
    """
    import altair as alt

    base = (
        alt.Chart(_data(rows))
        .transform_filter("isValid(datum.from_miles)")
        .transform_aggregate(trips="sum(trips)", fares="sum(fare_amount)", groupby=["distance_band", "from_miles"])
        .transform_filter("datum.trips > 0")
        .transform_calculate(fare="datum.fares / datum.trips")
        .encode(
            x=_distance(alt),
            y=alt.Y("fare:Q", axis=alt.Axis(format="$~s", tickCount=5), title="USD per trip, on average"),
            tooltip=[
                alt.Tooltip("distance_band:N", title="miles"),
                alt.Tooltip("trips:Q", format=",", title="trips"),
                alt.Tooltip("fare:Q", format="$,.2f", title="fare per trip"),
            ],
        )
    )
    labels = base.mark_text(dy=-8).encode(text=alt.Text("fare:Q", format="$,.0f"))
    return alt.LayerChart(
        layer=[base.mark_bar(color=FARE_COLOUR), labels],
        description="Bars of the average fare, by the length of the trip.",
        width=360,
        height=280,
    )


def tips_by_distance(rows: "Rows") -> "altair.LayerChart":
    """The tips paid by card as a share of the fare, by the length of the trip.

    Parameters
    ----------
    rows
        `distance_band`, `from_miles`, `card_trips`, `card_fare_amount`, `card_tip_amount` (sums, USD). Trips
        without a distance are left out.
    """
    import altair as alt

    base = (
        alt.Chart(_data(rows))
        .transform_filter("isValid(datum.from_miles)")
        .transform_aggregate(
            trips="sum(card_trips)",
            fares="sum(card_fare_amount)",
            tips="sum(card_tip_amount)",
            groupby=["distance_band", "from_miles"],
        )
        .transform_filter("datum.fares > 0")
        .transform_calculate(share="datum.tips / datum.fares")
        .encode(
            x=_distance(alt),
            y=alt.Y("share:Q", axis=alt.Axis(format=".0%", tickCount=5), title="tip, % of the fare"),
            tooltip=[
                alt.Tooltip("distance_band:N", title="miles"),
                alt.Tooltip("trips:Q", format=",", title="trips paid by card"),
                alt.Tooltip("share:Q", format=".1%", title="tip, of the fare"),
            ],
        )
    )
    labels = base.mark_text(dy=-8).encode(text=alt.Text("share:Q", format=".0%"))
    return alt.LayerChart(
        layer=[base.mark_bar(color=TIP_COLOUR), labels],
        description="Bars of the tip's share of the fare on trips paid by card, by the length of the trip.",
        width=360,
        height=280,
    )


def airport_trips(rows: "Rows") -> "altair.LayerChart":
    """Trips from and to each airport, with how long they take and what they cost on average.

    Parameters
    ----------
    rows
        `airport`, `direction` (from, to), `trips`, `duration_seconds`, `fare_amount` (sums, seconds and USD).
    """
    import altair as alt

    base = (
        alt.Chart(_data(rows))
        .transform_aggregate(
            trips="sum(trips)",
            seconds="sum(duration_seconds)",
            fares="sum(fare_amount)",
            groupby=["airport", "direction"],
        )
        .transform_filter("datum.trips > 0")
        .transform_joinaggregate(of_airport="sum(trips)", groupby=["airport"])
        .transform_calculate(
            place="replace(datum.airport, ' Airport', '')",
            minutes="datum.seconds / datum.trips / 60",
            fare="datum.fares / datum.trips",
            says="datum.direction + ': ' + format(datum.trips, ',') + ' trips, '"
            " + format(datum.minutes, '.0f') + ' min, ' + format(datum.fare, '$.2f')",
        )
        .encode(
            y=alt.Y(
                "place:N",
                sort=alt.EncodingSortField("of_airport", op="max", order="descending"),
                axis=alt.Axis(domain=False, ticks=False),
                scale=alt.Scale(paddingInner=0.2),
                title=None,
            ),
            yOffset=alt.YOffset("direction:N", sort=list(DIRECTION_COLOURS)),
            tooltip=[
                alt.Tooltip("airport:N", title="airport"),
                alt.Tooltip("direction:N", title="direction"),
                alt.Tooltip("trips:Q", format=",", title="trips"),
                alt.Tooltip("minutes:Q", format=".1f", title="minutes on average"),
                alt.Tooltip("fare:Q", format="$,.2f", title="fare on average"),
            ],
        )
    )
    bars = base.mark_bar(height=7).encode(
        x=alt.X("trips:Q", axis=_counts(alt), title="trips"),
        color=alt.Color(
            "direction:N",
            scale=alt.Scale(domain=list(DIRECTION_COLOURS), range=list(DIRECTION_COLOURS.values())),
            legend=None,
        ),
    )
    labels = base.mark_text(align="left", dy=-12).encode(x=alt.datum(0), text="says:N")
    return alt.LayerChart(
        layer=[bars, labels],
        description="Bars of the trips from and to each airport, with average minutes and fare.",
        width=420,
        height=280,
    )


def quarantine_share(rows: "Rows") -> "altair.LayerChart":
    """Which share of each file's rows was quarantined, one line per service.

    Parameters
    ----------
    rows
        `service`, `file_month`, `outcome`, `row_count`.
    """
    import altair as alt

    base = (
        alt.Chart(_data(rows))
        .transform_calculate(
            quarantined="datum.outcome == 'kept' ? 0 : datum.row_count", month="toDate(datum.file_month)"
        )
        .transform_aggregate(quarantined="sum(quarantined)", rows="sum(row_count)", groupby=["service", "month"])
        .transform_calculate(
            share="datum.rows > 0 ? datum.quarantined / datum.rows : 0", name="utcFormat(datum.month, '%B %Y')"
        )
        .encode(
            x=alt.X("month:T", scale=alt.Scale(type="utc"), axis=_months(alt), title="month of the file"),
            y=alt.Y("share:Q", axis=alt.Axis(format=".1~%", tickCount=5), title="% of the file's rows"),
            color=_service(alt),
            tooltip=[
                alt.Tooltip("service:N", title="service"),
                alt.Tooltip("name:N", title="file of"),
                alt.Tooltip("quarantined:Q", format=",", title="rows quarantined"),
                alt.Tooltip("share:Q", format=".2%", title="of its rows"),
            ],
        )
    )
    return alt.LayerChart(
        layer=[base.mark_line(), base.mark_point(filled=True, size=50, opacity=1)],
        description="Line chart of the share of rows quarantined in each month's file, one line per service.",
        width=420,
        height=260,
    )


def quarantine_reasons(rows: "Rows") -> "altair.LayerChart":
    """Why rows were quarantined.

    Parameters
    ----------
    rows
        `outcome`, `row_count`; those of outcome `kept` are left out.
    """
    import altair as alt

    base = (
        alt.Chart(_data(rows))
        .transform_filter("datum.outcome != 'kept'")
        .transform_aggregate(rows="sum(row_count)", groupby=["outcome"])
        .transform_joinaggregate(all_rows="sum(rows)")
        .transform_calculate(
            share="datum.rows / datum.all_rows",
            reason="replace(datum.outcome, /_/g, ' ')",
            says="replace(datum.outcome, /_/g, ' ') + ': ' + format(datum.rows, ',') + ' rows, '"
            " + format(datum.rows / datum.all_rows, '.0%')",
        )
        .encode(
            y=alt.Y("reason:N", sort=alt.EncodingSortField("rows", op="max", order="descending"), axis=None),
            tooltip=[
                alt.Tooltip("reason:N", title="reason"),
                alt.Tooltip("rows:Q", format=",", title="rows"),
                alt.Tooltip("share:Q", format=".1%", title="of all quarantined"),
            ],
        )
    )
    bars = base.mark_bar(height=7).encode(x=alt.X("rows:Q", axis=_counts(alt), title="rows quarantined"))
    labels = base.mark_text(align="left", dy=-12).encode(x=alt.datum(0), text="says:N")
    return alt.LayerChart(
        layer=[bars, labels],
        description="Bars of the number of rows quarantined for each reason.",
        width=420,
        height=260,
    )


def _data(rows: "Rows") -> Any:  # noqa: ANN401  (altair's stubs want more of rows than they need)
    import altair as alt

    if isinstance(rows, alt.NamedData):
        return rows
    return alt.InlineData(values=[{name: _plain(value) for name, value in row.items()} for row in rows])


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


# The parts that several charts have in common. `alt` is altair, which is imported where a chart is made.


def _service(alt: Any) -> Any:  # noqa: ANN401
    return alt.Color(
        "service:N",
        scale=alt.Scale(domain=list(SERVICE_COLOURS), range=list(SERVICE_COLOURS.values())),
        legend=alt.Legend(orient="top", title=None, symbolType="circle"),
    )


def _trips(alt: Any, title: str) -> Any:  # noqa: ANN401
    return alt.Y("trips:Q", axis=_counts(alt), title=title)


def _counts(alt: Any) -> Any:  # noqa: ANN401
    # Not by `format`: that gives all ticks one prefix, and nothing as 0k.
    return alt.Axis(labelExpr="format(datum.value, '~s')", tickCount=5)


def _distance(alt: Any) -> Any:  # noqa: ANN401
    short = "replace(replace(datum.label, ' to ', '-'), ' and more', '+')"
    return alt.X(
        "distance_band:N",
        sort=alt.EncodingSortField("from_miles", op="min"),
        axis=alt.Axis(labelExpr=short, labelAngle=0, ticks=False),
        title="length of the trip, miles",
    )


def _months(alt: Any, after_last: bool = False) -> Any:  # noqa: ANN401
    """Months along a time axis; the year stands below the first one and below each January.

    With `after_last` the axis ends where the last month does, so that its last tick is no month's.
    """
    name, year = "utcFormat(datum.value, '%b')", "utcFormat(datum.value, '%Y')"
    label = f"[{name}, utcmonth(datum.value) == 0 || datum.index == 0 ? {year} : '']"
    return alt.Axis(
        tickCount={"interval": "month", "step": 1},
        labelExpr=f"datum.index == 1 ? '' : {label}" if after_last else label,
        labelOverlap="greedy",
        labelFlush=False,
        grid=False,
    )


def _gradient(alt: Any) -> Any:  # noqa: ANN401
    return alt.Legend(orient="top", gradientLength=180, gradientThickness=8, format=".2~s")
