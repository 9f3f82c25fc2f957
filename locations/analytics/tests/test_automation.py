"""Which weeks and months are rebuilt when something lands in ingestion's tables, and which are not."""

from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta

import pytest
from analytics.definitions import defs
from analytics.defs.marts import (
    TRIPS,
    TRIPS_BY_WEEK,
    ZONE_HOURLY_DEMAND,
    ZONES,
    trips_by_week,
    zone_hourly_demand,
)
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetSelection,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    Definitions,
    EvaluateAutomationConditionsResult,
    asset,
    evaluate_automation_conditions,
)
from taxi_shared.partitions import EARLY_REPORTING, FILE_MONTHS, LATE_REPORTING

NOW = datetime(2023, 6, 20)
FEBRUARY_GREEN = "2023-02-01|green"
WEEKS_OF_FEBRUARY = [
    f"green|{week}"
    for week in (
        "2023-01-23",
        "2023-01-30",
        "2023-02-06",
        "2023-02-13",
        "2023-02-20",
        "2023-02-27",
        "2023-03-06",
    )
]
MONTHS_OF_FEBRUARY = ["2023-01-01|green", "2023-02-01|green", "2023-03-01|green"]


@asset(key=TRIPS.asset_key, partitions_def=FILE_MONTHS)
def taxi_trips() -> None:
    """As ingestion defines it."""


@asset(key=ZONES.asset_key)
def taxi_zones() -> None:
    """As ingestion defines it."""


@pytest.fixture(scope="module")
def both_locations() -> Definitions:
    """A mart by week and one by month, and ingestion's tables beside them."""
    return Definitions(assets=[trips_by_week, zone_hourly_demand, taxi_trips, taxi_zones], resources=defs().resources)


