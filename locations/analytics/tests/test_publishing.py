"""Tables of the lake as Postgres tables, on a real Postgres: rows, shape, and what readers see meanwhile."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from analytics import publishing
from analytics.periods import Period
from analytics.publishing import POSTGRES_TYPES, BiDatabase, PublishingError, publish
from taxi_shared.contracts import Column, TableContract
from taxi_shared.warehouse import Warehouse

from conftest import execute, lake_in

PROCESSES = multiprocessing.get_context("spawn")
TABLE = TableContract(
    table="marts.Days",
    version="1.0.0",
    owner="analytics",
    description="What's on each day",
    columns=(
        Column("service", "VARCHAR", "Yellow or green", True),
        Column("moment", "TIMESTAMP", "Time of it", True),
        Column("Trips", "BIGINT", "Trips of it", True),
        Column("note", "VARCHAR", "A note: 'quoted', 100 %", False),
    ),
    key=("moment", "service"),
    partitioned_by=(),
    latest=timedelta(days=1),
)
JANUARY = Period("green", date(2023, 1, 1), date(2023, 2, 1))
FEBRUARY = Period("green", date(2023, 2, 1), date(2023, 3, 1))
OLD = [
    ("green", datetime(2023, 1, 1), 1, "first"),
    ("green", datetime(2023, 1, 31, 23, 59, 59, 999999), 2, None),
    ("green", datetime(2023, 2, 1), 3, ""),
    ("yellow", datetime(2023, 1, 1), 4, "another service"),
]


@pytest.fixture
def lake(tmp_path: Path) -> Warehouse:
    return lake_in(tmp_path, "analytics")


def fill(lake: Warehouse, rows: list[tuple[Any, ...]], table: TableContract = TABLE) -> None:
    """Make these the rows of the lake's table."""
    with lake.write(table) as connection:
        connection.execute(f"DELETE FROM {table.table}")
        connection.executemany(f"INSERT INTO {table.table} VALUES ({', '.join('?' * len(table.columns))})", rows)


def published(bi_database: BiDatabase, table: str = "marts.days") -> list[tuple[Any, ...]]:
    return sorted(execute(bi_database.connection_string, f"SELECT * FROM {table}"), key=repr)


@pytest.fixture
def old(lake: Warehouse, bi_database: BiDatabase) -> list[tuple[Any, ...]]:
    """Rows that were published before."""
    fill(lake, OLD)
    publish(lake, bi_database, TABLE, "moment", [JANUARY])
    return sorted(OLD, key=repr)


# -- rows -----------------------------------------------------------------------------------------


def test_every_value_arrives_as_it_is(lake: Warehouse, bi_database: BiDatabase) -> None:
    values: dict[str, list[Any]] = {
        "VARCHAR": ["", "NULL", "\\N", "\\.", "a,b", 'a "b"', "a\nb\r\nc", " a ", "Ødegård 🚕", "\\", "'"],
        "DATE": [date(1, 1, 1), date(2024, 2, 29), date(9999, 12, 31)],
        "TIMESTAMP": [datetime(1, 1, 1), datetime(2023, 3, 12, 2, 30, 0, 1), datetime(2023, 1, 1, 23, 59, 59, 999999)],
        "SMALLINT": [-(2**15), 2**15 - 1],
        "INTEGER": [-(2**31), 2**31 - 1],
        "BIGINT": [-(2**63), 2**63 - 1],
        "DOUBLE": [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1e16, 123456789.123456789, float("inf")],
        "BOOLEAN": [True, False],
    }
    assert values.keys() == POSTGRES_TYPES.keys()
    names = {kind: f"a_{kind.lower()}" for kind in values}
    table = replace(
        TABLE,
        columns=(*TABLE.columns[:3], *(Column(names[kind], kind, "Of this type", False) for kind in values)),
    )
    count = max(map(len, values.values()))
    rows = [
        ("green", datetime(2023, 1, 1), number, *((found + [None] * count)[number] for found in values.values()))
        for number in range(count)
    ]
    table = replace(table, key=("service", "moment", "Trips"))
    fill(lake, rows, table)
    publish(lake, bi_database, table, "moment", [JANUARY])
    assert published(bi_database) == sorted(rows, key=repr)
    # Not only into an empty table.
    assert not publish(lake, bi_database, table, "moment", [JANUARY]).made_anew
    assert published(bi_database) == sorted(rows, key=repr)


