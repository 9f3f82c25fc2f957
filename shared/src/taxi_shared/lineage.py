"""Which columns a table's columns are made from, read from the SQL that makes it, and how the UI is told."""

from dagster import (
    AssetKey,
    MetadataValue,
    TableColumn,
    TableColumnDep,
    TableColumnLineage,
    TableMetadataValue,
    TableRecord,
    TableSchema,
)

from taxi_shared.contracts import TableContract, contract

# sqlglot wants as many parts in one table's name as in another's.
_TEMPORARY = "temporary"


def column_lineage(select: str, table: TableContract) -> TableColumnLineage:
    """Lineage of each column of `table` down to the columns of the tables with contracts that `select` reads.

    Parameters
    ----------
    select
        One SELECT in DuckDB's SQL that yields the table's columns by name. Tables without a schema, which
        are temporary, are left out.

    Raises
    ------
    ValueError
        It does not yield a column of the table, or reads a column that is not in a table's contract.
    """
    # Deferred: parsing SQL is no business of loading definitions.
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError
    from sqlglot.lineage import lineage
    from sqlglot.schema import MappingSchema

    statement = parse_one(select, dialect="duckdb")
    schema = MappingSchema(dialect="duckdb")
    for read in list(statement.find_all(exp.Table)):
        if read.db:
            columns = {column.name for column in contract(f"{read.db}.{read.name}").columns}
        else:
            columns = {column.name for column in statement.find_all(exp.Column) if column.table == read.alias_or_name}
            read.set("db", exp.to_identifier(_TEMPORARY))
        if not read.catalog:
            read.set("catalog", exp.to_identifier(table.owner))
        schema.add_table(read, dict.fromkeys(columns, "UNKNOWN"))
    deps: dict[str, list[TableColumnDep]] = {}
    for column in table.columns:
        try:
            leaves = list(lineage(column.name, statement, schema=schema, dialect="duckdb").walk())
        except (SqlglotError, ValueError) as error:
            raise ValueError(f"the SQL of {table.table}, column {column.name}: {error}") from None
        found = {
            (leaf.source.db, leaf.source.name, leaf.name.rpartition(".")[2])
            for leaf in leaves
            if isinstance(leaf.source, exp.Table) and leaf.source.db != _TEMPORARY
        }
        deps[column.name] = [
            TableColumnDep(AssetKey([schema_name, name]), upstream) for schema_name, name, upstream in sorted(found)
        ]
    return TableColumnLineage(deps)


def lineage_metadata(lineage: TableColumnLineage) -> dict[str, TableColumnLineage | TableMetadataValue]:
    """Column lineage as metadata: Dagster's own, and a table, since the open-source UI does not show the other."""
    records = [
        TableRecord(
            {
                "column": column,
                "made_from": ", ".join(f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps),
            }
        )
        for column, deps in lineage.deps_by_column.items()
    ]
    schema = TableSchema([TableColumn("column"), TableColumn("made_from")])
    return {
        "dagster/column_lineage": lineage,
        "columns_made_from": MetadataValue.table(records, schema=schema),
    }
