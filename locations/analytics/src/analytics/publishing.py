"""Publishes tables of the lake as ordinary Postgres tables, which BI tools read without knowing of a lake.

A table is published from its contract, in one transaction: readers see it as before or as after, and
are never made to wait by periods that are published anew.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster import ConfigurableResource, TableMetadataValue
from pydantic import Field
from taxi_shared.contracts import TableContract
from taxi_shared.previews import PREVIEW_ROWS, preview
from taxi_shared.warehouse import Warehouse, without_password

from analytics.periods import Period, is_requested, request_periods

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812  (a class under a function's name)

# As Postgres itself names them, so that a table can be compared to its contract.
POSTGRES_TYPES: Final = {
    "VARCHAR": "text",
    "DATE": "date",
    "TIMESTAMP": "timestamp without time zone",
    "SMALLINT": "smallint",
    "INTEGER": "integer",
    "BIGINT": "bigint",
    "DOUBLE": "double precision",
    "BOOLEAN": "boolean",
}

# Seconds to wait for another run that publishes the same table, and for readers of a table that is made anew.
_ANOTHER_RUN: Final = 1800
_READERS: Final = 60


class PublishingError(Exception):
    """A table could not be published and is as it was; the message names it and the next step."""


@dataclass(frozen=True)
class Published:
    """What publishing ended with.

    Attributes
    ----------
    rows
        Rows of each requested period.
    all_rows
        Rows of the table.
    newest
        Some of its newest rows.
    made_anew
        Whether the table was made, or made anew after a change of its contract, and holds every period of the lake's.
    """

    rows: dict[Period, int]
    all_rows: int
    newest: TableMetadataValue
    made_anew: bool


class BiDatabase(ConfigurableResource[None]):
    """The Postgres database that BI tools read, written as the role that owns this location's schema."""

    connection_string: str = Field(description="For libpq; the role must own the schema that is published into.")

    @contextmanager
    def transaction(self) -> "Iterator[Cursor]":
        """A cursor in one transaction, committed when the block ends and undone when it raises."""
        import psycopg2

        try:
            session = psycopg2.connect(self.connection_string, application_name="publish", client_encoding="UTF8")
        except psycopg2.OperationalError as error:
            raise PublishingError(
                f"the database of BI tools cannot be reached: {without_password(error)}\nCheck that Postgres is up."
            ) from None
        try:
            with session, session.cursor() as cursor:
                yield cursor
        finally:
            session.close()

    @property
    def address(self) -> str:
        """Where it is, for people: without role and password."""
        from psycopg2.extensions import parse_dsn

        parts = parse_dsn(self.connection_string)
        return f"postgresql://{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts['dbname']}"


def publish(
    warehouse: Warehouse, database: BiDatabase, table: TableContract, time_column: str, periods: Sequence[Period]
) -> Published:
    """Bring `periods` of a Postgres table to what the own lake's table of the same name holds.

    A table that is missing, or differs from its contract, is made anew with every row of the lake's.

    Parameters
    ----------
    time_column
        The column, a date or a timestamp, that says which period a row belongs to; the service is in `service`.

    Raises
    ------
    PublishingError
        Postgres cannot have the table, or another run or a reader held it for too long; nothing was changed.
    """
    import psycopg2

    wanted = _Shape.of_contract(table)
    with database.transaction() as cursor:
        try:
            # Before the lake is read, so that of two runs the later one publishes the later state.
            _lock(cursor, table)
            _require_schema(cursor, table)
            made_anew = _Shape.in_postgres(cursor, table) != wanted
            if made_anew:
                _create_draft(cursor, table, wanted)
                _copy(warehouse, cursor, table, _draft(table), time_column, None)
                done = _published(cursor, table, _draft(table), time_column, periods, made_anew)
                # Last, because readers wait from here on.
                _put_in_place(cursor, table)
            else:
                _delete(cursor, table, time_column, periods)
                _copy(warehouse, cursor, table, _parts(table)[1], time_column, periods)
                done = _published(cursor, table, _parts(table)[1], time_column, periods, made_anew)
            _describe(cursor, table)
            return done
        except psycopg2.Error as error:
            raise PublishingError(f"{table.table} was not published and is as it was: {error}".strip()) from error