def test_a_table_that_is_missing_gets_every_row_of_the_lakes(lake: Warehouse, bi_database: BiDatabase) -> None:
    fill(lake, OLD)
    done = publish(lake, bi_database, TABLE, "moment", [JANUARY])
    assert done.made_anew
    assert done.rows == {JANUARY: 2}
    assert done.all_rows == 4
    newest = done.newest.records[0].data
    assert newest == {"service": "green", "moment": "2023-02-01 00:00:00", "trips": 3, "note": ""}
    assert published(bi_database) == sorted(OLD, key=repr)


def test_requested_periods_become_the_lakes_and_others_stay(
    lake: Warehouse, bi_database: BiDatabase, old: list[tuple[Any, ...]]
) -> None:
    new = [
        ("green", datetime(2023, 1, 15), 5, "new"),
        ("green", datetime(2023, 1, 31, 23, 59, 59, 999999), 6, "changed"),
        ("green", datetime(2023, 2, 1), 7, "not asked for"),
        ("green", datetime(2023, 2, 2), 8, "not asked for"),
        ("yellow", datetime(2023, 1, 2), 9, "not asked for"),
    ]
    fill(lake, new)
    done = publish(lake, bi_database, TABLE, "moment", [JANUARY])
    assert not done.made_anew
    assert done.rows == {JANUARY: 2}
    assert published(bi_database) == sorted([*new[:2], *OLD[2:]], key=repr)
    done = publish(lake, bi_database, TABLE, "moment", [JANUARY, FEBRUARY])
    assert done.rows == {JANUARY: 2, FEBRUARY: 2}
    assert published(bi_database) == sorted([*new[:4], OLD[3]], key=repr)


def test_a_period_that_the_lake_has_no_rows_of_any_more_is_emptied(
    lake: Warehouse, bi_database: BiDatabase, old: list[tuple[Any, ...]]
) -> None:
    fill(lake, OLD[2:])
    assert publish(lake, bi_database, TABLE, "moment", [JANUARY]).rows == {JANUARY: 0}
    assert published(bi_database) == sorted(OLD[2:], key=repr)


# -- shape ----------------------------------------------------------------------------------------


def described(bi_database: BiDatabase) -> tuple[str, dict[str, tuple[str, str, bool]], list[str]]:
    """Comment of the table; type, comment and NOT NULL of each column; columns of the key."""
    columns = execute(
        bi_database.connection_string,
        """SELECT column_name, data_type, col_description('marts.days'::regclass, ordinal_position), is_nullable
        FROM information_schema.columns WHERE table_schema = 'marts' AND table_name = 'days' ORDER BY ordinal_position
        """,
    )
    key = execute(
        bi_database.connection_string,
        """SELECT k.column_name FROM information_schema.table_constraints c
        JOIN information_schema.key_column_usage k USING (constraint_schema, constraint_name)
        WHERE c.constraint_type = 'PRIMARY KEY' AND c.table_schema = 'marts' AND c.table_name = 'days'
        ORDER BY k.ordinal_position""",
    )
    ((comment,),) = execute(bi_database.connection_string, "SELECT obj_description('marts.days'::regclass)")
    by_name = {name: (kind, told, nullable == "NO") for name, kind, told, nullable in columns}
    return comment, by_name, [name for (name,) in key]


@pytest.mark.usefixtures("old")
def test_names_are_lower_case_and_types_comments_and_key_are_the_contracts(bi_database: BiDatabase) -> None:
    assert described(bi_database) == (
        "What's on each day",
        {
            "service": ("text", "Yellow or green", True),
            "moment": ("timestamp without time zone", "Time of it", True),
            "trips": ("bigint", "Trips of it", True),
            "note": ("text", "A note: 'quoted', 100 %", False),
        },
        ["moment", "service"],
    )
    assert execute(bi_database.connection_string, "SELECT tableowner FROM pg_tables WHERE schemaname = 'marts'") == [
        ("analytics",)
    ]


