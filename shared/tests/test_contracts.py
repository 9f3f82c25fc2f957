import contextlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import open_data_contract_standard
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from taxi_shared import contracts
from taxi_shared.contracts import CONTRACT_SUFFIX, ContractError, TableContract, contract, parse, tables
from taxi_shared.contracts.page import markdown
from taxi_shared.contracts.rules import DIMENSIONS

TABLES = tables()


def text_of(table: str) -> str:
    return files(contracts).joinpath(f"{table}{CONTRACT_SUFFIX}").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", TABLES)
def test_every_contract_makes_a_table_of_its_columns(table: str) -> None:
    found = contract(table)
    with duckdb.connect() as connection:
        for statement in found.create_statements[:2]:
            connection.execute(statement)
        described = connection.execute(f"DESCRIBE {table}").fetchall()
    assert [(name, type_, null == "NO") for name, type_, null, *_ in described] == [
        (column.name, column.type, column.required) for column in found.columns
    ]
    assert found.key
    assert set(found.key) <= {column.name for column in found.columns if column.required}
    assert found.owner


@pytest.mark.parametrize("table", TABLES)
def test_every_contract_keeps_the_standard(table: str) -> None:
    schema = json.loads(files(open_data_contract_standard).joinpath("schema.json").read_text(encoding="utf-8"))
    # Dates are YAML's own; the standard's schema knows JSON only.
    jsonschema.validate(json.loads(json.dumps(yaml.safe_load(text_of(table)), default=str)), schema)


@pytest.mark.parametrize("table", TABLES)
def test_every_rule_can_be_measured_on_its_table(table: str) -> None:
    found = contract(table)
    with duckdb.connect() as connection:
        for statement in found.create_statements[:2]:
            connection.execute(statement)
        for rule in found.rules:
            connection.execute(f"SELECT ({rule.measure})::DOUBLE FROM {table} WHERE true").fetchall()
            if rule.offending is not None:
                connection.execute(f"FROM {table} WHERE true {rule.offending}").fetchall()
            assert rule.dimension in DIMENSIONS


@pytest.mark.parametrize("table", TABLES)
def test_every_version_is_in_the_change_log_the_newest_first(table: str) -> None:
    found = contract(table)
    versions = [tuple(map(int, change.version.split("."))) for change in found.changes]
    assert versions == sorted(versions, reverse=True)
    assert [change.day for change in found.changes] == sorted((change.day for change in found.changes), reverse=True)
    assert found.version == found.changes[0].version


def test_the_quarantine_has_every_column_of_the_trips() -> None:
    trips = [(column.name, column.type) for column in contract("raw.taxi_trips").columns]
    quarantine = [(column.name, column.type) for column in contract("raw.taxi_trips_quarantine").columns]
    assert [column for column in quarantine if column[0] != "reason"] == trips


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ContractError, match=r"no contract for table 'raw\.nothing'"):
        contract("raw.nothing")


# -- documents that are none -----------------------------------------------------------------------

ZONES = text_of("raw.taxi_zones")


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"physicalName: raw.taxi_zones", "physicalName: zones", "physicalName must be schema.table"),
        (r"physicalName: raw.taxi_zones", "physicalName: raw.x; DROP TABLE y", "physicalName must be schema.table"),
        (r"team:\n  name: ingestion", "tags: []", "must name its team"),
        (r"name: zone\n", "name: borough\n", r"describes a column twice: \['borough'\]"),
        (r"name: zone\n", "name: zone) FROM secrets --\n", "cannot be the name of a column"),
        (r"minimum: 1", "minimum: one", "minimum of column zone_id must be a number, not 'one'"),
        (r"mustBe: 265", "mustBe: all", "mustBe of its rule 'rowCount' must be a number, not 'all'"),
        (r"mustBe: 265", "unit: rows", "must have exactly one of mustBe, "),
        (r"metric: rowCount", "metric: missingValues", "is not one that can be measured here"),
        (r"severity: error", "severity: mild", "must have the severity error or warning"),
        (r"dimension: completeness", "dimension: beauty", "must have one of the dimensions"),
        (r"(mustBe: 265\n\s+severity:) error", r"\1 warning", "dimension completeness are partly of severity error"),
        (r"property: latency", "property: retention", "must have one latency"),
        (r"unit: d\n", "unit: y\n", "must have one latency"),
        (r"version: 1.1.0, date", "version: 9.9.9, date", "must begin with what version 1.1.0 changed"),
        (r"what: ", "why: ", "needs version, date and what"),
        (r"(?s)    properties:.*?(?=    quality:)", "", "exactly one table with its columns"),
        (r"(?s).*", "- just\n- a list\n", "not an Open Data Contract"),
        (r"(?s).*", "{", "not YAML"),
        (r"(?s).*", "", "not an Open Data Contract"),
        (r"schema:\n", "schema: 7\nother:\n", "not an Open Data Contract: schema"),
    ],
)
def test_a_document_that_is_no_contract_of_ours_says_why(pattern: str, replacement: str, message: str) -> None:
    spoiled, count = re.subn(pattern, replacement, ZONES, count=1)
    assert count == 1
    with pytest.raises(ContractError, match=message):
        parse(spoiled)


def test_a_deprecated_contract_says_so() -> None:
    assert parse(ZONES.replace("status: active", "status: deprecated")).deprecated
    assert not parse(ZONES).deprecated


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
_ANYTHING = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
)


def _paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401  (as YAML has it)
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [path, *(found for key in keys for found in _paths(node[key], (*path, key)))]


@settings(deadline=None)
@given(st.data())
def test_whatever_stands_in_a_contract_it_is_read_or_refused_with_a_reason(data: st.DataObject) -> None:
    document = yaml.safe_load(text_of("raw.taxi_trips"))
    *way, last = data.draw(st.sampled_from(_paths(document)[1:]))
    holder = document
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(_ANYTHING)
    # Anything but a reason would be raised.
    with contextlib.suppress(ContractError):
        assert isinstance(parse(yaml.safe_dump(document)), TableContract)


@given(st.text())
def test_no_text_breaks_the_reader_of_contracts(text: str) -> None:
    with pytest.raises(ContractError):
        parse(text)


def test_the_page_of_contracts_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "contracts.md"
    assert page.read_text(encoding="utf-8") == markdown(), (
        "run this in shared/: .venv/bin/python -m taxi_shared.contracts.page > ../docs/contracts.md"
    )
