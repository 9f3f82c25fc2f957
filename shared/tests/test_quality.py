"""Rules measured on tables of some rows, and what becomes of the figures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import duckdb
import pytest
from dagster import AssetCheckSeverity, TableMetadataValue
from taxi_shared.contracts import Column, TableContract, contract, tables
from taxi_shared.contracts.rules import Limit, Rule
from taxi_shared.quality import (
    RESULTS,
    Finding,
    RefusedError,
    check_results,
    check_specs,
    compared,
    earlier_figures,
    keep,
    measure,
    refused,
    require,
    unmeasurable,
    without_materialization,
)

ZONES = contract("raw.taxi_zones")
TRIPS = contract("raw.taxi_trips")


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables of ingestion, without rows."""
    with duckdb.connect() as opened:
        for table in (TRIPS, ZONES, contract(RESULTS)):
            for statement in table.create_statements[:2]:
                opened.execute(statement)
        yield opened


def zones(connection: duckdb.DuckDBPyConnection, numbers: Sequence[int]) -> None:
    connection.executemany(
        f"INSERT INTO {ZONES.table} VALUES ($1, 'z', 'b', 's', CASE WHEN $1 < 264 THEN 'MULTIPOLYGON' END)",
        [[number] for number in numbers],
    )


def broken(findings: Sequence[Finding]) -> dict[str, float | None]:
    return {finding.rule: finding.observed for finding in findings if not finding.passed}


def test_a_table_that_keeps_its_contract_breaks_no_rule(connection: duckdb.DuckDBPyConnection) -> None:
    zones(connection, range(1, 266))
    findings = measure(connection, ZONES)
    assert [finding.rule for finding in findings] == [rule.name for rule in ZONES.rules]
    assert broken(findings) == {}
    require(findings)


def test_every_broken_rule_is_found_with_rows_that_break_it(connection: duckdb.DuckDBPyConnection) -> None:
    zones(connection, [*range(2, 266), 2, 0, 300])
    findings = measure(connection, ZONES)
    assert broken(findings) == {
        "rows that share zone_id with another": 1,
        "zone_id below 1": 1,
        "zone_id above 265": 1,
        "geometry_wkt is null": 3,
        "rows": 267,
    }
    examples = {finding.rule: [row["zone_id"] for row in finding.examples] for finding in findings}
    assert examples["rows that share zone_id with another"] == [2, 2]
    assert examples["zone_id below 1"] == [0]
    assert examples["zone_id above 265"] == [300]
    assert examples["rows"] == []
    with pytest.raises(RefusedError, match="zone_id above 265: observed 1 rows, expected 0 rows, for example") as error:
        require(findings)
    assert error.value.findings == findings


def test_trips_that_are_there_twice_are_found_in_a_sixteenth_of_them(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        f"""INSERT INTO {TRIPS.table} BY NAME
        SELECT 'green' AS service, DATE '2023-01-01' AS file_month, n AS source_row, pickup_at, 1 AS pickup_zone_id,
            1 AS dropoff_zone_id, pickup_at + INTERVAL 1 HOUR AS dropoff_at, 2.5 AS trip_distance
        FROM (SELECT n, TIMESTAMP '2023-01-01' + INTERVAL 7 MINUTE * (n % $different) AS pickup_at
            FROM range(6000) AS rows(n))""",
        {"different": 5900},
    )
    rule = "trips that are there twice"
    (found,) = [finding for finding in measure(connection, TRIPS) if finding.rule == rule]
    assert found.observed == pytest.approx(100 / 60, abs=1)
    assert found.passed
    connection.execute(f"UPDATE {TRIPS.table} SET pickup_at = pickup_at - INTERVAL 7 MINUTE * (source_row % 2)")
    connection.execute(f"UPDATE {TRIPS.table} SET dropoff_at = pickup_at")
    (found,) = [finding for finding in measure(connection, TRIPS) if finding.rule == rule]
    assert found.observed == pytest.approx(50, abs=1)
    assert found.refused


