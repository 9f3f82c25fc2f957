"""The warehouse: one DuckLake per location, read by all, written only through `Warehouse.write`.

DuckDB lets a single process open a database file for writing, so two locations cannot share one.
DuckLake keeps the tables as Parquet files and their catalog in Postgres, and with it come
transactions across processes. What it leaves to its user is done here, each rule after an observed
failure:

- One writer per table. Two writers of different months of one table conflict, and two first loads of
  one month would both commit. `write` holds a lock per table from before BEGIN until after COMMIT.
- Data inlining is off, so rows are always in Parquet files and never in the catalog.
- A lake, and each table, is created under a lock of its own: of several processes that attach a lake
  or make a schema for the first time, all but one fail.
- Other locations' lakes are attached read-only, through a Postgres role that cannot write either.

What takes long need not keep other writers waiting: `draft` writes rows into files that no table has yet, and a
transaction that holds the lock adds them, which takes no time.

`Warehouse` extends dagster-duckdb's resource rather than using it as it is, because that one can
neither pass a catalog nor close its connection when the asset fails.
"""

import importlib.util
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from dagster import DagsterInvariantViolationError, EnvVar, OpExecutionContext
from dagster_duckdb import DuckDBResource
from pydantic import Field

from taxi_shared.contracts import TableContract
from taxi_shared.release import release_metadata
from taxi_shared.sql import identifier, literal

if TYPE_CHECKING:
    import psycopg2.extensions

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:"
# Locked while the lake or a table in it is created; no table has this name.
_WHOLE_LAKE = "*"
# A backup holds it, shared, until it has the lakes' files: codeloc/dumps.py.
BACKUP_LOCK = "codeloc backup"
# How files are written. The lowest level of zstd packs them nearly as well as the usual one in four fifths of the time.
# Of a file's rows a DELETE keeps every number in memory at once: so a file has at most 25 row groups, 3 million rows.
_FORMAT = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1, WRITE_BLOOM_FILTER false,"
    " ROW_GROUPS_PER_FILE 25, FILENAME_PATTERN 'ready-{uuidv7}', APPEND true, RETURN_FILES true"
)
# A file younger than this may belong to a write that goes on, or be read by somebody.
_UNTOUCHED = timedelta(days=1)


class WarehouseError(Exception):
    """The warehouse cannot be used as asked; the message names the lake or table and the next step."""


class LakeMissingError(WarehouseError):
    """Another location's lake does not exist yet: nothing was ever materialized into it."""


class TableBusyError(WarehouseError):
    """Another run held a table's lock for longer than `lock_timeout`. Passing: a retry may succeed."""


