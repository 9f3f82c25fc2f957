"""Keeps the daemon's connections to Dagster's Postgres open.

Dagster's storages connect anew for each statement, except in the webserver: a daemon that has nothing to do some twenty
times a second, and each time client and server spend about ten milliseconds on the password and a backend. There is no
setting for it. Runs do the same (shared/src/taxi_shared/connections.py): host and locations have no package in common.
"""

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL
    from sqlalchemy.engine import Connection, Engine


def keep_connections() -> None:
    """Have all of Dagster's storages in Postgres, in this process, take their connections from one pool."""
    from dagster_postgres.event_log import event_log
    from dagster_postgres.run_storage import run_storage
    from dagster_postgres.schedule_storage import schedule_storage

    for module in (event_log, run_storage, schedule_storage):
        vars(module)["create_pg_connection"] = _connection


@contextmanager
def _connection(engine: "Engine") -> "Iterator[Connection]":
    from dagster_postgres.utils import create_pg_connection
    from sqlalchemy import NullPool

    kept = _pooled(engine.url) if isinstance(engine.pool, NullPool) else engine
    with create_pg_connection(kept) as connection:
        yield connection


@functools.cache
def _pooled(url: "URL") -> "Engine":
    from sqlalchemy import create_engine

    # A connection that a restart of Postgres cut is noticed before it is used.
    return create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, max_overflow=-1)