@pytest.mark.parametrize("table", tables())
def test_every_rule_of_every_contract_can_be_measured(table: str) -> None:
    assert unmeasurable(contract(table)) == []


def test_a_rule_with_a_typing_error_is_named() -> None:
    (good,) = [rule for rule in ZONES.rules if rule.name == "rows"]
    typed = replace(good, name="zones by borough", measure="count(DISTINCT bourough)")
    (text,) = unmeasurable(replace(ZONES, rules=(good, typed)))
    assert text.startswith("contract of raw.taxi_zones: its rule 'zones by borough' cannot be measured: Binder Error")
    assert "bourough" in text


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        ("'abc'", "Could not convert string 'abc' to DOUBLE"),
        ("zone_id", 'column "zone_id" must appear in the GROUP BY'),
    ],
)
def test_a_rule_that_is_no_figure_of_all_rows_is_named(measure: str, says: str) -> None:
    (good,) = [rule for rule in ZONES.rules if rule.name == "rows"]
    (text,) = unmeasurable(replace(ZONES, rules=(replace(good, name="odd", measure=measure),)))
    assert text.startswith("contract of raw.taxi_zones: its rule 'odd' cannot be measured: ")
    assert says in text


def test_columns_of_types_that_are_none_are_told() -> None:
    odd = Column("x", "DUOBLE", "x", required=False)
    (text,) = unmeasurable(replace(ZONES, columns=(odd,)))
    assert text.startswith("contract of raw.taxi_zones: its columns are none that DuckDB has: Catalog Error: Type with")


def test_only_the_rows_of_the_condition_are_measured(connection: duckdb.DuckDBPyConnection) -> None:
    zones(connection, [*range(1, 266), 300])
    assert broken(measure(connection, ZONES, "zone_id < $most", {"most": 300})) == {}
    assert "zone_id above 265" in broken(measure(connection, ZONES, "zone_id < $most OR true", {"most": 300}))


def test_no_rows_at_all_break_what_needs_some(connection: duckdb.DuckDBPyConnection) -> None:
    assert {"rows", "days of the month without a trip"} <= broken(measure(connection, TRIPS)).keys()


@pytest.mark.parametrize(
    ("operator", "value", "kept", "not_kept", "text"),
    [
        ("mustBe", 2, [2.0], [1, 3], "2"),
        ("mustNotBe", 2, [1], [2], "not 2"),
        ("mustBeGreaterThan", 2, [2.1], [2], "more than 2"),
        ("mustBeGreaterOrEqualTo", 2, [2], [1.9], "at least 2"),
        ("mustBeLessThan", 2, [1.9], [2], "less than 2"),
        ("mustBeLessOrEqualTo", 0.5, [0.5], [0.6], "at most 0.5"),
        ("mustBeBetween", [1, 3], [1, 3], [0.9, 3.1], "between 1 and 3"),
        ("mustNotBeBetween", [1, 3], [0.9], [1, 2], "not between 1 and 3"),
    ],
)
def test_limits(operator: str, value: object, kept: list[float], not_kept: list[float], text: str) -> None:
    limit = Limit(operator, value)
    assert all(limit.holds(figure) for figure in kept)
    assert not any(limit.holds(figure) for figure in [*not_kept, None, float("nan")])
    assert str(limit) == text


# -- what is usual ----------------------------------------------------------------------------------

COUNTED = TableContract(
    "s.t",
    "1.0.0",
    "one",
    "",
    (Column("n", "BIGINT", "", True),),
    ("n",),
    (),
    timedelta(days=1),
    rules=(Rule("how many", "consistency", False, "count(*)", None, (), "rows", None, drift=(50, 1)),),
)


