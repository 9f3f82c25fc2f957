"""The whole warehouse, read-only, for people: from a notebook with `connect`, and behind `./codeloc sql`.

Nothing can be written to a lake through it: lakes are attached read-only, as a Postgres role that can
only read.
"""

import argparse
import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb

from taxi_shared.sql import literal
from taxi_shared.warehouse import LakeMissingError, Warehouse, WarehouseError

logger = logging.getLogger(__name__)

# Rows of a table that are printed; files get all of them.
ROWS_SHOWN = 40
# The first list of all tables that DuckDB makes of freshly attached lakes lacks some of them; this one is not shown.
_LOOK = "SET VARIABLE looked = (SELECT count(*) FROM duckdb_schemas()); RESET VARIABLE looked"
# The view that the rows of a query are written from.
_ROWS = "codeloc_rows"
_COPY_OPTIONS = {
    "csv": "FORMAT csv, HEADER",
    "json": "FORMAT json, ARRAY",
    "parquet": "FORMAT parquet, COMPRESSION zstd",
}


class ExploreError(Exception):
    """The warehouse cannot be read as asked; the message says why and what to do."""


def connect(home: str | Path = "var") -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with every lake of a platform attached read-only: tables are `lake.schema.table`.

    A lake that does not exist yet is left out, and a warning says so.

    Parameters
    ----------
    home
        The platform's folder: what `--home` names, or `var` of the repository.

    Raises
    ------
    ExploreError
        No platform was ever started there, or it is down.

    Examples
    --------
    >>> warehouse = connect("var")
    >>> warehouse.sql("SELECT sum(trips) FROM analytics.marts.trips_by_week").df()
    """
    reader = _Reader.of(Path(home))
    connection = duckdb.connect(config=reader.configuration)
    try:
        for statement in reader.warehouse.preparation():
            connection.execute(statement)
        for lake in reader.lakes:
            _attach(connection, reader, lake)
        connection.execute(_LOOK)
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True)
class _Reader:
    """What `./codeloc up` wrote down for readers."""

    home: Path
    lakes: list[str]
    warehouse: Warehouse

    @classmethod
    def of(cls, home: Path) -> "_Reader":
        file = home.expanduser().resolve() / "reader.json"
        try:
            settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            lakes = settings.pop("lakes")
            return cls(file.parent, lakes, Warehouse(lake=lakes[0], **settings))
        except FileNotFoundError:
            raise ExploreError(
                f"there is no {file}: no platform was started with this folder. ./codeloc up starts one; for a folder"
                " other than the repository's var, give the one that --home named"
            ) from None
        except PermissionError:
            raise ExploreError(f"{file} can be read by the user alone who started the platform") from None
        except (ValueError, KeyError, TypeError, IndexError):
            raise ExploreError(
                f"{file} is damaged or of another version: ./codeloc down and up writes it anew"
            ) from None

    @property
    def configuration(self) -> dict[str, Any]:
        """DuckDB's settings; it makes the folder to spill to when it needs one, and removes it."""
        return {
            **self.warehouse.configuration,
            "temp_directory": str(Path(self.warehouse.temp_directory, f"duckdb-{uuid4().hex}")),
        }


def _attach(connection: duckdb.DuckDBPyConnection, reader: _Reader, lake: str) -> bool:
    """Attach a lake; whether it exists."""
    try:
        reader.warehouse.attach_read_only(connection, lake)
    except LakeMissingError as error:
        logger.warning("note: %s", error)
        return False
    except WarehouseError as error:
        raise ExploreError(
            f"the platform in {reader.home} does not answer. Is it down? ./codeloc up starts it.\n{error}"
        ) from None
    return True


