"""The location as Dagster loads it: what it defines and when it runs by itself."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from analytics.definitions import defs
from analytics.defs.jobs import WEEKS_BACK
from dagster import DefaultScheduleStatus, Definitions, build_schedule_context
from taxi_shared.contracts.promised import problems
from taxi_shared.partitions import LATE_REPORTING, SERVICE_WEEKS

# Dagster's own: the names of the tags it gives to partitions with two dimensions.
pytestmark = pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")


@pytest.fixture(scope="module")
def loaded() -> Definitions:
    return defs()


def test_the_weekly_job_runs_the_weekly_mart(loaded: Definitions) -> None:
    selected = loaded.resolve_job_def("weekly_update_job").asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in selected} == {"marts/trips_by_week", "bi/trips_by_week"}


@pytest.mark.parametrize(
    ("monday", "week"),
    [
        (datetime(2023, 5, 15), "2023-02-20"),
        (datetime(2024, 1, 1), "2023-10-09"),
        (datetime(2024, 3, 18), "2023-12-25"),
    ],
)
def test_every_monday_one_week_of_both_services_is_requested(loaded: Definitions, monday: datetime, week: str) -> None:
    schedule = loaded.resolve_schedule_def("weekly_update_schedule")
    assert schedule.cron_schedule == "0 0 * * 1"
    context = build_schedule_context(scheduled_execution_time=monday, repository_def=loaded.get_repository_def())
    requests = schedule.evaluate_tick(context).run_requests or []
    assert [request.partition_key for request in requests] == [f"green|{week}", f"yellow|{week}"]
    assert [request.run_key for request in requests] == [f"green|{week}", f"yellow|{week}"]
    assert {request.partition_key for request in requests} <= set(SERVICE_WEEKS.get_partition_keys())


def test_the_schedule_is_off_until_somebody_turns_it_on(loaded: Definitions) -> None:
    schedule = loaded.resolve_schedule_def("weekly_update_schedule")
    assert schedule.default_status is DefaultScheduleStatus.STOPPED


def loaded_by_then(month: date, tick: datetime) -> bool:
    """Whether ingestion's schedule had its tick for the file of `month`: the 5th, two months later, at 05:00."""
    two_months_later = (month.replace(day=1) + timedelta(days=70)).replace(day=5)
    return datetime(two_months_later.year, two_months_later.month, 5, 5, tzinfo=UTC) < tick


def test_the_requested_week_is_the_newest_whose_months_are_always_loaded() -> None:
    first = datetime(2011, 6, 6, tzinfo=UTC)
    mondays = [first + timedelta(weeks=number) for number in range(52 * 28)]
    assert {monday.weekday() for monday in mondays} == {0}

    def always_loaded(weeks_back: int) -> bool:
        sundays = [(monday - timedelta(weeks=weeks_back) + timedelta(days=6), monday) for monday in mondays]
        # The file that a trip of Sunday may come in when it is reported late.
        return all(loaded_by_then((sunday + LATE_REPORTING).date(), monday) for sunday, monday in sundays)

    assert always_loaded(WEEKS_BACK)
    assert not always_loaded(WEEKS_BACK - 1)


def test_nothing_that_others_use_goes_from_our_contracts() -> None:
    assert problems(Path(__file__).parents[2], "analytics") == []
