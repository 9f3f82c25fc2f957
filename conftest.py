"""Fixtures and rules for the tests of every package: real TLC files, and no skips where all is installed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tlc_data() -> Path:
    """Folder of real TLC files, laid out like TLC's file server."""
    folder = os.environ.get("TLC_TEST_DATA")
    if not folder:
        pytest.skip("no real TLC files: set TLC_TEST_DATA to a folder laid out like TLC's file server")
    if not (Path(folder) / "trip-data").is_dir():
        pytest.fail(f"TLC_TEST_DATA={folder}: there is no trip-data in it")
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where the caller says that everything a test may need is installed, a skip is a failure."""
    report = yield
    if os.environ.get("TEST_WITHOUT_SKIPS") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although TEST_WITHOUT_SKIPS is set: {report.longrepr}"
    return report