class Warehouse(DuckDBResource):
    """A location's own lake, writable, and other locations' lakes, read-only.

    Inside a connection the own lake is the default: its tables are `schema.table`. Another location's
    are `lake.schema.table`, for example `ingestion.raw.taxi_trips`.

    Examples
    --------
    >>> with warehouse.write(contract("raw.taxi_trips")) as connection:  # one transaction
    ...     connection.execute("DELETE FROM raw.taxi_trips WHERE file_month = ?", [month])
    ...     connection.execute("INSERT INTO raw.taxi_trips SELECT ...")
    >>> with warehouse.read() as connection:
    ...     connection.execute("SELECT count(*) FROM raw.taxi_trips").fetchone()
    """

    database: str = Field(default=":memory:", description="DuckDB's own database; the lakes are attached to it.")
    lake: str = Field(description="The location's own lake: the one it can write.")
    reads: list[str] = Field(default=[], description="Lakes of other locations, attached read-only.")
    catalog: str = Field(
        description="Where the catalogs live: a libpq connection string for Postgres, or"
        " `sqlite:FOLDER` for unit tests on one machine."
    )
    data_root: str = Field(
        description="Where the Parquet files live, one folder per lake: an absolute folder or `s3://bucket/prefix`."
    )
    threads: int = Field(default=2, description="DuckDB's threads for one connection.")
    memory_limit: str = Field(
        default="2GB",
        description="What one connection may hold in memory before it spills to `temp_directory`.",
    )
    temp_directory: str = Field(
        default="", description="Where each connection gets a folder to spill to; empty: the system's own."
    )
    lock_timeout: int = Field(
        default=1800, description="Seconds to wait for another run that is writing the same table."
    )
    s3_endpoint: str = Field(
        default="", description="Address of an S3 server other than Amazon's, for example https://minio:9000."
    )
    s3_region: str = Field(default="us-east-1")
    s3_access_key_id: str = Field(default="")
    s3_secret_access_key: str = Field(default="")

    @classmethod
    def from_environment(cls, lake: str, reads: Sequence[str] = ()) -> "Warehouse":
        """The warehouse of a location as its definitions declare it; every process sets the variables."""
        return cls(
            lake=lake,
            reads=list(reads),
            catalog=EnvVar("WAREHOUSE_CATALOG"),
            data_root=EnvVar("WAREHOUSE_DATA"),
            threads=EnvVar.int("WAREHOUSE_THREADS"),
            memory_limit=EnvVar("WAREHOUSE_MEMORY_LIMIT"),
            temp_directory=EnvVar("WAREHOUSE_TEMP"),
            s3_endpoint=EnvVar("WAREHOUSE_S3_ENDPOINT"),
            s3_region=EnvVar("WAREHOUSE_S3_REGION"),
            s3_access_key_id=EnvVar("WAREHOUSE_S3_ACCESS_KEY_ID"),
            s3_secret_access_key=EnvVar("WAREHOUSE_S3_SECRET_ACCESS_KEY"),
        )

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Same as `read`: the name dagster-duckdb's users know."""
        with self.read() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection on which every lake, the own one too, is read-only.

        Each statement sees the newest committed state; wrap several in BEGIN and COMMIT to have them
        see the same one.

        Raises
        ------
        LakeMissingError
            A lake holds nothing yet.
        """
        with self._connect(own_is_writable=False) as connection:
            yield connection

    @contextmanager
    def write(
        self,
        *tables: TableContract,
        appends: Sequence[TableContract] = (),
        on_commit: Callable[[int], None] | None = None,
        message: str | None = None,
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction that alone may change `tables`, which are brought to their contracts first.

        Everything executed inside is committed together when the block ends and undone when it
        raises or the process dies: readers see the tables as before or as after. The lake's
        `snapshots()` say who wrote what: the location, the tables, and the run and version of the code as JSON.

        Parameters
        ----------
        appends
            Tables that rows are added to and nothing else: several transactions may do so at once, so nobody waits.
        on_commit
            Is told the snapshot that the transaction made, once it is there: `AT (VERSION => snapshot)` reads it.
        message
            What the snapshot says that it is; None: that it writes these tables.

        Raises
        ------
        TableBusyError
            Another run wrote one of the tables for more than `lock_timeout` seconds.
        """
        if not tables:
            raise ValueError("give the contracts of the tables to be written")
        names = [table.table for table in tables]
        everything = [*tables, *appends]
        # Connected first: others need not wait for that too.
        with self._connect(own_is_writable=True) as connection, self._locks(names) as require_locks:
            self._create_missing(connection, everything)
            connection.execute("BEGIN")
            try:
                connection.execute(
                    f"CALL {identifier(self.lake)}.set_commit_message($author, $message, extra_info => $by)",
                    {
                        "author": self.lake,
                        "message": message or f"writes {', '.join(table.table for table in everything)}",
                        "by": json.dumps(_writer()),
                    },
                )
                yield connection
                # COMMIT of a transaction in which a statement failed rolls back without a word; any
                # other statement raises. So an error the caller swallowed still fails the write.
                connection.execute("SELECT 1")
                require_locks()
                connection.execute("COMMIT")
            except BaseException:
                _rollback(connection)
                raise
            if on_commit is not None:
                made = connection.execute(f"FROM {identifier(self.lake)}.last_committed_snapshot()").fetchone()
                if made is not None and made[0] is not None:  # nothing was written
                    on_commit(int(made[0]))

    @contextmanager
    def draft(self) -> "Iterator[Draft]":
        """Make rows ready for `write` while nobody waits: what it adds of them then takes it no time.

        What was not added when the block ends is removed; what a process that died left, `maintain` removes.
        """
        with self._database() as connection:
            for statement in self._file_system():
                connection.execute(statement)
            draft = Draft(connection, self.lake, self._data_path(self.lake))
            try:
                yield draft
            finally:
                draft.remove_rest()

    def maintain(self, keep: timedelta) -> "Maintenance":
        """Forget states of the lake that are older than `keep`, join small files, remove those that nobody needs.

        Nobody writes the lake meanwhile, and no backup of it is taken.

        Raises
        ------
        TableBusyError
            A table was written, or a backup taken, for more than `lock_timeout` seconds.
        """
        with self._connect(own_is_writable=True) as connection:
            tables = connection.execute(
                "SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE database_name = current_database()"
            ).fetchall()
            with self._locks([_WHOLE_LAKE, *(table for (table,) in tables)], without_backup=True) as require_locks:
                before = self._files(connection)
                now = datetime.now(UTC)
                expired = connection.execute(
                    "CALL ducklake_expire_snapshots($lake, older_than => $then)",
                    {"lake": self.lake, "then": now - keep},
                ).fetchall()
                require_locks()
                connection.execute("CALL ducklake_merge_adjacent_files($lake)", {"lake": self.lake})
                removed = [
                    *connection.execute(
                        "CALL ducklake_cleanup_old_files($lake, older_than => $then)",
                        {"lake": self.lake, "then": now - _UNTOUCHED},
                    ).fetchall(),
                    *connection.execute(
                        "CALL ducklake_delete_orphaned_files($lake, older_than => $then)",
                        {"lake": self.lake, "then": now - _UNTOUCHED},
                    ).fetchall(),
                ]
                return Maintenance(len(expired), before, self._files(connection), len(removed))

    def _files(self, connection: duckdb.DuckDBPyConnection) -> int:
        counted = connection.execute(
            "SELECT coalesce(sum(file_count + delete_file_count), 0) FROM ducklake_table_info($lake)",
            {"lake": self.lake},
        ).fetchone()
        return int(counted[0]) if counted else 0

    # -- connection -------------------------------------------------------------------------------

    @contextmanager
    def _connect(self, own_is_writable: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._database() as connection:
            for statement in self.preparation():
                connection.execute(statement)
            if own_is_writable:
                self._attach_own(connection)
            else:
                self.attach_read_only(connection, self.lake)
            for lake in self.reads:
                self.attach_read_only(connection, lake)
            connection.execute(f"USE {identifier(self.lake)}")
            yield connection

    @contextmanager
    def _database(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """DuckDB with the settings of a connection to the lakes, and without them."""
        with ExitStack() as stack:
            # One folder per connection: DuckDB names spilled files alike in every process, and two that
            # share a folder overwrite and remove each other's.
            spill = tempfile.TemporaryDirectory(
                prefix="duckdb-", dir=self.temp_directory or None, ignore_cleanup_errors=True
            )
            config = {**self.configuration, "temp_directory": stack.enter_context(spill), **self.connection_config}
            connection = duckdb.connect(self.database, config=config)
            stack.callback(connection.close)
            yield connection

    @property
    def configuration(self) -> dict[str, str | bool | int | float | list[str]]:
        """DuckDB's settings for a connection to the lakes, but for its folder to spill to."""
        return {
            "autoinstall_known_extensions": False,
            "threads": self.threads,
            "memory_limit": self.memory_limit,
        }

    def preparation(self) -> list[str]:
        """SQL that a DuckDB needs before it can attach lakes; it may hold a secret."""
        needed = ["sqlite_scanner" if self._catalog_folder else "postgres_scanner", "ducklake"]
        return [*(statement for name in needed for statement in _load_statements(name)), *self._file_system()]

    def _file_system(self) -> list[str]:
        """SQL that a DuckDB needs before it can reach the lakes' files."""
        statements: list[str] = []
        if self.data_root.startswith("s3://"):
            statements += _load_statements("httpfs")
            secret = {
                "KEY_ID": self.s3_access_key_id,
                "SECRET": self.s3_secret_access_key,
                "REGION": self.s3_region,
            }
            if self.s3_endpoint:
                scheme, _, host = self.s3_endpoint.rpartition("://")
                secret |= {"ENDPOINT": host, "URL_STYLE": "path", "USE_SSL": str(scheme != "http")}
            options = ", ".join(f"{option} {literal(value)}" for option, value in secret.items())
            statements.append(f"CREATE SECRET lake_files (TYPE s3, {options})")
        return statements

    def _attach_own(self, connection: duckdb.DuckDBPyConnection) -> None:
        if not self.data_root.startswith("s3://"):
            Path(self._data_path(self.lake)).mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            if not self._lake_exists():
                # The first writers of two tables would otherwise both create it.
                stack.enter_context(self._locks([_WHOLE_LAKE]))
            self._attach(connection, self.lake, "DATA_INLINING_ROW_LIMIT 0")

    def attach_read_only(self, connection: duckdb.DuckDBPyConnection, lake: str) -> None:
        """Attach a lake so that nothing can be written to it.

        Raises
        ------
        LakeMissingError
            It holds nothing yet.
        WarehouseError
            Its catalog cannot be reached.
        """
        try:
            self._attach(connection, lake, "READ_ONLY")
        except WarehouseError as error:
            # What DuckLake says of a schema and of a file that is not there.
            if not any(sign in str(error) for sign in ("Existing DuckLake", "unable to open database file")):
                raise
            raise LakeMissingError(
                f"the lake '{lake}' does not exist yet: materialize an asset of location '{lake}' first"
            ) from None

    def _attach(self, connection: duckdb.DuckDBPyConnection, lake: str, options: str) -> None:
        if self._catalog_folder is not None:
            self._catalog_folder.mkdir(parents=True, exist_ok=True)
        try:
            connection.execute(self.attach_statement(lake, options))
        except duckdb.Error as error:
            raise WarehouseError(f"lake '{lake}' cannot be attached: {without_password(error)}") from None

    def attach_statement(self, lake: str, options: str = "READ_ONLY") -> str:
        """SQL that attaches a lake; it holds the catalog's password."""
        # The setting, not the path the lake was made with: files can be moved together with the catalog.
        options += f", DATA_PATH {literal(self._data_path(lake))}, OVERRIDE_DATA_PATH true"
        folder = self._catalog_folder
        if folder is None:
            source = f"ducklake:postgres:{self.catalog}"
            options += f", METADATA_SCHEMA {literal(metadata_schema(lake))}"
        else:
            source = f"ducklake:sqlite:{folder / lake}.sqlite"
        return f"ATTACH {literal(source)} AS {identifier(lake)} ({options})"

    def _data_path(self, lake: str) -> str:
        return f"{self.data_root.rstrip('/')}/{lake}/"

    def _create_missing(self, connection: duckdb.DuckDBPyConnection, tables: Sequence[TableContract]) -> None:
        if not any(_missing_statements(connection, table) for table in tables):
            return
        # Before the transaction and under the lake's lock: two first writers of different tables
        # would both create their schema, and the later commit would fail.
        with self._locks([_WHOLE_LAKE]):
            for table in tables:
                for statement in _missing_statements(connection, table):
                    connection.execute(statement)

    # -- locks ------------------------------------------------------------------------------------

    @property
    def _catalog_folder(self) -> Path | None:
        return Path(self.catalog.removeprefix(_SQLITE)) if self.catalog.startswith(_SQLITE) else None

    def _lake_exists(self) -> bool:
        if self._catalog_folder is not None:
            return (self._catalog_folder / f"{self.lake}.sqlite").exists()
        with self._postgres_session() as session, session.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s)", [f"{metadata_schema(self.lake)}.ducklake_metadata"])
            row = cursor.fetchone()
            return row is not None and row[0] is not None

    @contextmanager
    def _locks(self, tables: Sequence[str], without_backup: bool = False) -> Iterator[Callable[[], None]]:
        """Hold the tables' locks; what is yielded raises WarehouseError if they were lost meanwhile."""
        # Sorted, so that two runs that write the same two tables never wait for each other.
        names = [f"lake:{self.lake}.{table}" for table in sorted(set(tables))]
        names += [BACKUP_LOCK] if without_backup else []
        with ExitStack() as stack:
            if self._catalog_folder is None:
                session = stack.enter_context(self._postgres_session())
                for name in names:
                    self._lock_in_postgres(session, name)
                yield lambda: self._require_session(session)
            else:
                self._lock_file(stack, self._catalog_folder, names[0])
                yield lambda: None  # a file's lock is lost with the process only

    @contextmanager
    def _postgres_session(self) -> "Iterator[psycopg2.extensions.connection]":
        import psycopg2

        try:
            session = psycopg2.connect(self.catalog, application_name=f"warehouse {self.lake}")
        except psycopg2.OperationalError as error:
            raise WarehouseError(
                f"the catalog of lake '{self.lake}' cannot be reached: {without_password(error)}\n"
                "Check that Postgres is up and that WAREHOUSE_CATALOG names it."
            ) from None
        try:
            session.autocommit = True
            yield session
        finally:
            # Closing the session gives its locks back; so does the death of this process.
            session.close()

    def _require_session(self, session: "psycopg2.extensions.connection") -> None:
        import psycopg2

        try:
            with session.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            raise WarehouseError(
                f"the session that held the locks of lake '{self.lake}' was ended: nothing was changed. Run this again."
            ) from None

    def _lock_in_postgres(self, session: "psycopg2.extensions.connection", name: str) -> None:
        import psycopg2.errors

        with session.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [name])
            row = cursor.fetchone()
            if row is not None and row[0]:
                return
            logger.info("waiting for another run that is writing %s", name.removeprefix("lake:"))
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{self.lock_timeout}s"])
            try:
                cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
            except psycopg2.errors.LockNotAvailable:
                raise self._busy(name) from None

    def _lock_file(self, stack: ExitStack, folder: Path, name: str) -> None:
        import filelock

        # One for the whole lake, since SQLite lets one process write at a time and gives up on the
        # others after seconds. A singleton, so that a holder may take it again.
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{self.lake}.lock", is_singleton=True)
        try:
            stack.enter_context(lock.acquire(timeout=self.lock_timeout))
        except filelock.Timeout:
            raise self._busy(name) from None

    def _busy(self, name: str) -> TableBusyError:
        return TableBusyError(
            f"{name.removeprefix('lake:')} was being written by another run for more than {self.lock_timeout} s."
            " Look for a run of the same asset that hangs, end it, and run this one again."
        )


