"""Contracts of the tables that cross teams: one Open Data Contract (YAML) each, beside this module.

The producer's table is made from the contract and brought to it before each write, and the UI shows
its columns from it, so that what is documented, what is stored and what consumers rely on stay one.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from dagster import AssetKey, TableColumn, TableColumnConstraints, TableConstraints, TableSchema

if TYPE_CHECKING:
    from open_data_contract_standard.model import SchemaProperty


@dataclass(frozen=True)
class Column:
    """A column as its contract has it; `type` is DuckDB's name of the type."""

    name: str
    type: str
    description: str
    required: bool


@dataclass(frozen=True)
class TableContract:
    """What a consumer may rely on for one table.

    Attributes
    ----------
    table
        `schema.table` in the owner's lake.
    owner
        The team, and the name of its location and lake.
    key
        Columns that identify a row.
    partitioned_by
        Columns by whose values the files are split.
    """

    table: str
    version: str
    owner: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitioned_by: tuple[str, ...]

    @property
    def asset_key(self) -> AssetKey:
        """The asset that makes the table: `raw.taxi_trips` is `raw/taxi_trips`."""
        return AssetKey(self.table.split("."))

    @property
    def dagster_schema(self) -> TableSchema:
        """The columns for the UI, as `dagster/column_schema` metadata."""
        return TableSchema(
            columns=[
                TableColumn(
                    column.name,
                    column.type,
                    description=column.description,
                    constraints=TableColumnConstraints(nullable=not column.required),
                )
                for column in self.columns
            ],
            constraints=TableConstraints(other=[f"primary key ({', '.join(self.key)})"]),
        )

    @property
    def asset_metadata(self) -> dict[str, TableSchema | str]:
        """What the UI shows of the table before it is ever materialized."""
        return {
            "dagster/column_schema": self.dagster_schema,
            "dagster/table_name": f"{self.owner}.{self.table}",
            "contract": f"{self.table} {self.version}",
        }

    @property
    def create_statements(self) -> tuple[str, ...]:
        """SQL that makes the table; `Warehouse.write` runs it where the table does not exist."""
        schema = self.table.split(".")[0]
        columns = ",\n  ".join(
            f"{column.name} {column.type}{' NOT NULL' if column.required else ''}" for column in self.columns
        )
        statements = [
            f"CREATE SCHEMA IF NOT EXISTS {schema}",
            f"CREATE TABLE {self.table} (\n  {columns}\n)",
        ]
        if self.partitioned_by:
            statements.append(f"ALTER TABLE {self.table} SET PARTITIONED BY ({', '.join(self.partitioned_by)})")
        return tuple(statements)


@cache
def contract(table: str) -> TableContract:
    """The contract of `table`, given as `schema.table`.

    Raises
    ------
    ValueError
        There is no such contract, or it lacks something this repository needs.
    """
    from open_data_contract_standard.model import OpenDataContractStandard

    file = files(__name__).joinpath(f"{table}.odcs.yaml")
    if not file.is_file():
        raise ValueError(f"no contract for table '{table}': expected {file}")
    document = OpenDataContractStandard.from_string(file.read_text(encoding="utf-8"))
    if not document.schema_ or len(document.schema_) != 1 or not document.schema_[0].properties:
        raise ValueError(f"{file} must describe exactly one table with its columns")
    if document.schema_[0].physicalName != table or document.team is None or isinstance(document.team, list):
        raise ValueError(f"{file} must have physicalName {table} and name its team")
    properties = document.schema_[0].properties
    names = [found.name for found in properties]
    if len(set(names)) < len(names):
        raise ValueError(f"{file} describes a column twice: {sorted(str(n) for n in names if names.count(n) > 1)}")
    return TableContract(
        table=table,
        version=str(document.version),
        owner=str(document.team.name),
        description=str(document.description.purpose if document.description else ""),
        columns=tuple(_column(found) for found in properties),
        key=_in_order({p.name: p.primaryKeyPosition for p in properties if p.primaryKey}),
        partitioned_by=_in_order({p.name: p.partitionKeyPosition for p in properties if p.partitioned}),
    )


def _column(found: "SchemaProperty") -> Column:
    if not found.name or not found.physicalType or not found.description:
        raise ValueError(f"column {found.name!r} needs name, physicalType and description in its contract")
    return Column(found.name, found.physicalType, found.description, bool(found.required))


def _in_order(positions: dict[str | None, int | None]) -> tuple[str, ...]:
    return tuple(sorted((str(name) for name in positions), key=lambda name: positions[name] or 0))
