"""Every rule of a plan, on small made-up locations: `one` makes raw.trips, `two` makes a mart of it."""

import copy
import json
import subprocess
from typing import Any

import pytest
from codeloc.plan import Plan, make_plan
from codeloc.planning import registry_problems
from codeloc.workspace import location_named

VERSIONS = {"python": "3.11", "dagster": "1.13.27", "duckdb": "1.5.5", "pandas": "3.0.1"}
HOST = "1.13.27"


def asset(**given: Any) -> dict[str, Any]:  # noqa: ANN401
    nothing: dict[str, Any] = {"deps": [], "partitions": None, "automation": None, "checks": [], "contract": None}
    return nothing | {"description": "", "columns": {}, "rules": {}, "reads": {}} | given


def column(kind: str, required: bool = False) -> dict[str, Any]:
    return {"type": kind, "required": required}


def one() -> dict[str, Any]:
    trips = asset(
        contract="raw.trips 1.0.0",
        partitions="months",
        columns={"day": column("DATE", True), "fare": column("DOUBLE"), "note": column("VARCHAR")},
    )
    return {
        "location": "one",
        "versions": dict(VERSIONS),
        "assets": {"raw/trips": trips},
        "jobs": {"load": {"assets": ["raw/trips"], "partitions": "months"}},
        "schedules": {"monthly": {"cron": "0 5 5 * *", "job": "load", "default_status": "STOPPED"}},
        "sensors": {},
        "resources": {"warehouse": "shared.Warehouse"},
    }


def two() -> dict[str, Any]:
    mart = asset(deps=["raw/trips"], reads={"raw.trips": ["day", "fare"]}, automation="follow (1)")
    return {
        "location": "two",
        "versions": dict(VERSIONS),
        "assets": {"marts/fares": mart},
        "jobs": {"weekly": {"assets": ["marts/fares"], "partitions": None}},
        "schedules": {"mondays": {"cron": "0 0 * * 1", "job": "weekly", "default_status": "RUNNING"}},
        "sensors": {},
        "resources": {},
    }


def plan(before: dict[str, Any] | None, candidate: dict[str, Any], *others: dict[str, Any], **given: Any) -> Plan:  # noqa: ANN401
    settings: dict[str, Any] = {
        "versions": ("1-1" if before else None, "2-2"),
        "causes": {},
        "host_dagster": HOST,
        "running": {},
        "registry": [],
    }
    return make_plan(before, candidate, {other["location"]: other for other in others}, **(settings | given))


def described(found: Plan) -> list[tuple[str, str, str, list[str]]]:
    return [(change.sign, change.kind, change.name, change.details) for change in found.changes]


def test_nothing_to_do() -> None:
    found = plan(one(), one(), two())
    assert (found.exit_code, found.changes, found.downstream, found.warnings, found.blockers) == (0, [], [], [], [])
    assert found.as_text().splitlines()[-1] == "Plan for one: nothing to do."


def test_code_that_defines_the_same_is_still_a_change() -> None:
    found = plan(one(), one(), two(), causes={"code": ["locations/one/src/one/a.py"]})
    assert found.exit_code == 2
    assert "code: locations/one/src/one/a.py" in found.as_text()
    assert found.as_text().endswith("Plan for one: 0 to add, 0 to change, 0 to remove.")


def test_a_first_deploy_adds_everything() -> None:
    found = plan(None, two(), one())
    assert {change.sign for change in found.changes} == {"+"}
    assert found.exit_code == 2
    assert found.as_text().startswith("two: nothing -> 2-2")