# -- what `./codeloc sql` runs --------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a query and print or write its rows; without a query on a terminal, DuckDB's own shell."""
    parser = argparse.ArgumentParser(prog="python -m taxi_shared.explore")
    parser.add_argument("home", type=Path)
    parser.add_argument("--query")
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.query is None and sys.stdin.isatty():
            _shell(options.home)
        query = sys.stdin.read() if options.query is None else options.query
        with connect(options.home) as connection:
            # A table that is not there must not be taken for a variable of this program.
            connection.execute("SET python_enable_replacements = false")
            rows = connection.sql(query)
            if rows is None:
                raise ExploreError("the query returns no rows: end it with a SELECT")
            if options.output is not None:
                _write(connection, rows, options.output)
            elif options.format == "table":
                _print_table(connection, rows)
            else:
                _print_stream(connection, rows, options.format)
            sys.stdout.flush()
    except BrokenPipeError:
        # Who read has seen enough, as `head` does. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (duckdb.Error, ExploreError, OSError) as error:
        print(f"codeloc: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _print_table(connection: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000
    # Twice the query, on one state of the lakes, and nothing of its rows but those shown and their number.
    connection.execute("BEGIN")
    rows.limit(ROWS_SHOWN).show(max_rows=ROWS_SHOWN, max_width=width)
    count = len(rows)
    told = f"{count:,} row{'' if count == 1 else 's'}"
    if count > ROWS_SHOWN:
        told += f", of which the first {ROWS_SHOWN} are shown. -o FILE.csv or -o FILE.parquet writes all."
    print(told)  # noqa: T201


def _print_stream(connection: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, form: str) -> None:
    """Have DuckDB write the rows as it finds them.

    Through a pipe, because from /dev/stdout it would write over what a file of `>>` holds.
    """
    reading, writing = os.pipe()

    def copy() -> None:
        try:
            _copy(connection, rows, f"/dev/fd/{writing}", form)
        finally:
            os.close(writing)

    with ThreadPoolExecutor(1) as pool, os.fdopen(reading, "rb") as source:
        copying = pool.submit(copy)
        try:
            shutil.copyfileobj(source, sys.stdout.buffer)
        except BaseException:
            connection.interrupt()
            source.close()
            raise
        copying.result()


def _write(connection: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, file: Path) -> None:
    form = file.suffix.lower().removeprefix(".")
    if form not in ("csv", "parquet"):
        raise ExploreError(f"{file}: the name must end in .csv or .parquet")
    if not file.absolute().parent.is_dir():
        raise ExploreError(f"{file}: there is no folder {file.absolute().parent}")
    draft = file.with_name(f".{file.name}.{uuid4().hex}.part")
    try:
        count = _copy(connection, rows, str(draft), form)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    print(f"{count:,} row{'' if count == 1 else 's'} in {file}")  # noqa: T201


def _copy(connection: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, target: str, form: str) -> int:
    """Write the rows to a file or pipe and return how many they were."""
    rows.create_view(_ROWS)
    options = f"{_COPY_OPTIONS[form]}, USE_TMP_FILE false"
    row = connection.execute(f"COPY (FROM {_ROWS}) TO $target ({options})", {"target": target}).fetchone()
    return int(row[0]) if row else 0


def _shell(home: Path) -> None:
    """Become DuckDB's shell, with the lakes that exist attached."""
    spec = importlib.util.find_spec("duckdb_cli")
    if spec is None or spec.origin is None:
        raise ExploreError("DuckDB's shell is not installed in this environment: it comes with taxi-shared[shell]")
    reader = _Reader.of(home)
    with connect(home) as connection:
        attached = {name for (name,) in connection.execute("SELECT database_name FROM duckdb_databases()").fetchall()}
    setup = [
        *(f"SET {name} = {literal(str(value))}" for name, value in reader.configuration.items()),
        *reader.warehouse.preparation(),
        *(reader.warehouse.attach_statement(lake) for lake in reader.lakes if lake in attached),
        _LOOK,
    ]
    # The statements hold a password: a pipe leaves nothing on the disk and shows nothing to other users.
    reading, writing = os.pipe()
    os.write(writing, "".join(f"{statement};\n" for statement in setup).encode())
    os.close(writing)
    os.set_inheritable(reading, True)
    shell = str(Path(spec.origin).with_name("duckdb"))
    print(f"Lakes: {', '.join(sorted(attached & set(reader.lakes)))}. SHOW ALL TABLES lists what is in them.")  # noqa: T201
    sys.stdout.flush()
    os.execv(shell, [shell, "-init", f"/dev/fd/{reading}"])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