# -- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shape:
    """What makes a Postgres table fit or not: name, type and NOT NULL of each column, and the key."""

    columns: tuple[tuple[str, str, bool], ...]
    key: tuple[str, ...]

    @classmethod
    def of_contract(cls, table: TableContract) -> "_Shape":
        unknown = [f"{column.name} {column.type}" for column in table.columns if column.type not in POSTGRES_TYPES]
        if unknown:
            raise PublishingError(
                f"{table.table}: there is no Postgres type for {', '.join(unknown)}; give the column one of"
                f" {', '.join(POSTGRES_TYPES)} in its contract, or add the type to POSTGRES_TYPES in {__name__}"
            )
        if not table.key:
            raise PublishingError(f"{table.table}: its contract names no primaryKey, and a published table needs one")
        key = tuple(name.lower() for name in table.key)
        return cls(
            tuple(
                (column.name.lower(), POSTGRES_TYPES[column.type], column.required or column.name.lower() in key)
                for column in table.columns
            ),
            key,
        )

    @classmethod
    def in_postgres(cls, cursor: "Cursor", table: TableContract) -> "_Shape":
        """Of the table as it is; empty where there is none."""
        schema, name = _parts(table)
        cursor.execute(
            """
            SELECT attname, format_type(atttypid, atttypmod), attnotnull, array_position(indkey, attnum)
            FROM pg_class
            JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
            LEFT JOIN pg_index ON indrelid = pg_class.oid AND indisprimary
            WHERE relnamespace = to_regnamespace(%s) AND relname = %s
            ORDER BY attnum
            """,
            [f'"{schema}"', name],
        )
        rows = cursor.fetchall()
        positions = {column: position for column, _, _, position in rows if position is not None}
        return cls(tuple(row[:3] for row in rows), tuple(sorted(positions, key=positions.__getitem__)))


def _lock(cursor: "Cursor", table: TableContract) -> None:
    from psycopg2.errors import LockNotAvailable

    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{_ANOTHER_RUN}s"])
    try:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"publish:{table.table}"])
    except LockNotAvailable:
        raise PublishingError(
            f"{table.table} was being published by another run for more than {_ANOTHER_RUN} s."
            " Look for a run of the same asset that hangs, end it, and run this one again."
        ) from None
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{_READERS}s"])


def _require_schema(cursor: "Cursor", table: TableContract) -> None:
    schema, _ = _parts(table)
    cursor.execute("SELECT to_regnamespace(%s) IS NOT NULL", [f'"{schema}"'])
    if cursor.fetchone() != (True,):
        raise PublishingError(
            f"there is no schema '{schema}' in the database of BI tools: give it to {table.owner} in"
            " [tool.codeloc.bi_schemas] of the repository's pyproject.toml, then ./codeloc down and up"
        )


def _create_draft(cursor: "Cursor", table: TableContract, shape: _Shape) -> None:
    """An empty table beside the one that is read, which stays free for its readers while this one is filled."""
    from psycopg2 import sql

    columns = [
        sql.SQL("{} {}{}").format(sql.Identifier(name), sql.SQL(kind), sql.SQL(" NOT NULL" if required else ""))
        for name, kind, required in shape.columns
    ]
    cursor.execute(
        sql.SQL("CREATE TABLE {} ({}, CONSTRAINT {} PRIMARY KEY ({}))").format(
            sql.Identifier(_parts(table)[0], _draft(table)),
            sql.SQL(", ").join(columns),
            sql.Identifier(f"{_draft(table)}_key"),
            sql.SQL(", ").join(map(sql.Identifier, shape.key)),
        )
    )


def _put_in_place(cursor: "Cursor", table: TableContract) -> None:
    from psycopg2 import sql
    from psycopg2.errors import DependentObjectsStillExist, LockNotAvailable

    schema, name = _parts(table)
    names = {
        "table": sql.Identifier(schema, name),
        "draft": sql.Identifier(schema, _draft(table)),
        "name": sql.Identifier(name),
        "draft_key": sql.Identifier(f"{_draft(table)}_key"),
        "key": sql.Identifier(f"{name}_key"),
    }
    try:
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {table}").format(**names))
    except DependentObjectsStillExist as error:
        raise PublishingError(
            f"{table.table} differs from its contract and must be made anew, but others depend on it:"
            f" {error.diag.message_detail}. Drop them, publish again, and create them anew."
        ) from None
    except LockNotAvailable:
        raise PublishingError(
            f"{table.table} differs from its contract and must be made anew, but somebody has been reading it in one"
            f" transaction for more than {_READERS} s. End that session, or publish again later."
        ) from None
    for statement in (
        "ALTER TABLE {draft} RENAME CONSTRAINT {draft_key} TO {key}",
        "ALTER TABLE {draft} RENAME TO {name}",
    ):
        cursor.execute(sql.SQL(statement).format(**names))