def test_what_is_added_changed_and_removed_is_told() -> None:
    candidate = one()
    candidate["assets"]["raw/trips"] |= {"checks": ["rows"], "automation": "eager (1)"}
    candidate["assets"]["raw/zones"] = asset()
    candidate["jobs"] = {}
    candidate["schedules"]["monthly"]["cron"] = "0 6 5 * *"
    candidate["resources"]["warehouse"] = "other.Warehouse"
    candidate["versions"]["duckdb"] = "1.5.6"
    assert described(plan(one(), candidate)) == [
        ("~", "asset", "raw/trips", ["automation: none -> eager (1)", "checks: + rows"]),
        ("+", "asset", "raw/zones", []),
        ("-", "job", "load", []),
        ("~", "schedule", "monthly", ["cron: 0 5 5 * * -> 0 6 5 * *"]),
        ("~", "resource", "warehouse", ["shared.Warehouse -> other.Warehouse"]),
        ("~", "package", "duckdb", ["1.5.5 -> 1.5.6"]),
    ]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"fare": None}, "contract of raw.trips: column fare is removed, and two's marts/fares uses it"),
        ({"fare": column("BIGINT")}, "column fare becomes BIGINT (it is DOUBLE), and two's marts/fares uses it"),
        ({"day": column("DATE")}, "column day may become null, and two's marts/fares uses it"),
    ],
)
def test_a_column_that_another_location_uses_must_stay_what_it_is(changed: dict[str, Any], reason: str) -> None:
    candidate = one()
    columns = candidate["assets"]["raw/trips"]["columns"] | changed
    candidate["assets"]["raw/trips"]["columns"] = {name: found for name, found in columns.items() if found}
    candidate["assets"]["raw/trips"]["contract"] = "raw.trips 2.0.0"
    found = plan(one(), candidate, two())
    assert len(found.blockers) == 1
    assert reason in found.blockers[0]
    assert found.exit_code == 1
    assert "refused for one reason" in found.as_text()


@pytest.mark.parametrize(
    "changed",
    [
        {"note": None},
        {"note": column("BIGINT")},
        {"fare": column("DOUBLE", True)},
        {"more": column("DATE")},
    ],
)
def test_other_changes_of_a_contract_are_allowed_and_their_users_named(changed: dict[str, Any]) -> None:
    candidate = one()
    columns = candidate["assets"]["raw/trips"]["columns"] | changed
    candidate["assets"]["raw/trips"]["columns"] = {name: found for name, found in columns.items() if found}
    found = plan(one(), candidate, two())
    assert found.blockers == []
    assert found.exit_code == 2
    assert found.downstream == [
        "two: marts/fares depends on raw/trips (columns day, fare); made by schedule mondays, automation"
    ]


def rule(refuses: bool = True, expected: str = "0 rows", measure: str = "a1") -> dict[str, Any]:
    return {"refuses": refuses, "expected": expected, "columns": ["fare"], "measure": measure}


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        ({}, "- rule fare below 0: 0 rows (refuses)"),
        ({"fare below 0": rule(False)}, "~ rule fare below 0: 0 rows (refuses) -> 0 rows (warns)"),
        ({"fare below 0": rule(expected="9 rows")}, "~ rule fare below 0: 0 rows (refuses) -> 9 rows (refuses)"),
        ({"fare below 0": rule(measure="b2")}, "~ rule fare below 0: 0 rows (refuses) -> measured in another way"),
    ],
)
def test_a_rule_that_refuses_something_else_names_who_relies_on_it(changed: dict[str, Any], detail: str) -> None:
    before, candidate = one(), one()
    before["assets"]["raw/trips"]["rules"] = {"fare below 0": rule()}
    candidate["assets"]["raw/trips"]["rules"] = changed
    found = plan(before, candidate, two())
    assert described(found) == [("~", "asset", "raw/trips", [detail])]
    assert found.warnings == [
        f"raw/trips refuses other rows ({detail}), and two's marts/fares depends on it",
        "the contract of raw/trips has changed and is still raw.trips 1.0.0: give it a new version",
    ]
    assert found.exit_code == 2
    candidate["assets"]["raw/trips"]["contract"] = "raw.trips 1.1.0"
    assert plan(before, candidate).warnings == []