class Draft:
    """Rows that are ready: Parquet files beside a table's own, which no table has yet.

    Attributes
    ----------
    connection
        A DuckDB that can reach the lakes' files and no lake.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: str, data_path: str) -> None:
        self.connection = connection
        self._lake = lake
        self._data_path = data_path
        self._left: list[Files] = []

    def put(self, table: TableContract, rows: str, **partition: object) -> "Files":
        """Write the rows of one partition of a table.

        Parameters
        ----------
        rows
            A query for all of the table's columns but those that it is partitioned by.
        partition
            The values of those, in their order.
        """
        schema, name = table.table.split(".")
        values = "/".join(f"{column}={value}" for column, value in partition.items())
        # Where DuckLake itself puts them: it cannot join a partition's files that lie in different folders.
        folder = f"{self._data_path}{schema}/{name}/{values}"
        if not folder.startswith("s3://"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        written = self.connection.execute(f"COPY ({rows}) TO {literal(folder)} ({_FORMAT})").fetchone()
        count, paths = written or (0, [])
        files = Files(table, tuple(paths), int(count))
        self._left.append(files)
        return files

    def add(self, connection: duckdb.DuckDBPyConnection, files: "Files") -> None:
        """Make them rows of their table, in a transaction of `Warehouse.write`.

        Raises
        ------
        WarehouseError
            A required column holds nulls.
        """
        if not files.rows:
            return
        schema, name = files.table.table.split(".")
        required = [column.name for column in files.table.columns if column.required]
        # A table's own constraints are not looked at when files are added.
        missing = connection.execute(
            """SELECT DISTINCT path_in_schema FROM parquet_metadata($files)
            WHERE list_contains($required, path_in_schema) AND coalesce(stats_null_count, 1) > 0""",
            {"files": list(files.paths), "required": required},
        ).fetchall()
        if missing:
            raise WarehouseError(f"{files.table.table}: column {missing[0][0]} may not be null")
        connection.execute(
            "CALL ducklake_add_data_files($lake, $table, $files, schema => $schema, hive_partitioning => true)",
            {"lake": self._lake, "table": name, "files": list(files.paths), "schema": schema},
        )
        # From here on it is up to the transaction; what it undoes, `maintain` removes.
        self._left.remove(files)

    def remove_rest(self) -> None:
        """Remove what was not added; on S3 that is left to `maintain`."""
        for path in (path for files in self._left for path in files.paths):
            if not path.startswith("s3://"):
                Path(path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Files:
    """Some rows of one partition of a table, and where they are."""

    table: TableContract
    paths: tuple[str, ...]
    rows: int

    @property
    def content(self) -> str:
        """SQL: what has the rows, with all columns of the table."""
        types = ", ".join(
            f"{column.name}: {column.type}" for column in self.table.columns if column.name in self.table.partitioned_by
        )
        paths = ", ".join(map(literal, self.paths))
        return f"read_parquet([{paths}], hive_partitioning = true, hive_types = {{{types}}})"


@dataclass(frozen=True)
class Maintenance:
    """What was done for a lake: states forgotten, its files before and after, files removed."""

    expired_snapshots: int
    files_before: int
    files_after: int
    removed_files: int


def _writer() -> dict[str, str]:
    """Who writes, as far as the process knows: the version of the code, its image, Dagster's run."""
    try:
        run = {"run_id": OpExecutionContext.get().run.run_id}
    except DagsterInvariantViolationError:
        run = {}
    return release_metadata() | run


