"""The platform's two databases at one moment: dumped, loaded, and described row by row so that both can be compared.

Everything goes through Postgres' own programs, psql for questions too: they are there on this machine and in the
container alike, where nothing of ours could reach the server.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from codeloc import postgres
from codeloc.archive import LAKES
from codeloc.commands import Command
from codeloc.errors import CodelocError
from codeloc.psql import PSQL, Session, session

# A backup holds it, shared, in the database `warehouse` until it has the lakes' files. Whoever removes files of lakes
# holds it alone meanwhile: pg_advisory_lock(hashtextextended(BACKUP_LOCK, 0)).
BACKUP_LOCK = "codeloc backup"
# Held, in the database `postgres`, by whoever restores.
RESTORE_LOCK = "codeloc restore"

_TABLES = """
SELECT nspname AS schema, relname AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND relpersistence = 'p' AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1, 2
"""
_CONTENT = """
SELECT count(*) AS rows, coalesce(sum(hashtextextended((one_row_of_it.*)::text, 0)), 0)::text AS hash
FROM {table} AS one_row_of_it
"""
# Roles that own something in the database or were granted something.
_ROLES = """
SELECT DISTINCT rolname AS role FROM pg_shdepend
JOIN pg_roles ON refclassid = 'pg_authid'::regclass AND refobjid = pg_roles.oid
JOIN pg_database ON pg_database.oid = dbid WHERE datname = current_database()
"""
_CATALOGS = """
SELECT nspname AS schema FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relname = 'ducklake_data_file' ORDER BY 1
"""
_SNAPSHOT = "SELECT max(snapshot_id) AS snapshot FROM {catalog}.ducklake_snapshot"
# A table or schema that was renamed has several rows, of one path.
_LAKE_FILES = """
SELECT DISTINCT s.path || t.path || f.path AS path, f.file_size_bytes AS size,
    f.path_is_relative AND t.path_is_relative AND s.path_is_relative AS inside