@pytest.mark.parametrize(
    ("earlier", "passed", "expected"),
    [
        ([], True, "anything: fewer than 3 earlier periods are there to compare with"),
        ([1, 1], True, "anything"),
        ([10, 10, 10], True, "between 4 and 16 rows: 10 is the median of 3 periods before it"),
        ([22, 22, 0], True, "between 10 and 34 rows"),
        ([23, 23, 0], False, "between 10.5 and 35.5 rows"),
        ([6, 6, 6], True, "between 2 and 10 rows"),
        ([5, 5, 5], False, "between 1.5 and 8.5 rows"),
        # Only the twelve before it count.
        ([10] * 12 + [1000] * 50, True, "10 is the median of 12 periods before it"),
        ([-20, -20, -20], False, "between -31 and -9 rows"),
    ],
)
def test_a_figure_stays_near_what_it_was(earlier: list[float], passed: bool, expected: str) -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA s; CREATE TABLE s.t AS SELECT unnest(range(10)) AS n")
        (finding,) = compared(COUNTED, measure(connection, COUNTED), lambda _rule: earlier)
    assert finding.passed == passed
    assert expected in finding.expected
    # It warns.
    require([finding])


# -- what is kept -----------------------------------------------------------------------------------


def finding(passed: bool, check: str = "completeness", rule: str = "rows", observed: float | None = 7) -> Finding:
    return Finding(check, rule, True, passed, observed, "rows", "265 rows", [] if passed else [{"zone_id": 3}], "So.")


def test_the_findings_of_a_partition_are_added_to_the_former_ones(connection: duckdb.DuckDBPyConnection) -> None:
    keep(connection, "a", {ZONES: [finding(True), finding(True, rule="other")], TRIPS: [finding(True)]}, "run 1")
    keep(connection, "b", {ZONES: [finding(True)]}, "run 2")
    keep(connection, "a", {ZONES: [finding(False, observed=None)]}, "run 3")
    rows = connection.execute(
        f"""SELECT table_name, partition, rule, passed, observed, examples, detail, run_id FROM {RESULTS}
        ORDER BY checked_at, table_name, rule"""
    ).fetchall()
    assert rows == [
        ("raw.taxi_trips", "a", "rows", True, 7, None, "So.", "run 1"),
        ("raw.taxi_zones", "a", "other", True, 7, None, "So.", "run 1"),
        ("raw.taxi_zones", "a", "rows", True, 7, None, "So.", "run 1"),
        ("raw.taxi_zones", "b", "rows", True, 7, None, "So.", "run 2"),
        ("raw.taxi_zones", "a", "rows", False, None, '[{"zone_id": 3}]', "So.", "run 3"),
    ]


def test_what_was_found_last_counts(connection: duckdb.DuckDBPyConnection) -> None:
    keep(connection, "a", {ZONES: [finding(False), finding(True, rule="x")], TRIPS: [finding(False)]}, "1")
    keep(connection, "a", {ZONES: [finding(True, observed=8)]}, "2")
    assert refused(connection, ZONES) == []
    assert [partition for partition, *_ in refused(connection, TRIPS)] == ["a"]
    assert earlier_figures(connection, ZONES, ["a"])("rows") == [8]
    assert earlier_figures(connection, ZONES, ["a"])("x") == []


def test_what_was_found_last_counts_also_where_the_clock_was_set_back(connection: duckdb.DuckDBPyConnection) -> None:
    keep(connection, "a", {ZONES: [finding(True)]}, "1")
    connection.execute(f"UPDATE {RESULTS} SET checked_at = checked_at + INTERVAL 1 DAY")
    keep(connection, "a", {ZONES: [finding(False)]}, "2")
    assert [partition for partition, *_ in refused(connection, ZONES)] == ["a"]


