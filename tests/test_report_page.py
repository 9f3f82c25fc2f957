"""The report as its reader has it: opened from its address and from the file, and its choices tried."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from counting import average_pickups, pickups_by_zone, totals
from playwright.sync_api import Browser, Page, expect

from conftest import Platform

pytestmark = pytest.mark.browser

MONTHS = ("2023-01", "2023-02", "2023-03")
BOTH = ("yellow", "green")
CHARTS = (
    "weekly_trend",
    "zone_map",
    "hour_of_week",
    "airport_trips",
    "fares_by_payment",
    "fares_by_distance",
    "tips_by_distance",
    "quarantine_share",
    "quarantine_reasons",
)


@dataclass
class Opened:
    """The report in a browser, with all that it asked for and complained about."""

    page: Page
    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, fragment: str = "") -> "Opened":
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.goto(self.address + fragment)
        self.drawn()
        return self

    def drawn(self) -> None:
        expect(self.page.locator("body")).to_have_attribute("aria-busy", "false", timeout=60_000)

    def choose(self, **choices: str) -> None:
        """Set the controls named by their labels; a service by its own."""
        for label, choice in choices.items():
            if label == "Service":
                self.page.get_by_label(choice, exact=True).check(force=True)
            else:
                self.page.get_by_label(label, exact=True).select_option(label=choice)
            self.drawn()

    def tile(self, name: str) -> float:
        return float(self.page.locator(f"#tile-{name} data").get_attribute("value") or "nan")

    def marks(self, chart: str) -> int:
        return self.page.locator(f"#{chart} svg .role-mark > *").count()

    def busiest(self) -> list[tuple[str, int]]:
        """Zone and pickups of each line of the list."""
        lines = self.page.locator("#busiest li").all()
        return [
            (
                line.locator(".zone").inner_text(),
                int(line.locator(".trips").inner_text().split()[0].replace(",", "")),
            )
            for line in lines
        ]


Open = Callable[..., Opened]


@pytest.fixture
def served(sample: Platform) -> str:
    """The report's address."""
    sample.quiet()
    port = json.loads((sample.home / "state.json").read_text())["ports"]["files"]
    return f"http://127.0.0.1:{port}/reports/report.html"


@pytest.fixture
def report_file(sample: Platform) -> str:
    """The address of the report's file, as somebody has it who was sent it."""
    return (sample.home / "served" / "reports" / "report.html").as_uri()


@pytest.fixture
def open_report(browser: Browser) -> Iterator[Open]:
    pages: list[Page] = []

    def opened(address: str, fragment: str = "", width: int = 1440, scheme: str = "light") -> Opened:
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
        )
        pages.append(page)
        return Opened(page, address).go(fragment)

    yield opened
    for page in pages:
        page.close()


def source_files(platform: Platform, services: Sequence[str] = BOTH) -> list[Path]:
    folder = platform.home / "served" / "sample" / "trip-data"
    return [folder / f"{service}_tripdata_{month}.parquet" for service in services for month in MONTHS]


def lookup(platform: Platform) -> Path:
    return platform.home / "served" / "sample" / "misc" / "taxi_zone_lookup.csv"


def assert_tiles(report: Opened, platform: Platform, services: Sequence[str], months: Sequence[str]) -> None:
    """The tiles are what plain DuckDB makes of the source files."""
    expected = totals(source_files(platform, services), months)
    assert expected.trips > 0
    assert report.tile("trips") == expected.trips
    assert report.tile("charged") == pytest.approx(expected.charged, abs=0.01)
    assert report.tile("fare") == pytest.approx(expected.fares / expected.trips, abs=0.0001)
    assert report.tile("tip") == pytest.approx(expected.card_tips / expected.card_fares, abs=1e-6)
    assert report.tile("airport") == pytest.approx(expected.airport_ends / expected.trips, abs=1e-9)
    assert report.tile("quarantined") == pytest.approx(expected.quarantined / expected.rows, abs=1e-9)


