"""The UI in a real browser: both locations loaded, the asset graph drawn."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from conftest import Platform

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page 1440 px wide in whichever Chromium the machine has."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        found = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
        found.set_default_timeout(60_000)
        yield found
        browser.close()


def test_both_locations_are_shown_as_loaded(sample: Platform, page: Page) -> None:
    page.goto(f"{sample.url}/locations")
    for location in ("ingestion", "analytics"):
        expect(page.get_by_text(location, exact=True).first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Loaded", exact=True)).to_have_count(2, timeout=60_000)


def test_the_asset_graph_is_drawn_across_the_locations(sample: Platform, page: Page, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{sample.url}/asset-groups")
    for asset in ("taxi_trips_file", "taxi_trips", "taxi_zones", "trips_by_week", "zone_hourly_demand"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible(timeout=60_000)
    page.screenshot(path=tmp_path / "asset-graph.png")
    assert errors == []