def test_a_rule_that_is_added_or_only_warns_is_told() -> None:
    before, candidate = one(), one()
    before["assets"]["raw/trips"]["rules"] = {"median fare": rule(False, "within 25 percent")}
    candidate["assets"]["raw/trips"]["rules"] = {"fare below 0": rule()}
    found = plan(before, candidate, two())
    details = ["+ rule fare below 0: 0 rows (refuses)", "- rule median fare: within 25 percent (warns)"]
    assert described(found) == [("~", "asset", "raw/trips", details)]
    assert not [text for text in found.warnings if "refuses" in text]


def test_a_contract_that_is_gone_breaks_its_users() -> None:
    candidate = one()
    candidate["assets"]["raw/trips"] |= {"contract": None, "columns": {}}
    assert [reason.split(",")[0] for reason in plan(one(), candidate, two()).blockers] == [
        "contract of raw.trips: column day is removed",
        "contract of raw.trips: column fare is removed",
    ]


def test_an_asset_that_another_location_depends_on_must_stay() -> None:
    candidate = one() | {"assets": {}, "jobs": {}, "schedules": {}}
    found = plan(one(), candidate, two())
    assert found.blockers == ["asset raw/trips is removed, and two's marts/fares depends on it"]
    assert plan(one(), candidate).blockers == []


def test_partitions_that_another_location_maps_must_stay() -> None:
    candidate = one()
    candidate["assets"]["raw/trips"]["partitions"] = "weeks"
    assert plan(one(), candidate, two()).blockers == [
        "asset raw/trips has other partitions (months -> weeks), and two's marts/fares depends on it"
    ]


def test_a_column_must_be_deployed_before_it_is_used() -> None:
    candidate = two()
    candidate["assets"]["marts/fares"]["reads"]["raw.trips"].append("tolls")
    assert plan(two(), candidate, one()).blockers == [
        "marts/fares uses tolls of raw.trips, which the deployed one does not have: deploy one first, or mend the name"
    ]


def test_an_asset_belongs_to_one_location() -> None:
    candidate = two()
    candidate["assets"]["raw/trips"] = asset()
    assert plan(two(), candidate, one()).blockers == ["asset raw/trips is one's already: choose another key"]


def test_a_dependency_that_no_location_has_is_mentioned() -> None:
    found = plan(two(), two())
    assert found.warnings == ["marts/fares depends on raw/trips, which no location has"]
    assert found.blockers == []


@pytest.mark.parametrize(
    ("package", "version", "blocked"),
    [
        ("dagster", "1.13.27", False),
        ("dagster", "1.9.0", False),
        ("dagster", "1.13.100", True),
        ("duckdb", "1.5.9", False),
        ("duckdb", "1.6.0", True),
        ("duckdb", "1.4.4", True),
    ],
)
def test_versions_must_fit_the_host_and_the_other_locations(package: str, version: str, blocked: bool) -> None:
    candidate = two()
    candidate["versions"][package] = version
    reasons = plan(two(), candidate, one()).blockers
    assert len(reasons) == blocked
    assert all(version in reason for reason in reasons)


def test_a_location_without_duckdb_shares_no_lake() -> None:
    candidate = two()
    del candidate["versions"]["duckdb"]
    assert plan(two(), candidate, one()).blockers == []


@pytest.mark.parametrize(
    ("package", "version", "warned"),
    [("python", "3.12", True), ("pandas", "4.0.0", True), ("pandas", "3.9.0", False)],
)
def test_values_that_were_pickled_before_may_not_be_readable(package: str, version: str, warned: bool) -> None:
    candidate = one()
    candidate["versions"][package] = version
    found = plan(one(), candidate)
    assert ["pickled" in warning for warning in found.warnings] == [True] * warned
    assert found.blockers == []


def test_a_schedule_that_is_on_and_goes_is_mentioned() -> None:
    candidate = one() | {"schedules": {}}
    running = {"monthly": "SCHEDULE"}
    assert plan(one(), candidate, running=running).warnings == [
        "schedule monthly is turned on and is removed: it no longer fires"
    ]
    assert plan(one(), one(), running=running).warnings == []
    assert plan(one(), candidate).warnings == []