@pytest.mark.parametrize("place", ["served", "report_file"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_with_every_chart_and_fetches_nothing(
    request: pytest.FixtureRequest, sample: Platform, open_report: Open, place: str, width: int, scheme: str
) -> None:
    address = request.getfixturevalue("served" if place == "served" else "report_file")
    report = open_report(address, width=width, scheme=scheme)
    assert {chart: report.marks(chart) > 0 for chart in CHARTS} == dict.fromkeys(CHARTS, True)
    assert report.page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert [url for url in report.requests if not url.startswith("data:")] == [address]
    assert report.complaints == []
    brightness = report.page.evaluate(
        "Math.max(...getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number))"
    )
    assert (brightness < 60) == (scheme == "dark")
    assert_tiles(report, sample, BOTH, MONTHS)


def test_it_says_that_the_sample_is_made_up_and_where_it_came_from(
    sample: Platform, served: str, open_report: Open
) -> None:
    page = open_report(served).page
    expect(page.locator(".masthead")).to_contain_text("Made-up sample data")
    expect(page.locator("#sources")).to_have_text(served.replace("/reports/report.html", "/sample"))


def test_tiles_follow_service_and_months(sample: Platform, served: str, open_report: Open) -> None:
    report = open_report(served)
    report.choose(Service="Green")
    assert_tiles(report, sample, ["green"], MONTHS)
    report.choose(From="February 2023")
    assert_tiles(report, sample, ["green"], MONTHS[1:])
    report.choose(To="February 2023", Service="Yellow")
    assert_tiles(report, sample, ["yellow"], MONTHS[1:2])
    # The first month after the last one chosen: that month alone.
    report.choose(From="March 2023")
    assert_tiles(report, sample, ["yellow"], MONTHS[2:])
    expect(report.page.get_by_label("To", exact=True)).to_have_value("2023-03")
    assert {chart: report.marks(chart) > 0 for chart in CHARTS} == dict.fromkeys(CHARTS, True)
    assert report.complaints == []


def test_charts_follow_service_and_months(sample: Platform, served: str, open_report: Open) -> None:
    report = open_report(served)
    for services, months, choices in (
        (BOTH, MONTHS, {}),
        (("green",), MONTHS[:2], {"To": "February 2023", "Service": "Green"}),
    ):
        report.choose(**choices)
        expected = average_pickups(source_files(sample, services), months, weekday=4, hour=18)
        hour = report.page.locator('#hour_of_week [aria-label*="weekday: Fri"][aria-label*="time: 18:00"]')
        expect(hour).to_have_count(1)
        label = str(hour.get_attribute("aria-label"))
        assert f"pickups on average: {expected:,.1f}" in label


def test_a_borough_zooms_the_map_and_lists_its_busiest_zones(sample: Platform, served: str, open_report: Open) -> None:
    zones = pickups_by_zone(source_files(sample), MONTHS, lookup(sample))
    by_trips = sorted((trips, zone) for borough in zones.values() for zone, trips in borough.items())
    report = open_report(served)
    assert [trips for _, trips in report.busiest()] == [trips for trips, _ in reversed(by_trips[-10:])]
    whole_city = report.page.locator("#zone_map [aria-roledescription=geoshape]").count()
    report.choose(Borough="Queens")
    listed = report.busiest()
    assert [trips for _, trips in listed] == sorted(zones["Queens"].values(), reverse=True)[:10]
    assert all(zones["Queens"][zone] == trips for zone, trips in listed)
    assert 0 < report.page.locator("#zone_map [aria-roledescription=geoshape]").count() < whole_city
    report.page.locator('#zone_map [aria-label*="zone: JFK Airport"]').hover()
    tooltip = report.page.locator("#vg-tooltip-element")
    expect(tooltip).to_contain_text("JFK Airport")
    expect(tooltip).to_contain_text(f"{zones['Queens']['JFK Airport']:,}")


def test_a_choice_without_data_says_so(sample: Platform, served: str, open_report: Open) -> None:
    zones = pickups_by_zone(source_files(sample, ["green"]), MONTHS, lookup(sample))
    assert zones["Staten Island"] == {}
    report = open_report(served, "#service=green&borough=Staten+Island")
    expect(report.page.locator("#zone_map")).to_have_text("No pickups in this selection.")
    expect(report.page.locator("#zone_map svg")).to_have_count(0)
    report.choose(Borough="Manhattan")
    assert report.marks("zone_map") > 0


def test_a_link_carries_the_choice(sample: Platform, served: str, open_report: Open) -> None:
    first = open_report(served)
    first.choose(From="February 2023", Service="Yellow", Borough="Brooklyn")
    fragment = "#" + first.page.url.partition("#")[2]
    second = open_report(served, fragment)
    assert_tiles(second, sample, ["yellow"], MONTHS[1:])
    assert second.busiest() == first.busiest()
    expect(second.page.get_by_label("Borough", exact=True)).to_have_value("Brooklyn")
    # What a link cannot mean is left out.
    third = open_report(served, "#from=1999-01&service=blue&borough=Atlantis")
    assert_tiles(third, sample, BOTH, MONTHS)
    assert third.complaints == []


def test_the_button_turns_light_into_dark(served: str, open_report: Open) -> None:
    report = open_report(served)
    axis = report.page.locator("#weekly_trend svg .role-axis-title text").first
    before = axis.get_attribute("fill")
    report.page.get_by_role("button", name="Light or dark page").click()
    report.drawn()
    assert axis.get_attribute("fill") != before
    assert {chart: report.marks(chart) > 0 for chart in CHARTS} == dict.fromkeys(CHARTS, True)
    assert report.complaints == []