class Daemon:
    """The automation sensor's evaluations, one after another, over an instance of its own."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._instance = DagsterInstance.ephemeral()
        self._last: EvaluateAutomationConditionsResult | None = None

    def land(self, *trips: str) -> None:
        for key in trips:
            self._instance.report_runless_asset_event(AssetMaterialization(TRIPS.asset_key, partition=key))

    def land_zones(self) -> None:
        self._instance.report_runless_asset_event(AssetMaterialization(ZONES.asset_key))

    def begin(self, key: AssetKey, partition: str) -> DagsterRun:
        """A run of one partition that has not ended."""
        job = self._definitions.resolve_implicit_global_asset_job_def()
        together = AssetSelection.assets(key).required_multi_asset_neighbors().resolve(job.asset_layer.asset_graph)
        return self._instance.create_run_for_job(
            job.get_subset(asset_selection=together),
            asset_selection=frozenset(together),
            tags={"dagster/partition": partition},
            status=DagsterRunStatus.STARTED,
        )

    def fail(self, partition: str) -> None:
        """A load of trips that fails, as it does when a file is not published or is refused."""
        self._instance.report_run_failed(self.begin(TRIPS.asset_key, partition))

    def rebuild(self, weeks: list[str], months: list[str]) -> None:
        """What the runs of the requested periods end with."""
        for mart, keys in ((TRIPS_BY_WEEK.table.asset_key, weeks), (ZONE_HOURLY_DEMAND.table.asset_key, months)):
            for key in keys:
                self._instance.report_runless_asset_event(AssetMaterialization(mart, partition=key))

    def forget(self) -> None:
        """What a change of the condition does: the next evaluation is a first one."""
        self._last = None

    def evaluate(self, now: datetime = NOW) -> tuple[list[str], list[str]]:
        """Weeks and months that are requested."""
        self._last = evaluate_automation_conditions(
            self._definitions,
            self._instance,
            asset_selection=AssetSelection.all() - AssetSelection.groups("bi"),  # tests/test_bi.py
            cursor=self._last.cursor if self._last else None,
            evaluation_time=now,
        )
        weeks = self._last.get_requested_partitions(TRIPS_BY_WEEK.table.asset_key)
        months = self._last.get_requested_partitions(ZONE_HOURLY_DEMAND.table.asset_key)
        assert self._last.total_requested == len(weeks) + len(months)
        return sorted(str(week) for week in weeks), sorted(str(month) for month in months)


@pytest.fixture
def daemon(both_locations: Definitions) -> Daemon:
    """A daemon that has seen that nothing was loaded."""
    started = Daemon(both_locations)
    assert started.evaluate() == ([], [])
    return started


def test_a_month_that_lands_requests_its_weeks_and_months_once(daemon: Daemon) -> None:
    daemon.land_zones()
    assert daemon.evaluate() == ([], [])
    daemon.land(FEBRUARY_GREEN)
    assert daemon.evaluate() == (WEEKS_OF_FEBRUARY, MONTHS_OF_FEBRUARY)
    assert daemon.evaluate() == ([], [])
    daemon.rebuild(WEEKS_OF_FEBRUARY, MONTHS_OF_FEBRUARY)
    assert daemon.evaluate() == ([], [])


def test_months_that_landed_before_the_first_look_are_followed_once(both_locations: Definitions) -> None:
    daemon = Daemon(both_locations)
    daemon.land_zones()
    daemon.land(FEBRUARY_GREEN)
    weeks, months = daemon.evaluate()
    # Every week that February's file may hold trips of; the automation cannot tell which have some.
    assert set(weeks) >= set(WEEKS_OF_FEBRUARY)
    assert months == MONTHS_OF_FEBRUARY
    assert daemon.evaluate() == ([], [])


def test_a_new_start_of_the_automation_rebuilds_nothing_that_is_there(both_locations: Definitions) -> None:
    daemon = Daemon(both_locations)
    daemon.land_zones()
    daemon.land(FEBRUARY_GREEN)
    weeks, months = daemon.evaluate()
    daemon.rebuild(weeks, months)
    daemon.forget()
    assert daemon.evaluate() == ([], [])


def test_a_month_uploaded_again_requests_the_same_periods_again(daemon: Daemon) -> None:
    daemon.land_zones()
    daemon.land("2023-01-01|green", FEBRUARY_GREEN, "2023-03-01|green", "2023-02-01|yellow")
    weeks, months = daemon.evaluate()
    assert (len(weeks), len(months)) == (16 + 7, 5 + 3)
    daemon.rebuild(weeks, months)
    assert daemon.evaluate() == ([], [])
    daemon.land(FEBRUARY_GREEN)
    assert daemon.evaluate() == (WEEKS_OF_FEBRUARY, MONTHS_OF_FEBRUARY)
    assert daemon.evaluate() == ([], [])


def test_a_month_that_lands_right_after_a_request_is_not_forgotten(daemon: Daemon) -> None:
    daemon.land_zones()
    daemon.land(FEBRUARY_GREEN)
    daemon.evaluate()
    daemon.land(FEBRUARY_GREEN)
    assert daemon.evaluate() == (WEEKS_OF_FEBRUARY, MONTHS_OF_FEBRUARY)
    assert daemon.evaluate() == ([], [])


def test_a_month_that_lands_while_the_marts_are_rebuilt_is_not_forgotten(daemon: Daemon) -> None:
    daemon.land_zones()
    daemon.land(FEBRUARY_GREEN)
    daemon.evaluate()
    assert daemon.evaluate() == ([], [])
    daemon.land(FEBRUARY_GREEN)
    daemon.rebuild(WEEKS_OF_FEBRUARY, MONTHS_OF_FEBRUARY)
    assert daemon.evaluate() == (WEEKS_OF_FEBRUARY, MONTHS_OF_FEBRUARY)
    assert daemon.evaluate() == ([], [])


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run of the location is configured from."""
    for name in ("CATALOG", "DATA", "THREADS", "MEMORY_LIMIT", "TEMP"):
        monkeypatch.setenv(f"WAREHOUSE_{name}", "1")
    for name in ("REPORTS_DIR", "REPORTS_URL"):
        monkeypatch.setenv(name, "1")
    for name in ("ENDPOINT", "REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"WAREHOUSE_S3_{name}", "")


@pytest.mark.usefixtures("settings")
def test_a_month_that_is_being_loaded_is_waited_for(daemon: Daemon) -> None:
    daemon.begin(TRIPS.asset_key, "2023-03-01|green")
    daemon.land(FEBRUARY_GREEN)
    # The last three weeks of February's reach have trips in March's file too.
    assert daemon.evaluate() == (WEEKS_OF_FEBRUARY[:-3], [])
    daemon.land("2023-03-01|green")
    weeks, _ = daemon.evaluate()
    assert weeks[:3] == WEEKS_OF_FEBRUARY[-3:]


@pytest.mark.usefixtures("settings")
def test_a_month_that_cannot_be_loaded_asks_for_nothing_and_holds_nobody_up(daemon: Daemon) -> None:
    daemon.evaluate()
    daemon.fail("2023-03-01|green")
    assert daemon.evaluate() == ([], [])
    # That file may not be published yet; of one that was refused the marts make nothing.
    daemon.land(FEBRUARY_GREEN)
    assert daemon.evaluate() == (WEEKS_OF_FEBRUARY, [])


@pytest.mark.usefixtures("settings")
def test_a_week_that_is_being_rebuilt_waits_for_its_end(daemon: Daemon) -> None:
    daemon.land(FEBRUARY_GREEN)
    daemon.evaluate()
    rebuilding, others = WEEKS_OF_FEBRUARY[:1], WEEKS_OF_FEBRUARY[1:]
    daemon.begin(TRIPS_BY_WEEK.table.asset_key, rebuilding[0])
    daemon.land(FEBRUARY_GREEN)
    assert daemon.evaluate() == (others, [])
    assert daemon.evaluate() == ([], [])
    daemon.rebuild(rebuilding, [])
    assert daemon.evaluate() == (rebuilding, [])
    assert daemon.evaluate() == ([], [])


def test_several_months_that_land_together_request_each_period_once(daemon: Daemon) -> None:
    daemon.land_zones()
    daemon.land(FEBRUARY_GREEN, "2023-03-01|green", FEBRUARY_GREEN)
    weeks, months = daemon.evaluate()
    first = date(2023, 1, 23)
    assert weeks == [f"green|{first + timedelta(weeks=number)}" for number in range(11)]
    assert months == ["2023-01-01|green", "2023-02-01|green", "2023-03-01|green", "2023-04-01|green"]


def test_without_zones_there_is_no_mart_by_zone(daemon: Daemon) -> None:
    daemon.land(FEBRUARY_GREEN)
    assert daemon.evaluate() == (WEEKS_OF_FEBRUARY, [])
    assert daemon.evaluate() == ([], [])
    daemon.land_zones()
    assert daemon.evaluate() == ([], MONTHS_OF_FEBRUARY)
    assert daemon.evaluate() == ([], [])


def test_a_change_of_the_zones_alone_requests_nothing(daemon: Daemon) -> None:
    daemon.land_zones()
    daemon.land(FEBRUARY_GREEN)
    daemon.evaluate()
    daemon.land_zones()
    assert daemon.evaluate() == ([], [])


def test_the_newest_month_requests_its_last_week(daemon: Daemon) -> None:
    daemon.land_zones()
    daemon.land("2023-03-01|yellow")
    weeks, months = daemon.evaluate(datetime(2023, 5, 5, 6))
    assert weeks[-2:] == ["yellow|2023-03-27", "yellow|2023-04-03"]
    # April is a partition of the months once TLC may have published it.
    assert months == ["2023-02-01|yellow", "2023-03-01|yellow"]


@pytest.mark.parametrize(
    "month",
    [date(2021, 2, 1), date(2022, 5, 1), date(2023, 1, 1), date(2023, 4, 1), date(2020, 2, 1)],
    ids=["4 whole weeks", "from a Sunday", "after New Year", "from a Saturday", "leap year"],
)
def test_every_week_a_file_may_have_trips_of_is_rebuilt(daemon: Daemon, month: date) -> None:
    daemon.land(f"{month}|green")
    weeks, _ = daemon.evaluate()
    month_end = (month + timedelta(days=31)).replace(day=1)
    days = [
        month - LATE_REPORTING + timedelta(days=number)
        for number in range((month_end + EARLY_REPORTING - month + LATE_REPORTING).days)
    ]
    assert {f"green|{day - timedelta(days=day.weekday())}" for day in days} <= set(weeks)


@asset(key=["raw", "taxi_trips_loads"], partitions_def=FILE_MONTHS)
def taxi_trips_loads() -> None:
    """As ingestion defines it."""


@asset(key=["raw", "taxi_trips_quarantine"], partitions_def=FILE_MONTHS)
def taxi_trips_quarantine() -> None:
    """As ingestion defines it."""


def test_the_report_follows_when_the_marts_have_caught_up_and_not_before() -> None:
    sources = [taxi_trips, taxi_trips_loads, taxi_trips_quarantine]
    definitions = Definitions.merge(defs(), Definitions(assets=[*sources, taxi_zones]))
    instance = DagsterInstance.ephemeral()
    last: EvaluateAutomationConditionsResult | None = None
    report, whole = AssetKey(["reports", "report"]), {None}

    def requested() -> dict[AssetKey, AbstractSet[str | None]]:
        nonlocal last
        last = evaluate_automation_conditions(
            definitions, instance, cursor=last.cursor if last else None, evaluation_time=NOW
        )
        keys = definitions.resolve_all_asset_keys()
        found = {key: last.get_requested_partitions(key) for key in keys if key.path[0] in ("marts", "reports")}
        return {key: partitions for key, partitions in found.items() if partitions}

    def materialized(key: AssetKey, *partitions: str | None) -> None:
        for partition in partitions:
            instance.report_runless_asset_event(AssetMaterialization(key, partition=partition))

    assert requested() == {}
    materialized(ZONES.asset_key, None)
    assert requested() == {}
    for source in sources:
        materialized(source.key, FEBRUARY_GREEN)
    marts = requested()
    assert {key.path[0] for key in marts} == {"marts"}
    assert len(marts) == 6
    for key, partitions in marts.items():
        materialized(key, *partitions)
    maps = {AssetKey(["reports", name]): whole for name in ("manhattan_stats", "manhattan_map")}
    assert requested() == {report: whole} | maps
    assert requested() == {}
    for key in (report, *maps):
        materialized(key, None)
    requested()  # outside of a run, the map's data counts as newer than the map
    assert requested() == {}
    materialized(ZONES.asset_key, None)
    materialized(taxi_trips_loads.key, FEBRUARY_GREEN)
    assert report not in requested()


def test_the_sensor_runs_from_the_start() -> None:
    sensor = defs().resolve_sensor_def("analytics_automation")
    assert sensor.default_status is DefaultSensorStatus.RUNNING
    conditions = {
        spec.key: spec.automation_condition
        for spec in defs().resolve_all_asset_specs()
        if spec.automation_condition is not None
    }
    # Everything but what somebody must ask for, and what is made in the step of a mart.
    assert conditions.keys() == {
        spec.key
        for spec in defs().resolve_all_asset_specs()
        if spec.group_name in ("marts", "reports") and spec.key != AssetKey(["reports", "adhoc_request"])
    }
