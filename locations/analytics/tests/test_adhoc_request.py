"""Ad-hoc requests as Dagster follows them: the chart's numbers, the sensor's memory, the check's verdict."""

import csv
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from analytics.definitions import defs
from analytics.defs.marts import load_quality, zone_hourly_demand
from analytics.defs.requests import (
    MOST_REQUESTS,
    AdhocRequestConfig,
    RequestFolder,
    adhoc_request,
    adhoc_request_sensor,
    requests_are_valid,
)
from analytics.served import ServedFiles
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetsDefinition,
    DagsterInstance,
    DefaultSensorStatus,
    ExecuteInProcessResult,
    RunConfig,
    RunRequest,
    build_sensor_context,
    materialize,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData
from taxi_shared.warehouse import Warehouse

from conftest import ZONES, Trip, empty_bi_database, failure, insert, lake_in, load_months, metadata

PNG = b"\x89PNG\r\n\x1a\n"
BOROUGHS = {4: "Manhattan", 236: "Manhattan", 7: "Queens", 44: "Staten Island", 264: "Unknown"}
LOADED = ["2023-01-01|green", "2023-01-01|yellow", "2023-02-01|yellow", "2023-04-01|yellow"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def made_up(seed: int) -> dict[str, list[Trip]]:
    """Trips of each loaded month, at random; none on Staten Island."""
    draw = random.Random(seed)  # noqa: S311
    months: dict[str, list[Trip]] = {}
    for key in LOADED:
        first = datetime.fromisoformat(key.split("|")[0])
        zones = [zone for zone, borough in BOROUGHS.items() if borough != "Staten Island"]
        months[key] = [
            Trip(first + timedelta(minutes=draw.randrange(28 * 24 * 60)), draw.choice(zones)) for _ in range(400)
        ]
    # As in real files: a trip of the evening before, and one of the night after.
    months["2023-01-01|yellow"].append(Trip(datetime(2022, 12, 31, 23, 59), 236))
    months["2023-04-01|yellow"].append(Trip(datetime(2023, 5, 1, 0, 10), 236))
    return months


@pytest.fixture(scope="module")
def months() -> dict[str, list[Trip]]:
    return made_up(seed=1)


@pytest.fixture(scope="module")
def mart(months: dict[str, list[Trip]], tmp_path_factory: pytest.TempPathFactory, server: str) -> Warehouse:
    """Analytics' lake with the mart of these months and the ones beside them; the tests only read it.

    Ingestion has loaded May too, which the mart of the pickups does not have yet, but for a trip that came with April.
    """
    folder = tmp_path_factory.mktemp("lakes")
    ingestion, analytics = lake_in(folder, "ingestion"), lake_in(folder, "analytics", reads=["ingestion"])
    load_months(ingestion, months)
    with ingestion.write(ZONES) as connection:
        rows = [[zone, f"Zone {zone}", borough, "Boro Zone"] for zone, borough in BOROUGHS.items()]
        insert(connection, ZONES.table, ["zone_id", "zone", "borough", "service_zone"], rows)
    with empty_bi_database(server) as bi_database:

        def build(asset: AssetsDefinition) -> None:
            built = materialize(
                [asset],
                tags={
                    "dagster/asset_partition_range_start": "2022-12-01|green",
                    "dagster/asset_partition_range_end": "2023-05-01|yellow",
                },
                resources={
                    "warehouse": analytics,
                    "bi_database": bi_database,
                    "served": ServedFiles(folder=str(folder), base_url="http://127.0.0.1/reports"),
                },
            )
            assert built.success

        build(zone_hourly_demand)
        load_months(ingestion, {"2023-05-01|yellow": [Trip(datetime(2023, 5, day)) for day in range(1, 30)]})
        build(load_quality)
    return analytics


@dataclass
class Desk:
    """Where a request's run is started and its result is found."""

    warehouse: Warehouse
    folder: Path

    def ask(self, **changes: Any) -> ExecuteInProcessResult:  # noqa: ANN401
        fields = {"name": "asked", "borough": "Manhattan", "from_day": "2023-01-01", "to_day": "2023-01-31"}
        config = AdhocRequestConfig(**(fields | changes))
        return materialize(
            [adhoc_request],
            run_config=RunConfig(ops={"reports__adhoc_request": config}),
            resources={
                "warehouse": self.warehouse,
                "served": ServedFiles(folder=str(self.folder), base_url="http://files/reports"),
            },
            raise_on_error=False,
        )

    def written(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def numbers(self, name: str = "asked") -> dict[tuple[str, int], tuple[int, int, float | None]]:
        """Days, trips and trips per hour of each weekday and hour."""
        with (self.folder / "requests" / f"{name}.csv").open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        found = {
            (row["weekday"], int(row["hour"])): (
                int(row["days"]),
                int(row["trips"]),
                float(row["trips_per_hour"]) if row["trips_per_hour"] else None,
            )
            for row in rows
        }
        assert len(found) == len(rows)
        return found


@pytest.fixture
def desk(mart: Warehouse, tmp_path: Path) -> Desk:
    return Desk(mart, tmp_path / "reports")


def each(first: date, last: date) -> Iterator[date]:
    while first <= last:
        yield first
        first += timedelta(days=1)


def by_hand(
    months: dict[str, list[Trip]],
    borough: str,
    first: date,
    last: date,
    services: tuple[str, ...] = ("green", "yellow"),
) -> dict[tuple[str, int], tuple[int, int, float | None]]:
    """The numbers, counted trip by trip: of each service over its own loaded months."""
    days = {
        service: Counter(DAYS[day.weekday()] for day in each(first, last) if f"{day:%Y-%m}-01|{service}" in LOADED)
        for service in services
    }
    trips = Counter(
        (key.split("|")[1], DAYS[trip.pickup_at.weekday()], trip.pickup_at.hour)
        for key, of_month in months.items()
        for trip in of_month
        if key.split("|")[1] in services
        and BOROUGHS[trip.pickup_zone_id] == borough
        and first <= trip.pickup_at.date() <= last
        and f"{trip.pickup_at:%Y-%m}-01|{key.split('|')[1]}" in LOADED
    )
    found: dict[tuple[str, int], tuple[int, int, float | None]] = {}
    for day in {DAYS[day.weekday()] for day in each(first, last)}:
        for hour in range(24):
            averages = [trips[service, day, hour] / days[service][day] for service in services if days[service][day]]
            found[day, hour] = (
                max(days[service][day] for service in services),
                sum(trips[service, day, hour] for service in services),
                sum(averages) if averages else None,
            )
    return found


@pytest.mark.parametrize(
    ("borough", "first", "last", "service"),
    [
        ("Manhattan", "2023-01-01", "2023-01-31", None),
        ("Manhattan", "2023-01-16", "2023-02-14", "yellow"),
        ("Queens", "2023-01-02", "2023-01-04", "green"),
        ("Queens", "2023-01-15", "2023-01-15", None),
    ],
)
def test_the_numbers_are_those_of_the_trips(
    months: dict[str, list[Trip]], desk: Desk, borough: str, first: str, last: str, service: str | None
) -> None:
    result = desk.ask(borough=borough, from_day=first, to_day=last, service=service)
    found = metadata(result, adhoc_request.key)[None]
    services = (service,) if service else ("green", "yellow")
    expected = by_hand(months, borough, date.fromisoformat(first), date.fromisoformat(last), services)
    assert desk.numbers() == expected
    total = sum(trips for _, trips, _ in expected.values())
    assert total > 0
    days = (date.fromisoformat(last) - date.fromisoformat(first)).days + 1
    assert {name: found[name] for name in ("borough", "from", "to", "service", "trips", "days", "loaded")} == {
        "borough": borough,
        "from": first,
        "to": last,
        "service": ", ".join(services),
        "trips": total,
        "days": days,
        "loaded": "the whole period",
    }


def test_the_chart_lies_where_the_links_lead(desk: Desk) -> None:
    found = metadata(desk.ask(name="island-1"), adhoc_request.key)[None]
    assert desk.written() == ["requests/island-1.csv", "requests/island-1.png"]
    picture = desk.folder / "requests" / "island-1.png"
    assert picture.read_bytes().startswith(PNG)
    assert found["file"] == str(picture)
    assert found["link"] == "http://files/reports/requests/island-1.png"
    assert found["numbers"] == "http://files/reports/requests/island-1.csv"
    assert found["chart"].startswith(
        "![Manhattan: taxi trips per hour, 2023-01-01 to 2023-01-31](data:image/png;base64,"
    )


def test_the_busiest_hours_are_shown(desk: Desk) -> None:
    found = metadata(desk.ask(), adhoc_request.key)[None]["busiest_hours"].records
    averages = sorted((average or 0 for _, _, average in desk.numbers().values()), reverse=True)
    assert [record.data["trips_per_hour"] for record in found] == [round(average, 2) for average in averages[:10]]


def test_of_a_period_that_is_not_loaded_completely_the_average_is_over_the_loaded_days(
    months: dict[str, list[Trip]], desk: Desk
) -> None:
    first, last = date(2022, 12, 30), date(2023, 4, 30)
    found = metadata(desk.ask(from_day=f"{first}", to_day=f"{last}", service="yellow"), adhoc_request.key)[None]
    expected = by_hand(months, "Manhattan", first, last, ("yellow",))
    assert desk.numbers() == expected
    # The trip of New Year's Eve is in the mart, but its month is not loaded.
    assert found["trips"] == sum(trips for _, trips, _ in expected.values())
    assert found["days"] == 31 + 28 + 30
    assert found["loaded"] == "yellow 2023-01 to 2023-02 and 2023-04"


def test_a_service_that_lacks_a_month_is_told_and_averaged_over_its_own_days(
    months: dict[str, list[Trip]], desk: Desk
) -> None:
    found = metadata(desk.ask(to_day="2023-02-28"), adhoc_request.key)[None]
    assert found["loaded"] == "green 2023-01, yellow 2023-01 to 2023-02"
    assert found["days"] == 31 + 28
    assert desk.numbers() == by_hand(months, "Manhattan", date(2023, 1, 1), date(2023, 2, 28))


def test_a_month_that_the_mart_does_not_have_yet_is_not_called_loaded(desk: Desk) -> None:
    found = metadata(desk.ask(from_day="2023-04-01", to_day="2023-05-31", service="yellow"), adhoc_request.key)[None]
    assert found["loaded"] == "yellow 2023-04"
    assert found["days"] == 30


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"borough": "Staten Island"},
            "there are no trips in Staten Island from 2023-01-01 to 2023-01-31."
            " Loaded are green 2023-01, yellow 2023-01 to 2023-02 and 2023-04.",
        ),
        (
            {"from_day": "2023-03-01", "to_day": "2023-03-31", "service": "green"},
            "there are no trips in Manhattan from 2023-03-01 to 2023-03-31. Loaded are green 2023-01.",
        ),
        (
            {"from_day": "2022-12-01", "to_day": "2022-12-31", "service": "yellow"},
            "there are no trips in Manhattan from 2022-12-01 to 2022-12-31."
            " Loaded are yellow 2023-01 to 2023-02 and 2023-04.",
        ),
    ],
)
def test_without_trips_the_run_fails_and_tells_what_is_loaded(desk: Desk, changes: dict[str, str], told: str) -> None:
    result = desk.ask(**changes)
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failed.user_failure_data is not None
    assert failed.user_failure_data.description == f"request asked: {told}"
    assert desk.written() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "../../out"}, "request '../../out': name: must be 1 to 64"),
        ({"name": "/etc/x"}, "request '/etc/x': name: must be 1 to 64"),
        ({"borough": "Queens' OR '1'='1"}, "request 'asked': borough: must be"),
        ({"borough": "Queens'; DROP TABLE marts.zone_hourly_demand; --"}, "request 'asked': borough: must be"),
        ({"from_day": "2023-01-01' OR true --"}, "request 'asked': from: must be a date"),
        ({"service": "yellow' OR true --"}, "request 'asked': service: must be"),
    ],
)
def test_a_run_with_other_values_is_refused_before_it_reads_anything(
    desk: Desk, changes: dict[str, str], told: str
) -> None:
    result = desk.ask(**changes)
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failed.user_failure_data is not None
    assert str(failed.user_failure_data.description).startswith(told)
    assert desk.written() == []


