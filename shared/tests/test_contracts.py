from importlib.resources import files

import duckdb
import pytest
from taxi_shared import contracts
from taxi_shared.contracts import contract

TABLES = sorted(
    file.name.removesuffix(".odcs.yaml") for file in files(contracts).iterdir() if file.name.endswith(".odcs.yaml")
)


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


def test_the_quarantine_has_every_column_of_the_trips() -> None:
    trips = [(column.name, column.type) for column in contract("raw.taxi_trips").columns]
    quarantine = [(column.name, column.type) for column in contract("raw.taxi_trips_quarantine").columns]
    assert [column for column in quarantine if column[0] != "reason"] == trips


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ValueError, match=r"no contract for table 'raw\.nothing'"):
        contract("raw.nothing")
