"""Which columns an SQL statement relies on, and what a description says."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetSpec, AutomationCondition, Definitions, asset
from taxi_shared.contracts import contract
from taxi_shared.description import columns_read, describe, main

TRIPS, ZONES = contract("raw.taxi_trips"), contract("raw.taxi_zones")
ALL_ZONES = sorted(column.name for column in ZONES.columns)


@pytest.mark.parametrize(
    ("sql", "zones"),
    [
        ("SELECT zone FROM raw.taxi_zones", ["zone"]),
        ("SELECT zone FROM ingestion.raw.taxi_zones WHERE borough = 'Bronx'", ["borough", "zone"]),
        ("SELECT z.zone FROM raw.taxi_zones AS z ORDER BY z.zone_id", ["zone", "zone_id"]),
        ("SELECT ZONE FROM RAW.Taxi_Zones", ["zone"]),
        ("WITH named AS (SELECT zone_id AS id, zone FROM raw.taxi_zones) SELECT id FROM named", ["zone", "zone_id"]),
        ("SELECT * FROM raw.taxi_zones", ALL_ZONES),
        ("FROM raw.taxi_zones", ALL_ZONES),
        ("SELECT count(*) FROM raw.taxi_zones", []),
        # A table without its schema: a report's sources are copied under their own names.
        ("SELECT zone FROM taxi_zones", ["zone"]),
    ],
)
def test_every_column_that_a_statement_names_is_read(sql: str, zones: list[str]) -> None:
    assert columns_read([sql], [TRIPS, ZONES]) == {"raw.taxi_zones": zones}


def test_columns_of_a_join_belong_to_their_tables() -> None:
    sql = """SELECT t.service, z.borough, sum(total_amount) FROM raw.taxi_trips AS t
        JOIN raw.taxi_zones AS z ON z.zone_id = t.pickup_zone_id WHERE fare_amount > 0 GROUP BY ALL"""
    assert columns_read([sql], [TRIPS, ZONES]) == {
        "raw.taxi_trips": ["fare_amount", "pickup_zone_id", "service", "total_amount"],
        "raw.taxi_zones": ["borough", "zone_id"],
    }


def test_a_column_that_a_join_uses_is_read_of_both() -> None:
    sql = "SELECT zone FROM raw.taxi_zones JOIN (SELECT pickup_zone_id AS zone_id FROM raw.taxi_trips) USING (zone_id)"
    assert columns_read([sql], [TRIPS, ZONES]) == {
        "raw.taxi_trips": ["pickup_zone_id"],
        "raw.taxi_zones": ["zone", "zone_id"],
    }


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT z.population FROM raw.taxi_zones AS z",
        "SELECT population FROM raw.taxi_zones",
        "SELECT zone FROM raw.taxi_zones WHERE population > 1",
        "WITH big AS (SELECT zone FROM raw.taxi_zones WHERE population > 1) SELECT zone FROM big",
    ],
)
def test_a_column_that_its_own_contract_does_not_have_is_read_as_well(sql: str) -> None:
    """Or a column that is dropped from the contract would seem to be used by nobody, while the SQL still uses it."""
    assert "population" in columns_read([sql], [ZONES])["raw.taxi_zones"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT zone AS name FROM raw.taxi_zones WHERE name > 'A' ORDER BY name",
        "SELECT name FROM (SELECT zone AS name FROM raw.taxi_zones) ORDER BY name",
        "WITH named(name) AS (SELECT zone FROM raw.taxi_zones) SELECT name FROM named",
    ],
)
def test_names_that_the_statement_gives_are_no_columns_of_a_table(sql: str) -> None:
    assert columns_read([sql], [ZONES]) == {"raw.taxi_zones": ["zone"]}


@asset(deps=[ZONES.asset_key], automation_condition=AutomationCondition.eager(), metadata={"contract": "x.y 1.0.0"})
def made() -> None:
    """Made of the zones."""


def described(*assets: Any) -> dict[str, Any]:  # noqa: ANN401
    found: dict[str, Any] = json.loads(json.dumps(describe(Definitions(list(assets)), "here")))
    return found


def test_another_locations_asset_is_no_asset_of_this_one() -> None:
    found = described(made)
    assert list(found["assets"]) == ["made"]
    assert found["assets"]["made"]["deps"] == ["raw/taxi_zones"]
    assert found["assets"]["made"]["contract"] == "x.y 1.0.0"


def test_an_asset_that_does_not_say_its_sql_reads_all_columns() -> None:
    assert sorted(described(made)["assets"]["made"]["reads"]["raw.taxi_zones"]) == ALL_ZONES


def test_the_rules_of_a_contract_are_told() -> None:
    rows = described(AssetSpec(["raw", "taxi_zones"]))["assets"]["raw/taxi_zones"]["rules"]["rows"]
    assert (rows["refuses"], rows["expected"], rows["columns"]) == (True, "265 rows", [])
    assert described(made)["assets"]["made"]["rules"] == {}


def test_what_does_not_load_says_where_in_its_own_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "broken"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "assets.py").write_text("import pandas_of_tomorrow\n")
    (package / "definitions.py").write_text(
        "import importlib\ndef defs():\n    return importlib.import_module('broken.assets')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["description", "broken"])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = str(ended.value.code).splitlines()
    assert lines[-1] == "ModuleNotFoundError: No module named 'pandas_of_tomorrow'"
    assert f'  File "{package / "assets.py"}", line 1, in <module>' in lines
    assert not [line for line in lines if "importlib/__init__" in line or "frozen" in line]


def test_automation_of_the_same_name_that_does_something_else_is_another() -> None:
    labelled = [
        AssetSpec("made", automation_condition=condition.with_label("follow"))
        for condition in (AutomationCondition.eager(), AutomationCondition.missing(), AutomationCondition.missing())
    ]
    first, second, third = (described(spec)["assets"]["made"]["automation"] for spec in labelled)
    assert first != second == third
    assert first.startswith("follow (")