def test_without_ingestions_lake_the_run_says_what_to_do_first(warehouse: Warehouse, tmp_path: Path) -> None:
    assert "materialize an asset of location" in failure(Desk(warehouse, tmp_path).ask())


# -- the sensor -----------------------------------------------------------------------------------


GOOD = {"borough": "Queens", "from": "2023-01-01", "to": "2023-01-31"}
BRONX = {**GOOD, "borough": "Bronx"}
BAD = {**GOOD, "borough": "Hoboken"}


class Watch:
    """The daemon's ticks of the sensor, one after another, over a folder with real files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cursor: str | None = None
        self._clock = 0
        self._run_keys: set[str | None] = set()
        self._instance = DagsterInstance.ephemeral()

    def put(self, name: str, content: object, modified: int | None = None) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        self.touch(name, modified)

    def touch(self, name: str, modified: int | None = None) -> None:
        self._clock += 1
        time = self._clock if modified is None else modified
        os.utime(self.folder / name, ns=(time, time))

    def evaluate(self) -> SensorExecutionData:
        context = build_sensor_context(
            instance=self._instance, cursor=self.cursor, resources={"requests": RequestFolder(folder=str(self.folder))}
        )
        result = adhoc_request_sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def tick(self) -> list[str | None]:
        """Names of the requests whose runs the daemon starts: it leaves out run keys that it had."""
        requests = self.evaluate().run_requests or []
        started = [request for request in requests if request.run_key not in self._run_keys]
        self._run_keys |= {request.run_key for request in started}
        return [request.tags["request"] for request in started]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "requests")


def test_a_new_file_is_run_once_with_its_request(watch: Watch) -> None:
    watch.put("queens.json", {**GOOD, "service": "green"})
    (request,) = watch.evaluate().run_requests or []
    assert isinstance(request, RunRequest)
    assert request.run_config["ops"] == {
        "reports__adhoc_request": {
            "config": {
                "name": "queens",
                "borough": "Queens",
                "from_day": "2023-01-01",
                "to_day": "2023-01-31",
                "service": "green",
            }
        }
    }
    assert request.tags["request"] == "queens"
    assert len(request.tags["request_sha256"]) == 16
    assert watch.tick() == []


def test_an_edited_file_runs_each_time_and_a_touched_one_does_not(watch: Watch) -> None:
    started = []
    for content in (GOOD, BRONX, GOOD):
        watch.put("queens.json", content)
        started += watch.tick()
        watch.touch("queens.json")
        assert watch.tick() == []
    assert started == ["queens"] * 3


def test_a_file_removed_and_put_again_runs_again(watch: Watch) -> None:
    watch.put("queens.json", GOOD)
    watch.put("bronx.json", BRONX)
    assert watch.tick() == ["queens", "bronx"]
    (watch.folder / "queens.json").unlink()
    assert watch.tick() == []
    assert "queens" not in str(watch.cursor)
    assert "bronx" in str(watch.cursor)
    watch.put("queens.json", GOOD)
    assert watch.tick() == ["queens"]


@pytest.mark.parametrize(
    "cursor", [None, "", "{", "[]", '{"requested": {"queens": 1}}', '{"reported": "none"}', "\x00"]
)
def test_a_lost_or_damaged_cursor_starts_nothing_again(watch: Watch, cursor: str | None) -> None:
    watch.put("queens.json", GOOD)
    watch.put("bronx.json", BRONX)
    assert watch.tick() == ["queens", "bronx"]
    watch.cursor = cursor
    watch.put("ewr.json", {**GOOD, "borough": "EWR"})
    assert watch.tick() == ["ewr"]
    assert watch.tick() == []


def test_many_files_come_a_few_at_a_time_oldest_first(watch: Watch) -> None:
    names = [f"request-{number}" for number in range(2 * MOST_REQUESTS + 5)]
    for name in names:
        watch.put(f"{name}.json", GOOD)
    assert [watch.tick() for _ in range(4)] == [
        names[:MOST_REQUESTS],
        names[MOST_REQUESTS : 2 * MOST_REQUESTS],
        names[2 * MOST_REQUESTS :],
        [],
    ]


def test_a_missing_and_an_empty_folder_start_nothing(watch: Watch) -> None:
    assert watch.tick() == []
    watch.folder.mkdir()
    result = watch.evaluate()
    assert (result.run_requests, result.skip_message) == ([], "nothing new")


def test_files_that_are_being_written_wait(watch: Watch) -> None:
    watch.put(".queens.json", GOOD)
    watch.put("queens.json.part", GOOD)
    assert watch.tick() == []
    (watch.folder / "queens.json.part").rename(watch.folder / "queens.json")
    assert watch.tick() == ["queens"]


# -- bad files ------------------------------------------------------------------------------------


def verdict(result: SensorExecutionData) -> tuple[bool, list[str]] | None:
    """What a tick told the check: whether it passed, and the files it named."""
    if not result.asset_events:
        return None
    (event,) = result.asset_events
    assert isinstance(event, AssetCheckEvaluation)
    assert (event.asset_key, event.check_name) == (AssetKey(["reports", "adhoc_request"]), "requests_are_valid")
    table: Any = event.metadata["problems"]
    return event.passed, [record.data["file"] for record in table.records]


def test_a_bad_file_does_not_stop_the_others_and_is_reported_until_it_is_mended(watch: Watch) -> None:
    watch.put("a-bad.json", BAD)
    watch.put("queens.json", GOOD)
    result = watch.evaluate()
    assert [request.tags["request"] for request in result.run_requests or []] == ["queens"]
    assert verdict(result) == (False, ["a-bad.json"])

    again = watch.evaluate()
    assert verdict(again) is None
    assert "a-bad.json" in str(again.skip_message)

    watch.put("b-bad.json", "nonsense")
    assert verdict(watch.evaluate()) == (False, ["a-bad.json", "b-bad.json"])
    watch.put("a-bad.json", BRONX)
    result = watch.evaluate()
    assert [request.tags["request"] for request in result.run_requests or []] == ["a-bad"]
    assert verdict(result) == (False, ["b-bad.json"])
    (watch.folder / "b-bad.json").unlink()
    assert verdict(watch.evaluate()) == (True, [])
    assert verdict(watch.evaluate()) is None


def test_a_bad_file_that_is_edited_and_stays_bad_is_reported_anew(watch: Watch) -> None:
    watch.put("bad.json", BAD)
    assert verdict(watch.evaluate()) == (False, ["bad.json"])
    watch.put("bad.json", {**BAD, "from": "2023-01-02"})
    assert verdict(watch.evaluate()) == (False, ["bad.json"])
    watch.touch("bad.json")
    assert verdict(watch.evaluate()) is None


def test_the_problem_stands_in_the_report(watch: Watch) -> None:
    watch.put("bad.json", BAD)
    (event,) = watch.evaluate().asset_events
    assert isinstance(event, AssetCheckEvaluation)
    table: Any = event.metadata["problems"]
    (record,) = table.records
    assert record.data["problem"].startswith("borough: must be 'Manhattan', ")
    assert event.metadata["folder"].value == str(watch.folder)


@pytest.mark.parametrize("cursor", [None, "damaged"])
def test_after_a_lost_cursor_the_check_is_told_anew(watch: Watch, cursor: str | None) -> None:
    watch.put("bad.json", BAD)
    watch.tick()
    (watch.folder / "bad.json").unlink()
    watch.cursor = cursor
    assert verdict(watch.evaluate()) == (True, [])


def test_a_file_mended_back_to_what_was_run_runs_again(watch: Watch) -> None:
    watch.put("queens.json", GOOD)
    assert watch.tick() == ["queens"]
    watch.put("queens.json", BAD)
    assert watch.tick() == []
    watch.put("queens.json", GOOD)
    assert watch.tick() == ["queens"]
    assert watch.tick() == []


def test_the_check_can_be_run_by_hand(watch: Watch) -> None:
    folder = RequestFolder(folder=str(watch.folder))
    check: Any = requests_are_valid
    assert check(folder).passed
    watch.put("queens.json", GOOD)
    assert check(folder).passed
    watch.put("bad.json", BAD)
    found = check(folder)
    assert not found.passed
    assert found.description == "1 to be mended"
    assert [record.data["file"] for record in found.metadata["problems"].records] == ["bad.json"]


# -- as the location defines them -----------------------------------------------------------------


def test_the_sensor_runs_by_itself_and_its_job_makes_the_chart_alone() -> None:
    loaded = defs()
    found = loaded.resolve_sensor_def("adhoc_request_sensor")
    assert found.default_status is DefaultSensorStatus.RUNNING
    assert found.minimum_interval_seconds == 5
    layer = loaded.resolve_job_def("adhoc_request_job").asset_layer
    assert [key.to_user_string() for key in layer.selected_asset_keys] == ["reports/adhoc_request"]
    assert not layer.asset_graph.asset_check_keys
