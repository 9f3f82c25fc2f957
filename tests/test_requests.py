"""Requests of analysts, as they make them: with the command, and by putting files into the folder."""

import csv
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from counting import trips_by_hour

from conftest import Platform, wait_for

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
JANUARY = (date(2023, 1, 1), date(2023, 1, 31))


def source_files(platform: Platform, service: str = "*") -> list[Path]:
    folder = platform.home / "served" / "sample" / "trip-data"
    return sorted(folder.glob(f"{service}_tripdata_2023-*.parquet"))


def expected(
    platform: Platform, borough: str, first: date, last: date, service: str = "*"
) -> list[tuple[str, int, int, int]]:
    """Weekday, hour, days and trips of every row that the numbers of a request should have."""
    zones = platform.home / "served" / "sample" / "misc" / "taxi_zone_lookup.csv"
    trips = trips_by_hour(source_files(platform, service), zones, borough, first, last)
    days = [(first + timedelta(days=number)).weekday() for number in range((last - first).days + 1)]
    assert sum(trips.values()) > 0
    return [
        (WEEKDAYS[weekday], hour, days.count(weekday), trips.get((weekday, hour), 0))
        for weekday in sorted(set(days))
        for hour in range(24)
    ]


def numbers(platform: Platform, name: str) -> list[tuple[str, int, int, int]]:
    """The rows of a result; each one's average is that of its trips and days."""
    with (platform.home / "served" / "reports" / "requests" / f"{name}.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for row in rows:
        assert float(row["trips_per_hour"]) == pytest.approx(int(row["trips"]) / int(row["days"]))
    return [(row["weekday"], int(row["hour"]), int(row["days"]), int(row["trips"])) for row in rows]


def folder(platform: Platform) -> Path:
    return platform.home / "files" / "analytics" / "requests"


def put(platform: Platform, name: str, **fields: str) -> Path:
    """Put a file into the folder, whole."""
    file = folder(platform) / f"{name}.json"
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(fields))
    return draft.replace(file)


def runs(platform: Platform, name: str) -> list[str]:
    """Status of every run of a request, newest first."""
    found = platform.graphql(
        """query ($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) {
            ... on Runs { results { status jobName } } } }""",
        tags=[{"key": "request", "value": name}],
    )["runsOrError"]["results"]
    assert {run["jobName"] for run in found} <= {"adhoc_request_job"}
    return [run["status"] for run in found]


def verdict(platform: Platform) -> tuple[bool, dict[str, str]]:
    """Whether the check passes now, and the files it names with their problems."""
    (newest,) = platform.graphql(
        """query ($key: AssetKeyInput!) {
            assetCheckExecutions(assetKey: $key, checkName: "requests_are_valid", limit: 1) {
                status evaluation { success metadataEntries { label
                    ... on TableMetadataEntry { table { records } } } } } }""",
        key={"path": ["reports", "adhoc_request"]},
    )["assetCheckExecutions"]
    success: bool = newest["evaluation"]["success"]
    assert newest["status"] == ("SUCCEEDED" if success else "FAILED")
    (table,) = [entry["table"] for entry in newest["evaluation"]["metadataEntries"] if entry["label"] == "problems"]
    records: list[dict[str, Any]] = [json.loads(record) for record in table["records"]]
    return success, {record["file"]: record["problem"] for record in records}


def ask(platform: Platform, *arguments: str, period: tuple[date, date] = JANUARY) -> str:
    first, last = period
    asked = platform.codeloc("request", "--from", f"{first}", "--to", f"{last}", *arguments)
    assert asked.returncode == 0, f"{asked.stdout}\n{asked.stderr}"
    return asked.stdout


def test_the_command_makes_a_chart_with_the_numbers_of_the_source(sample: Platform) -> None:
    printed = ask(sample, "--borough", "Manhattan")
    name = "manhattan-2023-01-01-2023-01-31"
    right = expected(sample, "Manhattan", *JANUARY)
    assert numbers(sample, name) == right
    assert f"{sum(trips for *_, trips in right):,} trips; loaded is the whole period." in printed
    assert str(sample.home / "served" / "reports" / "requests" / f"{name}.png") in printed
    (link,) = [word for word in printed.split() if word.startswith("http") and word.endswith(f"/{name}.png")]
    assert httpx.get(link, trust_env=False).content.startswith(b"\x89PNG\r\n\x1a\n")
    assert f"{sample.url}/runs/" in printed
    assert runs(sample, name) == ["SUCCESS"]


