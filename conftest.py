"""Fixtures and rules for the tests of every package: real TLC files, and no skips in CI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


@pytest.fixture(scope="session")
def tlc_data() -> Path:
    """Folder of real TLC files, laid out like TLC's file server."""
    folder = Path(os.environ.get("TLC_TEST_DATA", ROOT.parent / "shared" / "data" / "tlc"))
    if not (folder / "trip-data").is_dir():
        pytest.skip(f"no real TLC files at {folder}: set TLC_TEST_DATA to a mirror of TLC's file server")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI everything a test may need is installed, so a skip there is a failure."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
