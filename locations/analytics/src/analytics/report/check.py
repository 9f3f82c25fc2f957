"""Looks at a finished page before anybody sees it: whether it opens without network and says what the marts say.

Only the page's text is looked at, and the marts are asked anew in other words than when it was built.
"""

import json
import re
from calendar import monthrange
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as Svg

from taxi_shared.charts import config

from analytics.charts import WEEKDAYS
from analytics.report.build import NEWEST_MONTHS, page_charts

if TYPE_CHECKING:
    import duckdb

LARGEST: Final = 3_000_000
"""Bytes: a page that can still be sent by mail."""

Row = Mapping[str, Any]
Key = tuple[object, ...]

_FETCHING_ATTRIBUTES: Final = {"src", "srcset", "href", "xlink:href", "poster", "background", "action", "formaction"}
_FETCHING_STYLE: Final = re.compile(r"@import|url\(\s*['\"]?(?!data:|#)")
_FETCHING_SCRIPT: Final = re.compile(r"https?://|\bimport\s*\(|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon")


@dataclass(frozen=True)
class _Compared:
    """A dataset of the page, and the mart that its numbers must be those of: by month and category."""

    dataset: str
    mart: str
    when: str
    category: tuple[str, ...]
    columns: tuple[str, ...]


_COMPARED: Final = (
    _Compared(
        "payments", "fare_economics", "month", ("payment",), ("trips", "fare_amount", "tip_amount", "total_amount")
    ),
    _Compared(
        "distances",
        "fares_by_distance",
        "month",
        ("distance_band",),
        ("trips", "fare_amount", "card_trips", "card_fare_amount", "card_tip_amount"),
    ),
    _Compared(
        "airports",
        "airport_trips",
        "day",
        ("airport", "direction"),
        ("trips", "duration_seconds", "fare_amount"),
    ),
    _Compared("quality", "load_quality", "file_month", ("outcome",), ("row_count",)),
)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a page, as words for people."""

    what: str
    expected: str
    observed: str


def problems(page: str, connection: "duckdb.DuckDBPyConnection") -> list[Problem]:
    """Everything that keeps `page` from opening anywhere or from being true.

    Parameters
    ----------
    page
        The finished text.
    connection
        The one it was built on, in the same transaction: the marts must not have moved on meanwhile.
    """
    size = len(page.encode())
    if size >= LARGEST:
        return [Problem("size", f"less than {LARGEST:,} bytes", f"{size:,} bytes")]
    parsed = _Parsed(page)
    try:
        data = {name: _rows(columns) for name, columns in parsed.embedded("data").items()}
        charts, shapes = parsed.embedded("charts"), parsed.embedded("shapes")
    except (KeyError, ValueError) as error:
        return [Problem("embedded data", "data, charts and shapes as JSON", f"{type(error).__name__}: {error}")]
    return [*_reaches_out(parsed, charts), *_not_drawn(parsed, charts, data, shapes), *_untrue(data, connection)]


# -- the page as text -----------------------------------------------------------------------------


class _Parsed(HTMLParser):
    """The page's elements, and what stands in its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str | None, str]] = []  # tag, id, text
        self._inside: tuple[str, str | None] | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs).get("id")) if tag in {"script", "style"} else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.texts.append((*self._inside, data))

    @property
    def ids(self) -> set[str | None]:
        return {attributes.get("id") for _, attributes in self.elements}

    def embedded(self, name: str) -> Any:  # noqa: ANN401
        return json.loads({found: text for tag, found, text in self.texts if tag == "script"}[name])


