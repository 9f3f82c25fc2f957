"""The report: its page says what the marts say, opens offline, and a wrong one never takes the old one's place."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import pytest
from analytics.defs.report import CHECK, REPORT, report
from analytics.report import build, check
from analytics.report.check import Problem, problems
from analytics.served import REPORT_FILE, ServedFiles
from dagster import ExecuteInProcessResult, materialize
from taxi_shared.contracts import contract
from taxi_shared.warehouse import Warehouse

from conftest import insert, lake_in

MADE_AT = datetime(2026, 11, 22, 9, 5, tzinfo=UTC)
LOADED_AT = datetime(2023, 5, 5, 5, 7)
SERVICES = ("green", "yellow")
MONTHS = (date(2023, 1, 1), date(2023, 2, 1))
STRAY = date(2022, 12, 31)  # trips that January's file reports from the day before
ZONES = [
    (4, "Alphabet City", "Manhattan", "Yellow Zone", "MULTIPOLYGON (((0 0, 0 0.1, 0.1 0.1, 0.1 0, 0 0)))"),
    (132, "JFK <Airport>", "Queens", "Airports", "MULTIPOLYGON (((0.1 0, 0.1 0.1, 0.2 0.1, 0.2 0, 0.1 0)))"),
    (264, "NV", "Unknown", "N/A", None),
]
Rows = list[list[Any]]


def days() -> Iterator[tuple[str, date, int]]:
    """Service, day and trips of the day."""
    for factor, service in enumerate(SERVICES, start=1):
        for number in range((date(2023, 3, 1) - STRAY).days):
            yield service, STRAY + timedelta(days=number), factor * (number % 7 + 1)


def trips(service: str, month: date) -> int:
    return sum(trips for found, day, trips in days() if found == service and day.replace(day=1) == month)


def marts(source: str = "http://127.0.0.1:3001/sample") -> dict[str, tuple[list[str], Rows]]:
    """Columns and rows of each table that the report reads."""
    weeks: dict[tuple[str, date], int] = {}
    hours: dict[tuple[str, int, datetime], int] = {}
    for service, day, count in days():
        monday = day - timedelta(days=day.weekday())
        weeks[service, monday] = weeks.get((service, monday), 0) + count
        hours[service, 4, datetime(day.year, day.month, day.day, 17)] = count
    pickups = [(month, service) for month in (STRAY.replace(day=1), *MONTHS) for service in SERVICES]
    files = [(month, service) for month in MONTHS for service in SERVICES]
    return {
        "marts.trips_by_week": (
            ["service", "week", "trips"],
            [[service, monday, count] for (service, monday), count in weeks.items()],
        ),
        "marts.zone_hourly_demand": (
            ["service", "zone_id", "pickup_hour", "zone", "borough", "trips"],
            [[*key, "Alphabet City", "Manhattan", count] for key, count in hours.items()],
        ),
        "marts.fare_economics": (
            ["service", "month", "payment", "trips", "duration_seconds", "fare_amount", "tip_amount", "total_amount"],
            [
                [
                    service,
                    month,
                    payment,
                    count,
                    60,
                    10.1 * count,
                    2.2 * count if payment == "card" else 0,
                    14.3 * count,
                ]
                for month, service in pickups
                for payment, count in (("card", trips(service, month) - 1), ("cash", 1))
            ],
        ),
        "marts.fares_by_distance": (
            [
                *("service", "month", "distance_band", "from_miles", "trips", "fare_amount"),
                *("card_trips", "card_fare_amount", "card_tip_amount"),
            ],
            [
                [service, month, band, miles, count, 10.1 * count, count, 10.1 * count, 2.2 * count]
                for month, service in pickups
                for band, miles, count in (("1 to 2", 1.0, trips(service, month) - 1), ("none recorded", None, 1))
            ],
        ),
        "marts.airport_trips": (
            ["service", "day", "airport", "direction", "trips", "duration_seconds", "fare_amount"],
            [
                [service, day, "JFK Airport", way, 2, 5000, None if way == "to" else 130.0]
                for service, day, _ in days()
                for way in ("from", "to")
            ],
        ),
        "marts.load_quality": (
            ["service", "file_month", "outcome", "row_count", "loaded_at"],
            [
                [service, month, outcome, count, LOADED_AT]
                for month, service in files
                for outcome, count in (("kept", trips(service, month)), ("no_duration", 7), ("unknown_zone", 3))
            ],
        ),
        "raw.taxi_zones": (
            ["zone_id", "zone", "borough", "service_zone", "geometry_wkt"],
            [list(row) for row in ZONES],
        ),
        "raw.taxi_trips_loads": (
            [
                *("service", "file_month", "loaded_at", "rows_read", "rows_kept", "rows_quarantined"),
                *("source_url", "sha256", "contract_version"),
            ],
            [
                [
                    service,
                    month,
                    LOADED_AT,
                    trips(service, month) + 10,
                    trips(service, month),
                    10,
                    f"{source}/trip-data/{service}_{month:%Y-%m}.parquet",
                    "0",
                    "1",
                ]
                for month, service in files
            ],
        ),
    }


def fill(folder: Path, tables: dict[str, tuple[list[str], Rows]]) -> Warehouse:
    """Both lakes with these rows, as their owners write them."""
    analytics = lake_in(folder, "analytics", reads=["ingestion"])
    owners = {"analytics": analytics, "ingestion": lake_in(folder, "ingestion")}
    for table in sorted(tables, key=lambda name: contract(name).owner, reverse=True):
        columns, rows = tables[table]
        with owners[contract(table).owner].write(contract(table)) as connection:
            connection.execute(f"DELETE FROM {table}")
            insert(connection, table, columns, rows)
    return analytics


@contextmanager
def transaction(warehouse: Warehouse) -> Iterator[duckdb.DuckDBPyConnection]:
    with warehouse.read() as connection:
        connection.execute("BEGIN")
        build.open_sources(connection)
        yield connection
        connection.execute("COMMIT")


def built(warehouse: Warehouse) -> str:
    with transaction(warehouse) as connection:
        return build.page(build.datasets(connection), build.shapes(connection), MADE_AT)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return fill(tmp_path_factory.mktemp("lakes"), marts())


@pytest.fixture(scope="module")
def page(filled: Warehouse) -> str:
    return built(filled)


@pytest.fixture(scope="module")
def looked_at(filled: Warehouse) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to look at pages with."""
    with transaction(filled) as connection:
        yield connection