def _describe(cursor: "Cursor", table: TableContract) -> None:
    """Put the contract's descriptions on table and columns, where they are not yet."""
    from psycopg2 import sql

    place = sql.Identifier(*_parts(table))
    cursor.execute(
        """
        SELECT coalesce(attname, ''), description FROM pg_description
        LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid AND attnum > 0
        WHERE classoid = 'pg_class'::regclass AND objoid = to_regclass(%s)
        """,
        [place.as_string(cursor)],
    )
    there = dict(cursor.fetchall())
    if there.get("") != table.description:
        cursor.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(place, sql.Literal(table.description)))
    for column in table.columns:
        name = column.name.lower()
        if there.get(name) != column.description:
            cursor.execute(
                sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                    sql.Identifier(*_parts(table), name), sql.Literal(column.description)
                )
            )


# -- its rows -------------------------------------------------------------------------------------


def _delete(cursor: "Cursor", table: TableContract, time_column: str, periods: Sequence[Period]) -> None:
    from psycopg2 import sql

    # Not TRUNCATE, which readers would have to wait for.
    statement = sql.SQL("DELETE FROM {table} AS t USING {requested} WHERE {belongs}")
    cursor.execute(statement.format(table=sql.Identifier(*_parts(table)), **_requested(time_column)), _days(periods))


def _copy(
    warehouse: Warehouse,
    cursor: "Cursor",
    table: TableContract,
    target: str,
    time_column: str,
    periods: Sequence[Period] | None,
) -> None:
    """Copy the lake's rows of `periods`, or all of them, into the Postgres table `target`."""
    from psycopg2 import sql

    columns = ", ".join(column.name for column in table.columns)
    condition = "true"
    folder = tempfile.TemporaryDirectory(prefix="publish-", dir=warehouse.temp_directory or None)
    with folder as name, warehouse.read() as connection:
        file = Path(name, "rows.csv")
        if periods is not None:
            request_periods(connection, periods)
            condition = is_requested("t", time_column)
        # One statement, and so one snapshot. Null is nothing, and empty text is "": both sides' own way.
        connection.execute(
            f"COPY (SELECT {columns} FROM {table.table} AS t WHERE {condition}) TO $file (FORMAT csv, HEADER false)",
            {"file": str(file)},
        )
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
            sql.Identifier(_parts(table)[0], target),
            sql.SQL(", ").join(sql.Identifier(column.name.lower()) for column in table.columns),
        )
        with file.open(encoding="utf-8", newline="") as rows:
            cursor.copy_expert(statement, rows)


def _published(
    cursor: "Cursor", table: TableContract, holder: str, time_column: str, periods: Sequence[Period], made_anew: bool
) -> Published:
    """What `holder`, the table itself or its draft, holds now."""
    from psycopg2 import sql

    names = {"table": sql.Identifier(_parts(table)[0], holder), **_requested(time_column)}
    # One pass over the table, however many periods there are.
    counted = sql.SQL(
        "SELECT r.service, r.first_day, r.day_after, count(t.service) FROM {requested}"
        " LEFT JOIN {table} AS t ON {belongs} GROUP BY r.service, r.first_day, r.day_after"
    )
    cursor.execute(counted.format(**names), _days(periods))
    rows = {Period(*period): count for *period, count in cursor.fetchall()}
    cursor.execute(sql.SQL("SELECT count(*) FROM {table}").format(**names))
    (all_rows,) = cursor.fetchone() or (0,)
    key = sql.SQL(", ").join(sql.Identifier(name.lower()) for name in table.key)
    newest = sql.SQL("SELECT * FROM {table} ORDER BY {period} DESC, {key} LIMIT {rows}")
    cursor.execute(newest.format(key=key, rows=sql.Literal(PREVIEW_ROWS), **names))
    return Published(rows, all_rows, preview(cursor), made_anew)


def _requested(time_column: str) -> "dict[str, Any]":
    """The requested periods as something to select from, and what makes a row `t` belong to one of them."""
    from psycopg2 import sql

    period = sql.Identifier(time_column.lower())
    return {
        "period": period,
        "requested": sql.SQL("unnest(%s::text[], %s::date[], %s::date[]) AS r (service, first_day, day_after)"),
        "belongs": sql.SQL("t.service = r.service AND t.{0} >= r.first_day AND t.{0} < r.day_after").format(period),
    }


def _days(periods: Sequence[Period]) -> list[list[Any]]:
    return [
        [period.service for period in periods],
        [period.first_day for period in periods],
        [period.day_after for period in periods],
    ]


def _parts(table: TableContract) -> tuple[str, str]:
    schema, name = table.table.lower().split(".")
    return schema, name


def _draft(table: TableContract) -> str:
    return f"{_parts(table)[1]}__draft"