def test_the_same_request_again_makes_the_chart_anew(sample: Platform) -> None:
    arguments = ("--borough", "Queens", "--service", "green", "--name", "again")
    ask(sample, *arguments)
    chart = sample.home / "served" / "reports" / "requests" / "again.png"
    before = chart.stat().st_mtime_ns
    ask(sample, *arguments)
    assert chart.stat().st_mtime_ns > before
    assert runs(sample, "again") == ["SUCCESS", "SUCCESS"]
    assert numbers(sample, "again") == expected(sample, "Queens", *JANUARY, "green")


def test_a_request_of_the_same_name_takes_its_place_each_time(sample: Platform) -> None:
    for turn, borough in enumerate(("Brooklyn", "Bronx", "Brooklyn"), start=1):
        ask(sample, "--borough", borough, "--name", "turns")
        assert numbers(sample, "turns") == expected(sample, borough, *JANUARY)
        assert runs(sample, "turns") == ["SUCCESS"] * turn


def test_a_request_that_is_refused_says_why_and_leaves_nothing(sample: Platform) -> None:
    refused = sample.codeloc("request", "--borough", "Hoboken", "--from", "2023-01-01", "--to", "2023-01-31")
    assert refused.returncode == 1
    assert "the request was refused: borough: must be 'Manhattan', 'Brooklyn'" in refused.stderr
    assert list(folder(sample).glob("hoboken*")) == []
    wait_for(lambda: verdict(sample) == (True, {}), "the check to pass again", 60)


def test_a_period_without_trips_says_what_is_loaded(sample: Platform) -> None:
    refused = sample.codeloc("request", "--borough", "Queens", "--from", "2019-05-01", "--to", "2019-05-31")
    assert refused.returncode == 1
    assert "there are no trips in Queens from 2019-05-01 to 2019-05-31." in refused.stderr
    assert "Loaded are green 2023-01 to 2023-03, yellow 2023-01 to 2023-03." in refused.stderr
    assert f"{sample.url}/runs/" in refused.stderr


def test_a_name_that_leads_out_of_the_folder_is_refused(sample: Platform) -> None:
    before = sorted(sample.home.rglob("escaped*"))
    refused = sample.codeloc(
        "request", "--borough", "Queens", "--from", "2023-01-01", "--to", "2023-01-31", "--name", "../escaped"
    )
    assert refused.returncode == 1
    assert "--name ../escaped: must be" in refused.stderr
    assert sorted(sample.home.rglob("escaped*")) == before


def test_a_bad_file_is_reported_until_it_is_mended_and_good_ones_run_meanwhile(sample: Platform) -> None:
    bad = {"borough": "Queens", "from": "2023-02-01", "to": "2023-01-31"}
    put(sample, "a-bad", **bad)
    put(sample, "good", borough="Queens", **{"from": "2023-02-06", "to": "2023-03-05"})
    wait_for(lambda: verdict(sample)[0] is False, "the check to fail", 60)
    assert verdict(sample)[1] == {"a-bad.json": "from: 2023-02-01 is after to, 2023-01-31"}
    wait_for(lambda: runs(sample, "good") == ["SUCCESS"], "the good one to run", 120)
    assert numbers(sample, "good") == expected(sample, "Queens", date(2023, 2, 6), date(2023, 3, 5))
    assert runs(sample, "a-bad") == []

    put(sample, "a-bad", **(bad | {"to": "2023-02-28"}))
    wait_for(lambda: verdict(sample) == (True, {}), "the check to pass again", 60)
    wait_for(lambda: runs(sample, "a-bad") == ["SUCCESS"], "the mended one to run", 120)
    assert numbers(sample, "a-bad") == expected(sample, "Queens", date(2023, 2, 1), date(2023, 2, 28))

    put(sample, "a-bad", **(bad | {"to": "2023-02-14"}))
    wait_for(lambda: runs(sample, "a-bad") == ["SUCCESS"] * 2, "the edited one to run", 120)
    assert numbers(sample, "a-bad") == expected(sample, "Queens", date(2023, 2, 1), date(2023, 2, 14))
    assert runs(sample, "good") == ["SUCCESS"]


def test_with_the_sensor_turned_off_the_command_says_so(sample: Platform) -> None:
    with sample.turned_off("adhoc_request_sensor"):
        refused = sample.codeloc("request", "--borough", "Bronx", "--from", "2023-01-01", "--to", "2023-01-02")
    assert refused.returncode == 1
    assert "adhoc_request_sensor, which follows requests, is turned off" in refused.stderr
    assert list(folder(sample).glob("bronx*")) == []


def test_a_platform_that_is_down_is_said_to_be(tmp_path: Path) -> None:
    asked = Platform(tmp_path / "home", 1).codeloc(
        "request", "--borough", "Bronx", "--from", "2023-01-01", "--to", "2023-01-02"
    )
    assert asked.returncode == 1
    assert "the platform is down: ./codeloc up --home" in asked.stderr
    assert not (tmp_path / "home").exists()