def test_what_was_refused_can_be_asked_for(connection: duckdb.DuckDBPyConnection) -> None:
    keep(connection, "a", {ZONES: [finding(False)]}, "1")
    keep(connection, "b", {ZONES: [finding(True)], TRIPS: [finding(False)]}, "1")
    keep(connection, "c", {ZONES: [replace(finding(False), blocking=False)]}, "1")
    told = "rows: observed 7 rows, expected 265 rows. So."
    assert refused(connection, ZONES) == [("a", "completeness", told)]
    assert refused(connection, ZONES, ["b", "c"]) == []
    assert refused(connection, TRIPS, ["a", "b"]) == [("b", "completeness", told)]
    assert refused(connection, TRIPS, []) == []


def test_a_lake_in_which_nothing_was_measured_refuses_nothing() -> None:
    with duckdb.connect() as connection:
        assert refused(connection, ZONES) == []
        assert refused(connection, ZONES, ["a"], lake="elsewhere") == []


def test_earlier_figures_are_those_of_partitions_that_were_not_refused(connection: duckdb.DuckDBPyConnection) -> None:
    for partition, figure in {"a": 1.0, "b": 2.0, "c": 3.0}.items():
        keep(connection, partition, {ZONES: [finding(True, observed=figure), finding(True, rule="x")]}, "1")
    keep(connection, "d", {ZONES: [finding(True, observed=4), finding(False, rule="x")]}, "1")
    assert earlier_figures(connection, ZONES, ["c", "d", "a", "none"])("rows") == [3, 1]


# -- as checks --------------------------------------------------------------------------------------


def test_a_table_has_a_check_for_each_dimension_of_its_rules() -> None:
    specs = {spec.name: spec.blocking for spec in check_specs(TRIPS, schema="As the file has it.")}
    assert specs == {
        "schema": True,
        "uniqueness": True,
        "completeness": True,
        "conformity": True,
        "accuracy": False,
        "consistency": False,
        "coverage": False,
    }


def test_a_check_says_what_was_measured_and_what_breaks_it() -> None:
    results = list(check_results(ZONES, {"a": [finding(True), finding(False, "uniqueness")], "b": [finding(False)]}))
    by_name = {result.check_name: result for result in results}
    assert {name: result.passed for name, result in by_name.items()} == {"completeness": False, "uniqueness": False}
    complete = by_name["completeness"]
    assert complete.severity == AssetCheckSeverity.ERROR
    assert complete.description == 'b: rows: observed 7 rows, expected 265 rows, for example {"zone_id": 3}. So.'
    measured = complete.metadata["measured"]
    assert isinstance(measured, TableMetadataValue)
    assert [(row.data["partition"], row.data["passed"]) for row in measured.records] == [("b", False), ("a", True)]
    rows = complete.metadata["rows: rows"]
    assert isinstance(rows, TableMetadataValue)
    assert [row.data for row in rows.records] == [{"partition": "b", "zone_id": 3}]


def test_checks_of_a_run_that_materialized_nothing_are_about_no_former_materialization() -> None:
    (told,) = without_materialization(check_results(ZONES, {"a": [finding(False)]}))
    assert (told.check_name, told.passed, told.blocking) == ("completeness", False, True)
    assert told.target_materialization_data is None
    assert "measured" in told.metadata


def test_a_check_warns_until_the_last_partition_is_mended() -> None:
    others = [("a", "completeness", "rows: observed 1 rows, expected 265 rows."), ("b", "uniqueness", "...")]
    (result,) = check_results(ZONES, {"c": [finding(True)]}, others)
    assert not result.passed
    # The run that loads another one is not to fail for it.
    assert result.severity == AssetCheckSeverity.WARN
    assert result.description == "refused before: a: rows: observed 1 rows, expected 265 rows."
    (result,) = check_results(ZONES, {"c": [finding(False)]}, others, {"file": "c.csv"})
    assert result.severity == AssetCheckSeverity.ERROR
    assert list(result.metadata) == ["file", "measured", "refused_before", "rows: rows"]
    # What this run found of a partition counts, not what was found before.
    (result,) = check_results(ZONES, {"a": [finding(True)]}, others)
    assert result.passed
