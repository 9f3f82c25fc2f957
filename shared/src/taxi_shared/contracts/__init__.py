"""Contracts of the tables that cross teams: one Open Data Contract (YAML) each, beside this module.

The producer's table is made from the contract and brought to it before each write, its rows are measured
against the contract's rules before they are committed (`taxi_shared.quality`), and the UI shows columns, checks
and freshness from it, so that what is documented, what is stored and what consumers rely on stay one.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dagster import AssetKey, FreshnessPolicy, TableColumn, TableColumnConstraints, TableConstraints, TableSchema

from taxi_shared.contracts.rules import Rule, rules_of

if TYPE_CHECKING:
    from open_data_contract_standard.model import OpenDataContractStandard, SchemaProperty

CONTRACT_SUFFIX = ".odcs.yaml"


class ContractError(ValueError):
    """A contract is missing, or is not one that this repository can use; the message names the file."""


@dataclass(frozen=True)
class Column:
    """A column as its contract has it; `type` is DuckDB's name of the type, and a tag is `name:value`."""

    name: str
    type: str
    description: str
    required: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """A version of a contract, and what it changed."""

    version: str
    day: date
    what: str


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
    latest
        How long after its last update it counts as out of date.
    rules
        What is true of its rows.
    changes
        Its versions, the newest first.
    limitations
        What it does not promise.
    deprecated
        Whether consumers are asked to move to another table.
    """

    table: str
    version: str
    owner: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitioned_by: tuple[str, ...]
    latest: timedelta
    rules: tuple[Rule, ...] = ()
    changes: tuple[Change, ...] = ()
    limitations: str = ""
    deprecated: bool = False

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
                    tags={name: value for name, _, value in (tag.partition(":") for tag in column.tags)},
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
            "contract": f"{self.table} {self.version}{' (deprecated)' if self.deprecated else ''}",
        }

    @property
    def freshness(self) -> FreshnessPolicy:
        """When the UI shows the table as out of date."""
        return FreshnessPolicy.time_window(fail_window=self.latest)

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


def tables() -> list[str]:
    """Every table that has a contract, as `schema.table`."""
    return sorted(
        file.name.removesuffix(CONTRACT_SUFFIX)
        for file in files(__name__).iterdir()
        if file.name.endswith(CONTRACT_SUFFIX)
    )


@cache
def contract(table: str) -> TableContract:
    """The contract of `table`, given as `schema.table`.

    Raises
    ------
    ContractError
        There is no such contract, or it lacks something this repository needs.
    """
    file = files(__name__).joinpath(f"{table}{CONTRACT_SUFFIX}")
    if not file.is_file():
        raise ContractError(f"no contract for table '{table}': expected {file}")
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except ContractError as error:
        raise ContractError(f"{file}: {error}") from None
    if found.table != table:
        raise ContractError(f"{file} must have the physicalName {table}")
    return found


def parse(text: str) -> TableContract:
    """The contract that a document in the Open Data Contract Standard holds.

    Raises
    ------
    ContractError
        It is not one, or lacks something this repository needs.
    """
    from open_data_contract_standard.model import OpenDataContractStandard
    from pydantic import ValidationError
    from yaml import CSafeLoader, YAMLError, load

    try:
        # Not `from_string`, which has YAML read by Python: a third of the time that a location takes to load.
        document = OpenDataContractStandard(**load(text, Loader=CSafeLoader))
    except YAMLError as error:
        raise ContractError(f"not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ContractError(f"not an Open Data Contract: {where}: {first['msg']}") from None
    except TypeError:
        raise ContractError("not an Open Data Contract: it is not a mapping") from None
    if not document.schema_ or len(document.schema_) != 1 or not document.schema_[0].properties:
        raise ContractError("it must describe exactly one table with its columns")
    table = document.schema_[0].physicalName or ""
    if len(table.split(".")) != 2 or not all(part.isidentifier() for part in table.split(".")):
        raise ContractError(f"its physicalName must be schema.table, not {table!r}")
    if document.team is None or isinstance(document.team, list) or not document.team.name:
        raise ContractError("it must name its team")
    properties = document.schema_[0].properties
    names = [found.name for found in properties]
    if len(set(names)) < len(names):
        raise ContractError(f"it describes a column twice: {sorted({str(n) for n in names if names.count(n) > 1})}")
    columns = tuple(_column(found) for found in properties)
    key = _in_order({p.name: p.primaryKeyPosition for p in properties if p.primaryKey})
    try:
        rules = rules_of(document.schema_[0], key)
    except ValueError as error:
        raise ContractError(str(error)) from None
    return TableContract(
        table=table,
        version=str(document.version),
        owner=document.team.name,
        description=str(document.description.purpose if document.description else ""),
        columns=columns,
        key=key,
        partitioned_by=_in_order({p.name: p.partitionKeyPosition for p in properties if p.partitioned}),
        latest=_latest(document),
        rules=rules,
        changes=_changes(document),
        limitations=str(document.description.limitations or "" if document.description else ""),
        deprecated=document.status == "deprecated",
    )


def _column(found: "SchemaProperty") -> Column:
    if not found.name or not found.physicalType or not found.description:
        raise ContractError(f"column {found.name!r} needs name, physicalType and description in its contract")
    if not found.name.isidentifier():
        raise ContractError(f"column {found.name!r} cannot be the name of a column: letters, digits and _ only")
    return Column(
        found.name, found.physicalType, found.description, bool(found.required), tuple(map(str, found.tags or ()))
    )


def _in_order(positions: dict[str | None, int | None]) -> tuple[str, ...]:
    return tuple(sorted((str(name) for name in positions), key=lambda name: positions[name] or 0))


def _latest(document: "OpenDataContractStandard") -> timedelta:
    latencies = [found for found in document.slaProperties or () if found.property == "latency"]
    if len(latencies) != 1 or latencies[0].unit != "d" or not isinstance(latencies[0].value, int):
        raise ContractError("slaProperties must have one latency, a whole number of days (unit: d)")
    return timedelta(days=latencies[0].value)


def _changes(document: "OpenDataContractStandard") -> tuple[Change, ...]:
    """ODCS has no place of its own for a change log."""
    listed: list[Any] = [found.value for found in document.customProperties or () if found.property == "changes"]
    try:
        changes = tuple(
            Change(str(entry["version"]), date.fromisoformat(str(entry["date"])), str(entry["what"]))
            for entry in (listed[0] if listed else ())
        )
    except (KeyError, TypeError, ValueError):
        raise ContractError("each entry of the custom property `changes` needs version, date and what") from None
    if not changes or changes[0].version != str(document.version):
        raise ContractError(f"its custom property `changes` must begin with what version {document.version} changed")
    return changes
