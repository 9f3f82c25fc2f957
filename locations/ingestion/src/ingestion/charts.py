"""The pictures that the UI shows of what was loaded."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from taxi_shared.charts import SERVICE_COLOURS

if TYPE_CHECKING:
    import altair

_SIZE = {"width": 560, "height": 180}


def trips_per_day(days: Sequence[tuple[date, int]], service: str) -> "altair.Chart":
    """Trips by the day of their pickup."""
    import altair

    rows = [{"day": day.isoformat(), "trips": trips} for day, trips in days]
    chart: altair.Chart = (
        altair.Chart(altair.InlineData(values=rows))
        .mark_bar(color=SERVICE_COLOURS[service])
        .encode(
            x=altair.X("yearmonthdate(day):T", title="Day of the pickup"),
            y=altair.Y("trips:Q", title="Trips", axis=altair.Axis(format="~s")),
        )
        .properties(**_SIZE)
    )
    return chart


def quarantined_rows(reasons: Mapping[str, int]) -> "altair.Chart":
    """Rows of a file that were quarantined, by reason."""
    import altair

    rows = [{"reason": reason.replace("_", " "), "rows": count} for reason, count in reasons.items()]
    chart: altair.Chart = (
        altair.Chart(altair.InlineData(values=rows))
        .mark_bar()
        .encode(
            x=altair.X("rows:Q", title="Rows"),
            y=altair.Y("reason:N", title=None, sort="-x", axis=altair.Axis(labelLimit=200)),
        )
        .properties(**_SIZE)
    )
    return chart
