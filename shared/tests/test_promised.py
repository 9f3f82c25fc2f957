"""A change that takes something from consumers is refused by the producer's tests, which name who uses it."""

import copy
from pathlib import Path
from typing import Any

import pytest
from taxi_shared.contracts import contract, tables
from taxi_shared.contracts.promised import COMMAND, problems_of, promise, promised, users

LOCATIONS = Path(__file__).parents[2] / "locations"
TRIPS = "raw.taxi_trips"


@pytest.fixture
def now() -> dict[str, Any]:
    return copy.deepcopy(promise(contract(TRIPS)))


def told(now: dict[str, Any]) -> list[str]:
    return list(problems_of(TRIPS, promised()[TRIPS], now, LOCATIONS, "ingestion"))


def test_what_was_promised_is_what_the_contracts_say() -> None:
    assert promised() == {table: promise(contract(table)) for table in tables()}


def test_a_column_that_is_renamed_names_everybody_who_uses_it(now: dict[str, Any]) -> None:
    now["columns"]["picked_up_at"] = now["columns"].pop("pickup_at")
    (text,) = told(now)
    assert text.startswith("contract of raw.taxi_trips: column pickup_at is gone, and analytics's ")
    for mart in ("airport_trips", "fare_economics", "fares_by_distance", "trips_by_week", "zone_hourly_demand"):
        assert f"analytics's {mart} (analytics/src/analytics/defs/{mart}.sql)" in text
    # That one reads other tables.
    assert "load_quality" not in text


def test_a_column_that_nobody_uses_may_go_with_a_new_major_version(now: dict[str, Any]) -> None:
    assert users(LOCATIONS, "ingestion", TRIPS, "ehail_fee") == []
    del now["columns"]["ehail_fee"]
    assert told(now) == ["contract of raw.taxi_trips: column ehail_fee is gone: its version must become 2.0.0"]
    now["version"] = "2.0.0"
    assert told(now) == [f"contract of raw.taxi_trips has a new major version: {COMMAND} in shared/ writes it down"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pickup_at": ["VARCHAR", True]}, "column pickup_at becomes VARCHAR (it is TIMESTAMP), and analytics's"),
        ({"pickup_at": ["TIMESTAMP", False]}, "column pickup_at may become null, and analytics's"),
    ],
)
def test_another_type_and_nulls_name_who_uses_the_column(now: dict[str, Any], change: Any, text: str) -> None:  # noqa: ANN401
    now["columns"] |= change
    assert text in told(now)[0]


def test_other_partitions_name_who_uses_the_table(now: dict[str, Any]) -> None:
    now["partitioned_by"] = ["service"]
    (text,) = told(now)
    assert "partitioned_by becomes service (it is service, file_month), and analytics's" in text


def test_more_than_before_is_written_down_with_a_new_version(now: dict[str, Any]) -> None:
    now["columns"]["request_source"] = ["VARCHAR", False]
    (text,) = told(now)
    assert text.startswith("contract of raw.taxi_trips promises more than before: give it a new version, and then ")
    now["version"] = "1.9.0"
    (text,) = told(now)
    assert "before: as" in text
    # Stricter is more, too.
    now["columns"]["vendor_id"] = ["SMALLINT", True]
    assert len(told(now)) == 1


def test_other_rules_are_written_down_with_a_new_version(now: dict[str, Any]) -> None:
    del now["refused"]["days of the month without a trip"]
    now["refused"]["rows"] = "more than 9 rows"
    now["refused"]["fare_amount below 0"] = "0 rows"
    (text,) = told(now)
    assert text == (
        "contract of raw.taxi_trips has other rules than were promised (~ rows: more than 0 rows -> more than 9 rows;"
        " + fare_amount below 0: 0 rows; - days of the month without a trip: at most 7 days): give it a new version,"
        f" and then {COMMAND} in shared/ writes it down"
    )
