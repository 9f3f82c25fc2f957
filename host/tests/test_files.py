"""The file server's own answers; what it serves is tested with the platform."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """Speaks to the server as the platform runs it, on a folder of the test's own."""
    serve = [sys.executable, "-m", "uvicorn", "codeloc.files:app", "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(
        serve, env=os.environ | {"CODELOC_SERVED": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    # It chooses a free port and says which.
    address = next(line.split()[4] for line in server.stderr if "running on" in line)
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as found:
        yield found
    server.terminate()
    server.communicate(timeout=30)


def test_the_bare_address_leads_to_the_report(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/reports/report.html")


def test_before_there_is_a_report_it_is_said_what_makes_it(client: httpx.Client, tmp_path: Path) -> None:
    answer = client.get("/reports/report.html")
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "made as soon as trips are loaded" in answer.text
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "report.html").write_text("<title>here</title>")
    answer = client.get("/reports/report.html")
    assert (answer.status_code, answer.text) == (200, "<title>here</title>")
    assert answer.headers["content-type"].startswith("text/html")


def test_nothing_else_is_promised_and_nothing_outside_is_served(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path.parent / "secret").write_text("of nobody's concern")
    for path in ("/reports/other.html", "/../secret", "/%2e%2e/secret", "/reports/..%2f..%2fsecret"):
        answer = client.get(path)
        assert (answer.status_code, answer.text) == (404, "Not Found")