def metadata_schema(lake: str) -> str:
    """The Postgres schema that holds the catalog of `lake`."""
    return f"lake_{lake}"


def without_password(error: Exception) -> str:
    """What the error says, with the password of a connection string masked."""
    # As libpq writes it: plain, or quoted with backslashes.
    return re.sub(r"password=('(?:\\.|[^'\\])*'|\S+)", "password=***", str(error)).strip()


def _missing_statements(connection: duckdb.DuckDBPyConnection, table: TableContract) -> list[str]:
    """What brings the table in the own lake to its contract: nothing, its creation, or further columns.

    Raises
    ------
    WarehouseError
        The table cannot be brought there without a decision on the rows it holds.
    """
    schema, name = table.table.split(".")
    found = dict(
        connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns()"
            " WHERE database_name = current_database() AND schema_name = $schema AND table_name = $name",
            {"schema": schema, "name": name},
        ).fetchall()
    )
    if not found:
        return list(table.create_statements)
    added = [column for column in table.columns if column.name not in found]
    changed = [
        *(f"{column.name} would become NOT NULL" for column in added if column.required),
        *(
            f"{column.name} would change from {found[column.name]} to {column.type}"
            for column in table.columns
            if column.name in found and found[column.name] != column.type
        ),
        *(f"{column} would be dropped" for column in found if column not in {c.name for c in table.columns}),
    ]
    if changed:
        raise WarehouseError(
            f"{table.table} holds rows of an earlier contract, and {'; '.join(changed)}. Only columns that may be null"
            " are added by themselves: give the new contract another table name, or migrate the table by hand."
        )
    return [f"ALTER TABLE {table.table} ADD COLUMN {column.name} {column.type}" for column in added]


def _load_statements(name: str) -> list[str]:
    # By path, from the pinned wheel: needs no network and no home folder, and DuckDB verifies the signature.
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        return [f"INSTALL {name}", f"LOAD {name}"]
    file = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not file.exists():
        raise WarehouseError(
            f"the installed duckdb-extension wheel for {name} is not for DuckDB {duckdb.__version__}:"
            " pin both to the same version in shared/pyproject.toml"
        )
    return [f"LOAD {literal(str(file))}"]


def _rollback(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.execute("ROLLBACK")
    except duckdb.Error as error:
        # After a failed COMMIT DuckDB has already ended the transaction; the first error is the one to show.
        logger.debug("nothing to roll back: %s", error)