FROM (
    SELECT table_id, path, path_is_relative, file_size_bytes FROM {catalog}.ducklake_data_file
    UNION ALL
    SELECT table_id, path, path_is_relative, file_size_bytes FROM {catalog}.ducklake_delete_file
) AS f
JOIN {catalog}.ducklake_table AS t USING (table_id) JOIN {catalog}.ducklake_schema AS s USING (schema_id)
ORDER BY 1
"""


@dataclass(frozen=True)
class Lake:
    """A lake at the moment of a backup: its newest snapshot, and the size in bytes of every file its catalog names."""

    snapshot: int
    files: dict[str, int]


@contextmanager
def moment(psql: Command) -> Iterator[dict[str, tuple[Session, str]]]:
    """Both databases as they are now: for each a session that sees nothing newer, and its snapshot for pg_dump.

    Two databases cannot share a snapshot. That of Dagster's history is taken first, a moment before
    the warehouse's: the data may be newer than the history, and the history never tells of data that
    is not there.
    """
    with session(psql, postgres.WAREHOUSE) as warehouse, session(psql, postgres.DAGSTER) as history:
        warehouse.value(_lock("pg_advisory_lock_shared", BACKUP_LOCK))
        seen = {}
        for database, opened in ((postgres.DAGSTER, history), (postgres.WAREHOUSE, warehouse)):
            opened.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            seen[database] = opened, str(opened.value("pg_export_snapshot()"))
        yield seen


@contextmanager
def alone(psql: Command) -> Iterator[None]:
    """Held by the one that restores.

    Raises
    ------
    CodelocError
        Another one does.
    """
    with session(psql, "postgres") as opened:
        if not opened.value(_lock("pg_try_advisory_lock", RESTORE_LOCK)):
            raise CodelocError("another ./codeloc restore is at work on this Postgres: wait for its end")
        yield


def _lock(function: str, name: str) -> str:
    return f"{function}(hashtextextended('{name}', 0))"


# -- what is in them ------------------------------------------------------------------------------


def content(opened: Session) -> dict[str, tuple[int, str]]:
    """Number of rows of every table, and a hash that any change of any value changes; their order does not matter."""
    found = {}
    for table in opened.rows(_TABLES):
        (row,) = opened.rows(_CONTENT.format(table=f"{_identifier(table['schema'])}.{_identifier(table['name'])}"))
        found[f"{table['schema']}.{table['name']}"] = row["rows"], row["hash"]
    return found


def roles(opened: Session) -> list[str]:
    """Roles that something in the database belongs to or is open to."""
    return sorted(row["role"] for row in opened.rows(_ROLES))


def lakes(warehouse: Session) -> dict[str, Lake]:
    """Every lake whose catalog is in the database, by name; its files' paths are those below the platform's home.

    Raises
    ------
    CodelocError
        A file of a lake lies outside its folder.
    """
    found = {}
    for row in warehouse.rows(_CATALOGS):
        schema = row["schema"]
        lake = schema.removeprefix("lake_")
        files = warehouse.rows(_LAKE_FILES.format(catalog=_identifier(schema)))
        for file in files:
            if not file["inside"]:
                raise CodelocError(
                    f"lake '{lake}' has a file outside its folder, {file['path']}: copy its rows into a table of the"
                    " lake's own, since a backup holds the lake's folder only"
                )
        (newest,) = warehouse.rows(_SNAPSHOT.format(catalog=_identifier(schema)))
        paths = {str(PurePosixPath(LAKES) / lake / file["path"]): int(file["size"]) for file in files}
        found[lake] = Lake(int(newest["snapshot"]), paths)
    return found


def what_is_there(psql: Command) -> str | None:
    """What the databases hold that a restore would overwrite; None: nothing."""
    with session(psql, "postgres") as server:
        there = {row["datname"] for row in server.rows("SELECT datname FROM pg_database")}
    if postgres.DAGSTER in there:
        with session(psql, postgres.DAGSTER) as history:
            if history.value("to_regclass('public.runs')") and (
                runs := history.value("(SELECT count(*) FROM public.runs)")
            ):
                return f"{runs:,} runs"
    if postgres.WAREHOUSE in there:
        with session(psql, postgres.WAREHOUSE) as warehouse:
            if tables := warehouse.rows(_TABLES):
                return f"{len(tables)} tables in the database {postgres.WAREHOUSE}"
    return None


# -- dump and load --------------------------------------------------------------------------------


def dump(pg_dump: Command, database: str, snapshot: str) -> Command:
    """What prints a database as it was at a snapshot, with owners and rights."""
    return pg_dump.with_words("-w", "-Fc", f"--snapshot={snapshot}", "-d", database)


def empty(psql: Command, database: str, owners: Iterable[str]) -> None:
    """Remove everything that belongs to these roles."""
    with session(psql, database) as opened:
        for role in owners:
            opened.run(f"DROP OWNED BY {_identifier(role)} CASCADE")


def load(psql: Command, pg_restore: Command, database: str) -> None:
    """Load a dump, which `pg_restore` makes a script of: another version's will do, as long as it is not older."""
    target = psql.with_words(*PSQL, "-o", "/dev/null", "-d", database, "--single-transaction", "-f", "-")
    # In this order: where psql gives up, its complaint is the cause, and pg_restore's of a broken pipe is not.
    with pg_restore.with_words("-f", "-").piped() as (_, script), target.piped() as (given_to, _):
        copy_script(script, given_to)


def copy_script(script: BinaryIO, given_to: BinaryIO) -> None:
    """Hand a script on, without what older servers do not know and do not need."""
    in_front = True
    for line in script:
        in_front = in_front and not line.startswith(b"COPY ")
        if in_front and line.startswith(b"SET transaction_timeout"):
            continue
        given_to.write(line)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