def _reaches_out(parsed: _Parsed, charts: Mapping[str, Any]) -> Iterator[Problem]:
    policy = [attributes.get("content") or "" for tag, attributes in parsed.elements if tag == "meta"]
    if not any(content.startswith("default-src 'none'") for content in policy):
        yield Problem("network", "a Content-Security-Policy that begins with default-src 'none'", "none such")
    for tag, attributes in parsed.elements:
        for name, value in attributes.items():
            if name in _FETCHING_ATTRIBUTES and not (value or "#").startswith(("#", "data:")):
                yield Problem("network", "nothing from elsewhere", f"<{tag} {name}={value!r}>")
            if name == "style" and _FETCHING_STYLE.search(value or ""):
                yield Problem("network", "nothing from elsewhere", f"<{tag} style={value!r}>")
    for tag, script, text in parsed.texts:
        # Vega's own code can fetch and names addresses; what it is told to do stands in the charts.
        fetching = _FETCHING_STYLE if tag == "style" else _FETCHING_SCRIPT if script == "page" else None
        for match in fetching.finditer(text) if fetching else ():
            yield Problem("network", "nothing from elsewhere", text[max(match.start() - 20, 0) : match.end() + 40])
    for name, chart in charts.items():
        for address in _addresses(chart):
            yield Problem("network", f"{name} with the page's own data", f"data from {address}")


def _addresses(chart: object) -> Iterator[object]:
    if isinstance(chart, dict):
        yield from (value for name, value in chart.items() if name == "url")
    children = chart.values() if isinstance(chart, dict) else chart if isinstance(chart, list) else ()
    for child in children:
        yield from _addresses(child)


# -- the charts -----------------------------------------------------------------------------------


def _not_drawn(
    parsed: _Parsed, charts: Mapping[str, Any], data: Mapping[str, list[Row]], shapes: list[Row]
) -> Iterator[Problem]:
    rows = {**_chart_rows(data), "shapes": shapes}
    for name in page_charts():
        if name not in parsed.ids:
            yield Problem(name, "a place for the chart", f"no element with the id {name}")
        if name not in charts:
            yield Problem(name, "the chart", "missing")
        elif rows[name] and not (drawn := marks(charts[name], rows)):
            yield Problem(name, f"a drawing of {len(rows[name])} rows", f"{drawn} marks")


def marks(chart: Mapping[str, Any], rows: Mapping[str, Sequence[Row]]) -> int:
    """How many marks Vega draws for a chart whose data are named, given the rows by their names."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg({**chart, "width": 600, "datasets": rows, "config": config()})
    groups = [group for group in Svg.fromstring(svg).iter() if "role-mark" in group.get("class", "")]  # noqa: S314
    return sum(len(group) for group in groups)


def _chart_rows(data: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Each chart's rows for all months and both services."""
    pickups = Counter[int]()
    for row in data["pickups"]:
        pickups.update(dict(zip((zone["zone_id"] for zone in data["zones"]), row["trips"], strict=True)))
    measured = [row for row in data["distances"] if row["from_miles"] is not None]
    return {
        "weekly_trend": data["weeks"],
        "hour_of_week": list(_average_hours(data["hours"])),
        "zone_map": [
            {"zone_id": zone, "trips": trips, "share": trips / pickups.total()}
            for zone, trips in pickups.items()
            if trips
        ],
        "fares_by_payment": data["payments"],
        "fares_by_distance": measured,
        "tips_by_distance": [row for row in measured if row["card_fare_amount"]],
        "airport_trips": data["airports"],
        "quarantine_share": [{**row, "file_month": row["month"]} for row in data["quality"]],
        "quarantine_reasons": [row for row in data["quality"] if row["outcome"] != "kept"],
    }


def _average_hours(rows: list[Row]) -> Iterator[Row]:
    for service in sorted({row["service"] for row in rows}):
        months = [row for row in rows if row["service"] == service]
        days = Counter(day.weekday() for row in months for day in _days(row["month"]))
        for hour in range(168):
            weekday, hour_of_day = divmod(hour, 24)
            trips = sum(row["trips"][hour] for row in months)
            yield {"weekday": WEEKDAYS[weekday], "hour": hour_of_day, "pickups": trips / days[weekday]}


def _days(month: str) -> Iterator[date]:
    first = date.fromisoformat(f"{month}-01")
    for day in range(monthrange(first.year, first.month)[1]):
        yield first + timedelta(days=day)


# -- the numbers ----------------------------------------------------------------------------------