def test_a_sensor_that_is_on_and_goes_is_mentioned() -> None:
    before = one() | {"sensors": {"arrivals": {"jobs": ["load"], "default_status": "STOPPED"}}}
    found = plan(before, one(), running={"arrivals": "SENSOR"})
    assert found.warnings == ["sensor arrivals is turned on and is removed: it no longer fires"]
    assert (found.blockers, found.exit_code) == ([], 2)
    assert plan(before, before, running={"arrivals": "SENSOR"}).warnings == []


def test_lists_of_locations_that_disagree_are_refused() -> None:
    assert plan(one(), one(), registry=["location 'x' is not in dg.toml"]).exit_code == 1


def test_a_plan_is_json() -> None:
    candidate = one()
    candidate["assets"]["raw/zones"] = asset()
    found = json.loads(json.dumps(plan(one(), candidate, two(), causes={"lock": ["a"]}).as_json()))
    assert found["location"] == "one"
    assert found["causes"] == {"lock": ["a"]}
    assert found["changes"] == [{"sign": "+", "kind": "asset", "name": "raw/zones", "details": []}]


def test_the_repositorys_own_lists_agree() -> None:
    assert registry_problems() == []


@pytest.fixture(scope="module")
def real() -> dict[str, dict[str, Any]]:
    found = {}
    for name in ("ingestion", "analytics"):
        command = [str(location_named(name).python), "-m", "taxi_shared.description", name]
        if not location_named(name).python.exists():
            pytest.skip(f"there is no environment of {name}")
        found[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout)
    return found


def test_the_real_locations_fit_together(real: dict[str, dict[str, Any]]) -> None:
    for name, other in (("ingestion", "analytics"), ("analytics", "ingestion")):
        found = plan(real[name], real[name], real[other])
        assert (found.exit_code, found.warnings, found.blockers) == (0, [], [])


def test_ingestion_may_not_drop_what_analytics_reads(real: dict[str, dict[str, Any]]) -> None:
    candidate = copy.deepcopy(real["ingestion"])
    del candidate["assets"]["raw/taxi_trips"]["columns"]["tolls_amount"]
    assert plan(real["ingestion"], candidate, real["analytics"]).blockers == [
        "contract of raw.taxi_trips: column tolls_amount is removed, and analytics's marts/fare_economics uses it"
    ]
    unused = copy.deepcopy(real["ingestion"])
    del unused["assets"]["raw/taxi_trips"]["columns"]["mta_tax"]
    found = plan(real["ingestion"], unused, real["analytics"])
    assert found.blockers == []
    assert any(
        line.startswith("analytics: marts/fare_economics depends on raw/taxi_trips") for line in found.downstream
    )


# -- another form of a table ------------------------------------------------------------------------


def test_a_broken_contract_says_how_to_offer_another_form() -> None:
    candidate = one()
    candidate["assets"]["raw/trips"]["columns"]["fare"] = column("VARCHAR")
    found = plan(one(), candidate, two())
    assert len(found.blockers) == 1
    assert [warning for warning in found.warnings if "beside the old form" in warning] != []


def test_both_forms_are_served_until_nobody_uses_the_old_one() -> None:
    both = one()
    both["assets"]["raw/trips"]["contract"] = "raw.trips 1.1.0 (deprecated)"
    both["assets"]["raw/trips_v2"] = copy.deepcopy(one()["assets"]["raw/trips"]) | {"contract": "raw.trips_v2 2.0.0"}
    assert plan(one(), both, two()).blockers == []
    # Who uses the old one is told at its own plan.
    told = "marts/fares uses raw.trips, which one has deprecated: move to the table that follows it"
    assert plan(two(), two(), both).warnings == [told]
    moved = two()
    moved["assets"]["marts/fares"] |= {"deps": ["raw/trips_v2"], "reads": {"raw.trips_v2": ["day", "fare"]}}
    assert plan(two(), moved, both).warnings == []
    # Only then may it go.
    gone = copy.deepcopy(both)
    del gone["assets"]["raw/trips"]
    assert plan(both, gone, two()).blockers == ["asset raw/trips is removed, and two's marts/fares depends on it"]
    assert plan(both, gone, moved).blockers == []