class Scripts(HTMLParser):
    """What stands in the page's scripts, and in the rest of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.words = ""
        self._id: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._id = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is None:
            self.words += data
        else:
            self.scripts[self._id] = self.scripts.get(self._id, "") + data


def embedded(page: str, name: str = "data") -> Any:  # noqa: ANN401
    return json.loads(Scripts(page).scripts[name])


def changed(page: str, name: str, change: Any) -> str:  # noqa: ANN401
    """The page after `change` was done to what is embedded as `name`."""
    text = Scripts(page).scripts[name]
    value = json.loads(text)
    change(value)
    assert page.count(text) == 1
    return page.replace(text, json.dumps(value))


# -- what the page says ---------------------------------------------------------------------------


def test_trips_of_the_loaded_months_are_those_of_the_marts(page: str) -> None:
    data = embedded(page)
    assert list(zip(data["loaded"]["service"], data["loaded"]["month"], strict=True)) == [
        (service, f"{month:%Y-%m}") for service in SERVICES for month in MONTHS
    ]
    expected = {(service, f"{month:%Y-%m}"): trips(service, month) for service in SERVICES for month in MONTHS}
    for dataset in ("payments", "distances"):
        found: dict[tuple[str, str], int] = {}
        columns = data[dataset]
        for service, month, count in zip(columns["service"], columns["month"], columns["trips"], strict=True):
            found[service, month] = found.get((service, month), 0) + count
        assert found == expected
    for dataset in ("hours", "pickups"):
        columns = data[dataset]
        found = {
            (service, month): sum(counts)
            for service, month, counts in zip(columns["service"], columns["month"], columns["trips"], strict=True)
        }
        assert found == expected
    assert {len(counts) for counts in data["hours"]["trips"]} == {168}


def test_an_hour_of_the_week_holds_its_own_trips(page: str) -> None:
    hours = embedded(page)["hours"]
    counts = dict(zip(zip(hours["service"], hours["month"], strict=True), hours["trips"], strict=True))
    wednesdays = sum(
        count for service, day, count in days() if service == "green" and f"{day:%Y-%m %a}" == "2023-02 Wed"
    )
    assert counts["green", "2023-02"][2 * 24 + 17] == wednesdays > 0
    assert counts["green", "2023-02"][2 * 24 + 18] == 0


def test_only_weeks_whose_months_are_loaded_are_shown(page: str) -> None:
    weeks = embedded(page)["weeks"]
    # From 2 January to 26 February; the week of 27 February ends in March, that of 26 December began before.
    expected = [str(date(2023, 1, 2) + timedelta(weeks=week)) for week in range(8)]
    assert weeks["week"] == expected * 2
    assert weeks["trips"] == [28] * 8 + [56] * 8


def test_sums_of_airports_and_files(page: str) -> None:
    data = embedded(page)
    airports = data["airports"]
    assert sum(airports["trips"]) == 2 * 2 * len(SERVICES) * (31 + 28)
    assert set(airports["fare_amount"]) == {0, 130.0 * 31, 130.0 * 28}
    assert sum(data["quality"]["row_count"]) == sum(
        trips(service, month) + 10 for service in SERVICES for month in MONTHS
    )


def test_freshness_tells_newest_file_load_and_pickup(page: str) -> None:
    assert embedded(page)["freshness"] == {
        "service": ["green", "yellow"],
        "newest_file": ["2023-02"] * 2,
        "loaded_at": ["2023-05-05T05:07"] * 2,
        "newest_pickup": ["2023-02-28T17:00"] * 2,
    }


def test_source_and_time_are_told(page: str) -> None:
    words = Scripts(page).words
    assert "http://127.0.0.1:3001/sample" in words
    assert "22 November 2026, 09:05 UTC" in words
    assert "Made-up sample data" in words
    assert "Partly" not in words


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        (["https://tlc.example"], ""),
        (["https://tlc.example/sampled"], ""),
        (["http://127.0.0.1:3001/sample", "https://tlc.example"], "Partly made-up sample data"),
    ],
)
def test_only_made_up_data_are_called_so(addresses: list[str], says: str) -> None:
    data = {name: {"month": ["2023-01"], "address": addresses} for name in build.DATASETS}
    words = Scripts(build.page(data, [], MADE_AT)).words
    assert ("made-up sample data" in words.lower()) == bool(says)
    assert says in words


def test_only_the_newest_months_are_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NEWEST_MONTHS", 1)
    monkeypatch.setattr(check, "NEWEST_MONTHS", 1)
    warehouse = fill(tmp_path, marts())
    page = built(warehouse)
    assert set(embedded(page)["loaded"]["month"]) == {"2023-02"}
    assert set(embedded(page)["payments"]["month"]) == {"2023-02"}
    with transaction(warehouse) as connection:
        assert problems(page, connection) == []


def test_names_of_zones_cannot_end_the_script_they_stand_in(page: str) -> None:
    assert "<Airport>" not in page
    assert embedded(page, "shapes")[1]["properties"]["zone"] == "JFK <Airport>"


# -- what the check finds -------------------------------------------------------------------------


def test_a_good_page_has_no_problems(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    assert problems(page, looked_at) == []


def test_each_wrong_number_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    def tamper(data: dict[str, Any]) -> None:
        data["payments"]["trips"][0] += 1
        data["payments"]["total_amount"][-1] -= 0.05
        data["distances"]["card_tip_amount"][0] += 1
        data["airports"]["trips"][0] += 1
        data["weeks"]["trips"][1] *= 2
        # Moved to the hour, and to the zone, before: the sums stay the same.
        data["hours"]["trips"][0].append(data["hours"]["trips"][0].pop(0))
        data["pickups"]["trips"][0].append(data["pickups"]["trips"][0].pop(0))

    found = problems(changed(page, "data", tamper), looked_at)
    assert [problem.what.split(" (")[0] for problem in found] == [
        "trips of fare_economics: green, 2023-01, card",
        "total_amount of fare_economics: yellow, 2023-02, cash",
        "card_tip_amount of fares_by_distance: green, 2023-01, 1 to 2",
        "trips of airport_trips: green, 2023-01, JFK Airport, from",
        "pickups by hour of the week: green, 2023-01, 1 16",
        "pickups by zone: green, 2023-01, 264",
        "trips by week: green, 2023-01-09",
    ]
    assert (found[0].expected, found[0].observed) == (
        f"{trips('green', MONTHS[0]) - 1}",
        f"{trips('green', MONTHS[0])}",
    )
    assert (found[-1].expected, found[-1].observed) == ("28", "56")


def test_rows_kept_as_quarantined_are_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    def swap(data: dict[str, Any]) -> None:
        data["quality"]["outcome"][:2] = reversed(data["quality"]["outcome"][:2])

    (problem,) = problems(changed(page, "data", swap), looked_at)
    assert problem.what == "row_count of load_quality: green, 2023-01, kept (1 more differ)"
    assert (problem.expected, problem.observed) == (f"{trips('green', MONTHS[0])}", "7")


def test_amounts_under_the_wrong_payment_are_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    def swap(data: dict[str, Any]) -> None:
        data["payments"]["payment"][:2] = reversed(data["payments"]["payment"][:2])

    found = problems(changed(page, "data", swap), looked_at)
    assert [problem.what.split(":")[0] for problem in found] == [
        f"{column} of fare_economics" for column in ("trips", "fare_amount", "tip_amount", "total_amount")
    ]


def test_a_month_that_is_loaded_and_not_in_the_marts_yet_is_not_on_the_page(tmp_path: Path) -> None:
    tables = marts()
    for name in ("marts.load_quality", "raw.taxi_trips_loads"):
        columns, rows = tables[name]
        march = [[date(2023, 3, 1) if value == MONTHS[1] else value for value in row] for row in rows]
        rows += [row for row in march if date(2023, 3, 1) in row]
    # The few trips that came with February's file.
    columns, rows = tables["marts.fare_economics"]
    tables["marts.fare_economics"] = columns, [*rows, *[["green", date(2023, 3, 1), "card", 3, 60, 30.0, 0, 40.0]]]
    page = built(fill(tmp_path, tables))
    assert set(embedded(page, "data")["loaded"]["month"]) == {"2023-01", "2023-02"}


def test_a_warehouse_without_card_payments_and_distances_has_a_report(tmp_path: Path) -> None:
    tables = marts()
    columns, rows = tables["marts.fares_by_distance"]
    none = [[*row[:2], "none recorded", None, *row[4:6], 0, None, None] for row in rows if row[3] is None]
    tables["marts.fares_by_distance"] = columns, none
    with transaction(fill(tmp_path, tables)) as connection:
        page = build.page(build.datasets(connection), build.shapes(connection), MADE_AT)
        assert problems(page, connection) == []


def test_a_month_that_is_missing_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    def forget(data: dict[str, Any]) -> None:
        for columns in data.values():
            kept = [row for row, month in enumerate(columns.get("month", [])) if month != "2023-02"]
            if "month" in columns:
                columns.update({name: [values[row] for row in kept] for name, values in columns.items()})

    found = problems(changed(page, "data", forget), looked_at)
    assert Problem("months: green, 2023-02 (1 more differ)", "1", "0") in found


def test_a_chart_that_is_missing_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    without_place = page.replace('id="hour_of_week"', 'id="elsewhere"')
    assert [problem.what for problem in problems(without_place, looked_at)] == ["hour_of_week"]
    without_chart = changed(page, "charts", lambda charts: charts.pop("zone_map"))
    assert [problem.what for problem in problems(without_chart, looked_at)] == ["zone_map"]


def test_a_chart_that_draws_nothing_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    broken = changed(page, "charts", lambda charts: charts["fares_by_payment"].update(data={"name": "nobody"}))
    (problem,) = problems(broken, looked_at)
    assert (problem.what, problem.observed) == ("fares_by_payment", "0 marks")


def test_what_would_be_fetched_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    for where, instead in (
        ("default-src 'none'", "default-src *"),
        ('<link rel="icon" href="data:,">', '<link rel="icon" href="/favicon.ico">'),
        ("</main>", '<img src="https://example.org/pixel.png"></main>'),
        ("</main>", '<script src="//example.org/vega.js"></script></main>'),
        ("</main>", '<p style="background: url(https://example.org/a.png)"></p></main>'),
        ("<style>", "<style>@import 'https://example.org/fonts.css';"),
        ("<style>", "<style>body { background: url('picture.png'); }"),
        ("'use strict';", "'use strict'; fetch('numbers.json');"),
    ):
        assert where in page
        page = page.replace(where, instead, 1)
    found = problems(page, looked_at)
    assert {problem.what for problem in found} == {"network"}
    observed = [problem.observed for problem in found]
    for named in ("none such", "favicon", "pixel", "vega.js", "a.png", "@import", "picture.png", "numbers.json"):
        assert any(named in words for words in observed), named
    assert len(found) == 8


def test_a_chart_with_data_from_elsewhere_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    remote = changed(page, "charts", lambda charts: charts["weekly_trend"].update(data={"url": "https://example.org"}))
    assert "network" in {problem.what for problem in problems(remote, looked_at)}


def test_a_page_too_large_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    (problem,) = problems(page + "<!-- -->" * (check.LARGEST // 8), looked_at)
    assert problem.what == "size"


def test_a_page_cut_short_is_found(page: str, looked_at: duckdb.DuckDBPyConnection) -> None:
    (problem,) = problems(page[: page.index('id="data"') + 200], looked_at)
    assert problem.what == "embedded data"


# -- the asset ------------------------------------------------------------------------------------


def made(warehouse: Warehouse, folder: Path) -> ExecuteInProcessResult:
    served = ServedFiles(folder=str(folder), base_url="http://127.0.0.1:3001/reports")
    return materialize([report], resources={"warehouse": warehouse, "served": served}, raise_on_error=False)


def test_the_report_is_served_and_says_so(filled: Warehouse, page: str, tmp_path: Path) -> None:
    result = made(filled, tmp_path)
    assert result.success
    written = (tmp_path / REPORT_FILE).read_text(encoding="utf-8")
    without_time = re.compile(r"<time.*?</time>")
    assert without_time.sub("", written) == without_time.sub("", page)
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.asset_key, evaluation.check_name, evaluation.passed) == (REPORT, CHECK, True)
    (event,) = result.asset_materializations_for_node("reports__report")
    found = {name: entry.value for name, entry in event.metadata.items()}
    assert found["link"] == "http://127.0.0.1:3001/reports/report.html"
    assert found["path"] == str(tmp_path / REPORT_FILE)
    assert found["bytes"] == (tmp_path / REPORT_FILE).stat().st_size
    assert found["months"] == "2023-01 to 2023-02"
    assert found["trips"] == sum(trips(service, month) for service in SERVICES for month in MONTHS)
    assert str(found["preview"]).startswith("![Trips per week and service")


def test_a_wrong_report_leaves_the_old_one_in_place(
    filled: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LARGEST", 1000)
    folder = tmp_path / "served"
    folder.mkdir()
    old = folder / REPORT_FILE
    old.write_text("the old one")
    result = made(filled, folder)
    assert not result.success
    assert [path.read_text() for path in folder.iterdir()] == ["the old one"]
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    (row,) = evaluation.metadata["problems"].value.records  # type: ignore[union-attr]
    assert row.data["what"] == "size"
    assert row.data["expected"] == "less than 1,000 bytes"
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failed.user_failure_data is not None
    assert f"{old} stays as it was. size: expected less than 1,000 bytes" in str(failed.user_failure_data.description)
    assert result.asset_materializations_for_node("reports__report") == []


def test_with_nothing_loaded_the_page_says_so(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, {"raw.taxi_zones": marts()["raw.taxi_zones"], "marts.load_quality": (["service"], [])})
    result = made(warehouse, tmp_path / "served")
    assert result.success
    page = (tmp_path / "served" / REPORT_FILE).read_text(encoding="utf-8")
    assert '<body class="empty">' in page
    assert "Nothing is loaded yet" in Scripts(page).words
    (event,) = result.asset_materializations_for_node("reports__report")
    assert event.metadata["months"].value == "none"
    assert event.metadata["trips"].value == 0