def _untrue(data: Mapping[str, list[Row]], connection: "duckdb.DuckDBPyConnection") -> Iterator[Problem]:
    def asked(query: str) -> dict[Key, Any]:
        return {tuple(key): value for *key, value in connection.execute(query).fetchall() if value}

    def of_months(found: Mapping[Key, Any]) -> dict[Key, Any]:
        return {key: value for key, value in found.items() if key[:2] in months}

    kept = dict.fromkeys(
        tuple(key)
        for *key, rows, trips in connection.execute(
            """SELECT service, left(file_month::VARCHAR, 7), row_count,
              (SELECT coalesce(sum(trips), 0) FROM fare_economics AS fares
               WHERE fares.service = loads.service AND fares.month = loads.file_month)
            FROM load_quality AS loads WHERE outcome = 'kept'"""
        ).fetchall()
        if 2 * trips >= rows
    )
    newest = sorted({month for _, month in kept})[-NEWEST_MONTHS:]
    months: set[Key] = {key for key in kept if key[1] in newest}
    yield from _compare("months", dict.fromkeys(months, 1), _summed(data["loaded"], "service", "month"))

    for compared in _COMPARED:
        category = ", ".join(compared.category)
        for column in compared.columns:
            query = (
                f"SELECT service, left({compared.when}::VARCHAR, 7), {category}, sum({column}::DECIMAL(18, 2))"
                f" FROM {compared.mart} GROUP BY ALL"
            )
            found = _summed(data[compared.dataset], "service", "month", *compared.category, value=column)
            yield from _compare(f"{column} of {compared.mart}", of_months(asked(query)), found)
    yield from _compare(
        "pickups by hour of the week",
        of_months(
            asked(
                "SELECT service, left(pickup_hour::VARCHAR, 7), strftime(pickup_hour, '%u %H'), sum(trips)"
                " FROM zone_hourly_demand GROUP BY ALL"
            )
        ),
        _spread(data["hours"], [f"{hour // 24 + 1} {hour % 24:02}" for hour in range(168)]),
    )
    yield from _compare(
        "pickups by zone",
        of_months(
            asked(
                "SELECT service, left(pickup_hour::VARCHAR, 7), zone_id, sum(trips)"
                " FROM zone_hourly_demand GROUP BY ALL"
            )
        ),
        _spread(data["pickups"], [row["zone_id"] for row in data["zones"]]),
    )
    weeks = asked("SELECT service, week::VARCHAR, sum(trips) FROM trips_by_week GROUP BY ALL")
    yield from _compare(
        "trips by week",
        {key: trips for key, trips in weeks.items() if _whole(str(key[0]), str(key[1]), months)},
        _summed(data["weeks"], "service", "week", value="trips"),
    )


def _whole(service: str, week: str, months: set[Key]) -> bool:
    monday = date.fromisoformat(week)
    return all((service, f"{monday + timedelta(days=day):%Y-%m}") in months for day in range(7))


def _summed(rows: Sequence[Row], *keys: str, value: str | None = None) -> dict[Key, Any]:
    found = Counter[Key]()
    for row in rows:
        found[tuple(row[key] for key in keys)] += row[value] if value else 1
    return dict(found)


def _spread(rows: Sequence[Row], places: Sequence[object]) -> dict[Key, Any]:
    return {
        (row["service"], row["month"], place): trips
        for row in rows
        for place, trips in zip(places, row["trips"], strict=True)
    }


def _compare(what: str, expected: Mapping[Key, Any], observed: Mapping[Key, Any]) -> Iterator[Problem]:
    """One problem that names the first of the differences; a key without a number counts as 0."""
    keys = sorted(expected.keys() | observed.keys(), key=str)
    wrong = [key for key in keys if abs(float(expected.get(key, 0)) - float(observed.get(key, 0))) >= 0.01]
    if wrong:
        more = f" ({len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        where = ", ".join(map(str, wrong[0]))
        yield Problem(f"{what}: {where}{more}", _words(expected.get(wrong[0], 0)), _words(observed.get(wrong[0], 0)))


def _words(number: Any) -> str:  # noqa: ANN401
    return f"{float(number):,.2f}".removesuffix(".00")


def _rows(columns: Mapping[str, list[Any]]) -> list[Row]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