@pytest.mark.parametrize(
    "changed",
    [
        replace(TABLE, columns=(*TABLE.columns, Column("more", "DOUBLE", "More of it", False))),
        replace(TABLE, columns=TABLE.columns[:3]),
        replace(TABLE, columns=(TABLE.columns[0], replace(TABLE.columns[1], type="DATE"), *TABLE.columns[2:])),
        replace(TABLE, columns=(*TABLE.columns[:3], replace(TABLE.columns[3], required=True))),
        replace(TABLE, key=("service", "moment")),
        replace(TABLE, key=("service", "moment", "Trips")),
    ],
    ids=["column added", "column dropped", "type", "not null", "order of the key", "key"],
)
def test_a_changed_contract_makes_the_table_anew(
    tmp_path: Path, bi_database: BiDatabase, old: list[tuple[Any, ...]], changed: TableContract
) -> None:
    rows: list[tuple[Any, ...]] = [
        (service, moment, trips, note or "", 1.5)[: len(changed.columns)] for service, moment, trips, note in OLD
    ]
    if changed.columns[1].type == "DATE":
        rows = [(service, moment.date(), *others) for service, moment, *others in rows]
    other = lake_in(tmp_path / "changed", "analytics")
    fill(other, rows, changed)
    done = publish(other, bi_database, changed, "moment", [JANUARY])
    assert done.made_anew
    assert published(bi_database) == sorted(rows, key=repr)
    _, columns, key = described(bi_database)
    assert list(columns) == [column.name.lower() for column in changed.columns]
    assert key == [name.lower() for name in changed.key]
    assert not publish(other, bi_database, changed, "moment", [JANUARY]).made_anew


@pytest.mark.usefixtures("old")
def test_a_changed_description_does_not_make_the_table_anew(lake: Warehouse, bi_database: BiDatabase) -> None:
    changed = replace(
        TABLE,
        description="Otherwise",
        columns=(*TABLE.columns[:3], replace(TABLE.columns[3], description="Another note")),
    )
    assert not publish(lake, bi_database, changed, "moment", [JANUARY]).made_anew
    comment, columns, _ = described(bi_database)
    assert (comment, columns["note"][1], columns["moment"][1]) == ("Otherwise", "Another note", "Time of it")


def test_a_view_on_a_table_that_must_be_made_anew_is_named(
    lake: Warehouse, bi_database: BiDatabase, old: list[tuple[Any, ...]]
) -> None:
    execute(bi_database.connection_string, "CREATE VIEW marts.somebodys AS SELECT moment, note FROM marts.days")
    assert not publish(lake, bi_database, TABLE, "moment", [JANUARY]).made_anew
    with pytest.raises(PublishingError, match=r"marts\.Days .* view marts\.somebodys depends on"):
        publish(lake, bi_database, replace(TABLE, key=("service", "moment")), "moment", [JANUARY])
    assert published(bi_database) == old
    assert execute(bi_database.connection_string, "SELECT count(*) FROM marts.somebodys") == [(4,)]


def test_rows_that_break_the_key_are_not_published(
    lake: Warehouse, bi_database: BiDatabase, old: list[tuple[Any, ...]]
) -> None:
    fill(lake, [*OLD, OLD[0]])
    with pytest.raises(PublishingError, match=r"(?s)marts\.Days was not published.*already exists"):
        publish(lake, bi_database, TABLE, "moment", [JANUARY])
    assert published(bi_database) == old


def test_a_type_without_a_counterpart_is_named_before_anything_is_asked(lake: Warehouse) -> None:
    table = replace(TABLE, columns=(*TABLE.columns, Column("places", "INTEGER[]", "Several", False)))
    nowhere = BiDatabase(connection_string="host=/nonexistent dbname=warehouse")
    with pytest.raises(PublishingError, match=r"marts\.Days: there is no Postgres type for places INTEGER\[\]"):
        publish(lake, nowhere, table, "moment", [JANUARY])


def test_a_schema_that_was_never_made_is_named_with_the_setting(lake: Warehouse, bi_database: BiDatabase) -> None:
    with pytest.raises(PublishingError, match=r"no schema 'others' .* \[tool\.codeloc\.bi_schemas\]"):
        publish(lake, bi_database, replace(TABLE, table="others.days"), "moment", [JANUARY])


