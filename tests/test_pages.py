"""The UI in a real browser: both locations loaded, the asset graph drawn."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from conftest import Platform

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page wide enough for the whole graph."""
    found = browser.new_page(viewport={"width": 1700, "height": 1500}, color_scheme="light")
    found.set_default_timeout(60_000)
    yield found
    found.close()


def test_both_locations_are_shown_as_loaded(sample: Platform, page: Page) -> None:
    page.goto(f"{sample.url}/locations")
    for location in ("ingestion", "analytics"):
        expect(page.get_by_text(location, exact=True).first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Loaded", exact=True)).to_have_count(2, timeout=60_000)


GROUPS = "%2C".join(f"global%40global%3A{group}" for group in ("landing", "raw", "marts"))


def test_the_asset_graph_is_drawn_across_the_locations(sample: Platform, page: Page, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{sample.url}/asset-groups?expanded={GROUPS}")
    graph = page.locator("foreignObject")
    # The picture in README is this one.
    page.get_by_role("button", name="panel_show_right").last.click()
    for asset in ("taxi_trips_file", "taxi_trips", "taxi_trips_loads", "taxi_zones", "trips_by_week", "airport_trips"):
        expect(graph.get_by_text(asset, exact=True).first).to_be_visible(timeout=60_000)
    # Groups of nodes, and the arrows between them; those into marts cross the locations.
    expect(page.locator("svg path[marker-end]")).not_to_have_count(0)
    # What each asset last did comes after the graph, in several answers.
    expect(graph.get_by_text("Loading...")).to_have_count(0, timeout=60_000)
    page.screenshot(path=tmp_path / "asset-graph.png")
    assert errors == []


def test_the_map_is_a_picture_in_the_ui(sample: Platform, page: Page) -> None:
    page.goto(f"{sample.url}/assets/reports/manhattan_map")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/png;base64,']")
    expect(picture).to_be_visible(timeout=60_000)
    assert picture.evaluate("image => image.naturalWidth") > 400


def test_a_mart_tells_its_rows_its_columns_sources_and_the_report(sample: Platform, page: Page) -> None:
    page.goto(f"{sample.url}/assets/marts/airport_trips")
    for text in (
        "dagster/partition_row_count",
        "columns_made_from",
        "raw/taxi_trips.dropoff_at, raw/taxi_trips.pickup_at",
    ):
        expect(page.get_by_text(text, exact=True).first).to_be_visible(timeout=60_000)
    expect(page.get_by_role("link", name=f"{sample.files_url}/reports/report.html").first).to_be_visible()