def test_a_database_that_is_away_is_named_without_its_password(lake: Warehouse) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        away = BiDatabase(connection_string=f"host=127.0.0.1 port={port} dbname=w user=a password=hunter2")
        with pytest.raises(PublishingError, match=f"port {port} failed") as caught:
            publish(lake, away, TABLE, "moment", [JANUARY])
    assert "hunter2" not in str(caught.value)
    assert away.address == f"postgresql://127.0.0.1:{port}/w"


# -- readers and other writers --------------------------------------------------------------------


def test_a_reader_keeps_its_snapshot_while_the_table_is_published(
    lake: Warehouse, bi_database: BiDatabase, old: list[tuple[Any, ...]]
) -> None:
    reader = psycopg2.connect(bi_database.connection_string)
    reader.set_session(isolation_level="REPEATABLE READ", readonly=True)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM marts.days")
            fill(lake, [("green", datetime(2023, 1, 20), 10, "new")])
            publish(lake, bi_database, TABLE, "moment", [JANUARY])
            cursor.execute("SELECT * FROM marts.days")
            assert sorted(cursor.fetchall(), key=repr) == old
    finally:
        reader.close()
    assert [row for row in published(bi_database) if row[0] == "green"] == [
        ("green", datetime(2023, 1, 20), 10, "new"),
        OLD[2],
    ]


def test_a_reader_that_stays_in_a_table_to_be_made_anew_is_told_of(
    lake: Warehouse, bi_database: BiDatabase, old: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_READERS", 1)
    changed = replace(TABLE, key=("service", "moment"))
    reader = psycopg2.connect(bi_database.connection_string)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM marts.days")
            with pytest.raises(PublishingError, match=r"marts\.Days .* somebody has been reading it"):
                publish(lake, bi_database, changed, "moment", [JANUARY])
    finally:
        reader.close()
    assert published(bi_database) == old
    assert publish(lake, bi_database, changed, "moment", [JANUARY]).made_anew


def publish_and_hang(folder: Path, connection_string: str, done: Event) -> None:
    """Publish up to the moment before the commit."""

    def hang(*_arguments: object) -> None:
        done.set()
        signal.pause()

    publishing._published = hang  # type: ignore[assignment]
    publish(lake_in(folder, "analytics"), BiDatabase(connection_string=connection_string), TABLE, "moment", [JANUARY])


def publish_january(folder: Path, connection_string: str) -> None:
    publish(lake_in(folder, "analytics"), BiDatabase(connection_string=connection_string), TABLE, "moment", [JANUARY])


def test_a_publisher_killed_before_its_end_changes_nothing_and_the_next_one_was_waiting(
    tmp_path: Path, lake: Warehouse, bi_database: BiDatabase, old: list[tuple[Any, ...]]
) -> None:
    fill(lake, [("green", datetime(2023, 1, 20), 10, "new")])
    done = PROCESSES.Event()
    first = PROCESSES.Process(target=publish_and_hang, args=(tmp_path, bi_database.connection_string, done))
    second = PROCESSES.Process(target=publish_january, args=(tmp_path, bi_database.connection_string))
    first.start()
    assert done.wait(60)
    # Neither half a table nor a lock for those who read.
    assert published(bi_database) == old
    second.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    wait_for(lambda: execute(bi_database.connection_string, waiting) == [(1,)])
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join(60)
    second.join(60)
    assert second.exitcode == 0
    assert published(bi_database) == sorted([("green", datetime(2023, 1, 20), 10, "new"), *OLD[2:]], key=repr)


def test_first_publications_at_once_leave_the_right_rows(
    tmp_path: Path, lake: Warehouse, bi_database: BiDatabase
) -> None:
    fill(lake, OLD)
    publishers = [
        PROCESSES.Process(target=publish_january, args=(tmp_path, bi_database.connection_string)) for _ in range(3)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(60)
    assert [publisher.exitcode for publisher in publishers] == [0, 0, 0]
    assert published(bi_database) == sorted(OLD, key=repr)
    assert execute(bi_database.connection_string, "SELECT tablename FROM pg_tables WHERE schemaname = 'marts'") == [
        ("days",)
    ]


def wait_for(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)
