"""The warehouse on a SQLite catalog (no server needed); on Postgres it is tested in the top-level tests."""

import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pytest
from taxi_shared import warehouse as warehouse_module
from taxi_shared.contracts import Column, TableContract
from taxi_shared.warehouse import LakeMissingError, TableBusyError, Warehouse, WarehouseError, without_password


# The processes below must not inherit DuckDB's or a lock's state.
def table(name: str) -> TableContract:
    columns = (Column("month", "INTEGER", "", True), Column("n", "BIGINT", "", False))
    return TableContract(name, "1.0.0", "one", "", columns, ("month", "n"), (), timedelta(days=1))


TABLE = table("s.t")
PROCESSES = multiprocessing.get_context("spawn")


def lake_of(folder: Path, lake: str = "one", reads: tuple[str, ...] = (), lock_timeout: int = 60) -> Warehouse:
    return Warehouse(
        lake=lake,
        reads=list(reads),
        catalog=f"sqlite:{folder}/catalog",
        data_root=f"{folder}/data",
        lock_timeout=lock_timeout,
    )


def rows(warehouse: Warehouse, name: str = "s.t") -> list[tuple[int, int]]:
    with warehouse.read() as connection:
        return connection.execute(f"SELECT month, count(*) FROM {name} GROUP BY 1 ORDER BY 1").fetchall()


def replace_month(folder: Path, month: int, count: int, name: str = "s.t") -> None:
    with lake_of(folder).write(table(name)) as connection:
        connection.execute(f"DELETE FROM {name} WHERE month = ?", [month])
        connection.execute(f"INSERT INTO {name} SELECT ?, range FROM range(?)", [month, count])


def replace_month_and_hang(folder: Path, month: int, written: Event) -> None:
    with lake_of(folder).write(TABLE) as connection:
        connection.execute("DELETE FROM s.t WHERE month = ?", [month])
        connection.execute("INSERT INTO s.t SELECT ?, range FROM range(70)", [month])
        written.set()
        signal.pause()


def test_a_transaction_that_fails_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 10)
    with pytest.raises(RuntimeError, match="stop"), lake_of(tmp_path).write(TABLE) as connection:
        connection.execute("DELETE FROM s.t")
        raise RuntimeError("stop")
    assert rows(lake_of(tmp_path)) == [(1, 10)]


def test_a_reader_cannot_write_its_own_lake(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 10)
    with lake_of(tmp_path).read() as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("DELETE FROM s.t")


def test_another_lake_is_readable_and_not_writable(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 10)
    other = lake_of(tmp_path, "two", reads=("one",))
    with other.write(table("m.copy")) as connection:
        connection.execute("INSERT INTO m.copy FROM one.s.t")
    with pytest.raises(duckdb.Error, match="read-only"), other.write(table("m.copy")) as connection:
        connection.execute("DELETE FROM one.s.t")
    assert rows(other, "m.copy") == [(1, 10)]


def test_an_error_swallowed_inside_a_write_still_fails_it(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 10)
    with pytest.raises(duckdb.Error, match="aborted"), lake_of(tmp_path).write(TABLE) as connection:
        connection.execute("DELETE FROM s.t")
        with contextlib.suppress(duckdb.Error):
            connection.execute("INSERT INTO s.t SELECT 'not a month', 1")
    assert rows(lake_of(tmp_path)) == [(1, 10)]


def test_a_missing_lake_says_which_location_to_run(tmp_path: Path) -> None:
    expected = pytest.raises(LakeMissingError, match="materialize an asset of location 'one' first")
    with expected, lake_of(tmp_path, "two", reads=("one",)).write(table("m.copy")):
        pytest.fail("attached a lake that does not exist")


def test_many_processes_that_start_on_an_empty_folder_all_get_their_month_in(tmp_path: Path) -> None:
    jobs = [(tmp_path, month, month, name) for name in ("s.t", "s.u") for month in (1, 2)]
    writers = [PROCESSES.Process(target=replace_month, args=job) for job in jobs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    for name in ("s.t", "s.u"):
        assert rows(lake_of(tmp_path), name) == [(1, 1), (2, 2)]


def test_a_writer_killed_in_mid_write_changes_nothing_and_frees_the_lock(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 10)
    written = PROCESSES.Event()
    writer = PROCESSES.Process(target=replace_month_and_hang, args=(tmp_path, 1, written))
    writer.start()
    assert written.wait(60)

    with (
        pytest.raises(TableBusyError, match=r"one\.s\.t was being written by another run"),
        lake_of(tmp_path, lock_timeout=1).write(TABLE),
    ):
        pytest.fail("two writers held the lock of one table")

    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(60)
    assert rows(lake_of(tmp_path)) == [(1, 10)]
    replace_month(tmp_path, 1, 11)
    assert rows(lake_of(tmp_path)) == [(1, 11)]


def test_an_unreachable_catalog_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        warehouse = Warehouse(
            lake="one",
            catalog=f"host=127.0.0.1 port={port} user=one password=hunter2 dbname=warehouse",
            data_root="/nonexistent",
        )
        with pytest.raises(WarehouseError) as caught:
            rows(warehouse)
        with pytest.raises(WarehouseError) as caught_by_writer, warehouse.write(TABLE):
            pytest.fail("wrote without a catalog")
    for error in (caught, caught_by_writer):
        assert str(port) in str(error.value)
        assert "hunter2" not in str(error.value)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """host:port of an S3 server on loopback that has a bucket `lakes`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="lakes")
    yield f"{host}:{port}"
    server.stop()


def test_the_files_can_live_on_s3(tmp_path: Path, s3: str) -> None:
    warehouse = Warehouse(
        lake="one",
        catalog=f"sqlite:{tmp_path}/catalog",
        data_root="s3://lakes/production",
        s3_endpoint=f"http://{s3}",
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )
    for count in (5, 7):
        with warehouse.write(TABLE) as connection:
            connection.execute("DELETE FROM s.t")
            connection.execute("INSERT INTO s.t SELECT 1, range FROM range(?)", [count])
    assert rows(warehouse) == [(1, 7)]
    with warehouse.read() as connection:
        files = connection.execute("SELECT data_file FROM ducklake_list_files('one', 't', schema => 's')").fetchall()
    assert files
    assert all(file.startswith("s3://lakes/production/one/") for (file,) in files)


# -- tables and their contracts -------------------------------------------------------------------


def test_a_column_added_to_the_contract_is_added_to_the_table(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 10)
    wider = replace(TABLE, columns=(*TABLE.columns, Column("note", "VARCHAR", "", False)))
    with lake_of(tmp_path).write(wider) as connection:
        connection.execute("INSERT INTO s.t VALUES (2, 1, 'new')")
    with lake_of(tmp_path).read() as connection:
        assert connection.execute("SELECT month, note, count(*) FROM s.t GROUP BY ALL ORDER BY ALL").fetchall() == [
            (1, None, 10),
            (2, "new", 1),
        ]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ((Column("month", "BIGINT", "", True), TABLE.columns[1]), "month would change from INTEGER to BIGINT"),
        (TABLE.columns[:1], "n would be dropped"),
        ((*TABLE.columns, Column("note", "VARCHAR", "", True)), "note would become NOT NULL"),
    ],
)
def test_another_change_of_the_contract_is_refused_and_the_table_stays(
    tmp_path: Path, columns: tuple[Column, ...], told: str
) -> None:
    replace_month(tmp_path, 1, 10)
    with (
        pytest.raises(WarehouseError, match=told),
        lake_of(tmp_path).write(replace(TABLE, columns=columns)),
    ):
        pytest.fail("wrote a table that does not fit its contract")
    assert rows(lake_of(tmp_path)) == [(1, 10)]


# -- files ----------------------------------------------------------------------------------------


def test_a_lake_can_be_moved_with_its_files(tmp_path: Path) -> None:
    replace_month(tmp_path / "old", 1, 10)
    (tmp_path / "old").rename(tmp_path / "new")
    assert rows(lake_of(tmp_path / "new")) == [(1, 10)]
    replace_month(tmp_path / "new", 1, 11)
    other = lake_of(tmp_path / "new", "two", reads=("one",))
    with other.write(table("m.copy")) as connection:
        connection.execute("INSERT INTO m.copy FROM one.s.t")
    assert rows(other, "m.copy") == [(1, 11)]


def sort_more_than_fits(folder: Path, spill: Path) -> None:
    warehouse = lake_of(folder)
    small = Warehouse(
        lake="one",
        catalog=warehouse.catalog,
        data_root=warehouse.data_root,
        memory_limit="60MB",
        temp_directory=str(spill),
    )
    with small.read() as connection:
        connection.execute("SET preserve_insertion_order = false")
        (checked,) = connection.execute(
            "SELECT bool_and(r >= p) FROM (SELECT r, lag(r, 1, '') OVER () AS p FROM"
            " (SELECT md5(range::VARCHAR) AS r FROM range(3000000) ORDER BY r))"
        ).fetchone() or (False,)
    assert checked


def test_two_processes_that_spill_at_once_do_not_touch_each_others_files(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 10)
    (tmp_path / "spill").mkdir()
    jobs = [PROCESSES.Process(target=sort_more_than_fits, args=(tmp_path, tmp_path / "spill")) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert list((tmp_path / "spill").iterdir()) == []


def test_a_password_is_masked_however_it_is_quoted() -> None:
    shown = without_password(RuntimeError(r"dsn: user=a password='hun\'ter 2' port=1 password=hunter2 x"))
    assert shown == "dsn: user=a password=*** port=1 password=*** x"


def test_a_table_can_be_read_as_it_was_and_says_who_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELOC_VERSION", "abc1234-12345678")
    warehouse = lake_of(tmp_path)
    for count in (1, 3):
        replace_month(tmp_path, 1, count)
    with warehouse.read() as connection:
        snapshots = connection.execute(
            "SELECT snapshot_id, author, commit_message, commit_extra_info FROM one.snapshots()"
            " WHERE author IS NOT NULL ORDER BY snapshot_id"
        ).fetchall()
        assert [row[1:] for row in snapshots] == [("one", "writes s.t", '{"codeloc/version": "abc1234-12345678"}')] * 2
        counted = [
            connection.execute(f"SELECT count(*) FROM s.t AT (VERSION => {number})").fetchone()
            for number, *_ in snapshots
        ]
        assert counted == [(1,), (3,)]
        # Which of them a row comes from.
        assert connection.execute("SELECT DISTINCT snapshot_id FROM s.t").fetchall() == [(snapshots[1][0],)]


def test_a_write_tells_its_snapshot(tmp_path: Path) -> None:
    told: list[int] = []
    for month in (1, 2):
        with lake_of(tmp_path).write(TABLE, on_commit=told.append) as connection:
            connection.execute("INSERT INTO s.t VALUES ($1, 0)", [month])
    with lake_of(tmp_path).write(TABLE, on_commit=told.append):
        pass
    with pytest.raises(ZeroDivisionError), lake_of(tmp_path).write(TABLE, on_commit=told.append) as connection:
        connection.execute("INSERT INTO s.t VALUES (3, 0)")
        raise ZeroDivisionError
    first, second = told
    with lake_of(tmp_path).read() as connection:
        assert connection.execute(f"SELECT month FROM s.t AT (VERSION => {first})").fetchall() == [(1,)]
        assert connection.execute(f"SELECT count(*) FROM s.t AT (VERSION => {second})").fetchone() == (2,)


def test_maintenance_forgets_old_states_and_removes_their_files_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = lake_of(tmp_path)
    for count in (1, 2, 3, 4):
        replace_month(tmp_path, 1, count)
        replace_month(tmp_path, 2, count)
    before = rows(warehouse)
    kept = warehouse.maintain(timedelta(days=1))
    assert (kept.expired_snapshots, kept.removed_files) == (0, 0)
    files = list((tmp_path / "data").rglob("*.parquet"))
    # Files of the last day are left alone: here nobody writes.
    monkeypatch.setattr(warehouse_module, "_UNTOUCHED", timedelta(0))
    done = warehouse.maintain(timedelta(0))
    assert done.expired_snapshots > 0
    assert done.removed_files > 0
    assert len(list((tmp_path / "data").rglob("*.parquet"))) < len(files)
    assert rows(warehouse) == before
    assert warehouse.maintain(timedelta(0)).expired_snapshots == 0


def test_maintenance_waits_for_who_writes(tmp_path: Path) -> None:
    replace_month(tmp_path, 1, 1)
    written = PROCESSES.Event()
    process = PROCESSES.Process(target=replace_month_and_hang, args=(tmp_path, 2, written))
    process.start()
    assert written.wait(60)
    with pytest.raises(TableBusyError):
        lake_of(tmp_path, lock_timeout=1).maintain(timedelta(0))
    process.kill()
    process.join()
    lake_of(tmp_path).maintain(timedelta(0))
    assert len(rows(lake_of(tmp_path))) == 1


# -- drafts ---------------------------------------------------------------------------------------

PARTITIONED = replace(TABLE, table="s.p", partitioned_by=("month",))


def add_month(warehouse: Warehouse, month: int, query: str, fails: bool = False) -> None:
    with warehouse.draft() as draft:
        ready = draft.put(PARTITIONED, query, month=month)
        with warehouse.write(PARTITIONED) as connection:
            connection.execute("DELETE FROM s.p WHERE month = $1", [month])
            draft.add(connection, ready)
            counted = connection.execute("SELECT count(*) FROM s.p WHERE month = $1", [month]).fetchone()
            assert counted == (ready.rows,)
            if fails:
                raise ZeroDivisionError


def data_files(folder: Path) -> list[Path]:
    return list((folder / "data" / "one" / "s" / "p").rglob("*.parquet"))


def test_rows_that_are_ready_become_a_tables_rows_with_the_transaction(tmp_path: Path) -> None:
    warehouse = lake_of(tmp_path)
    add_month(warehouse, 1, "SELECT range AS n FROM range(10)")
    add_month(warehouse, 2, "SELECT range AS n FROM range(20)")
    with pytest.raises(ZeroDivisionError):
        add_month(warehouse, 1, "SELECT range AS n FROM range(30)", fails=True)
    assert rows(warehouse, "s.p") == [(1, 10), (2, 20)]
    with pytest.raises(ZeroDivisionError), warehouse.draft() as draft:
        draft.put(PARTITIONED, "SELECT range AS n FROM range(5)", month=1)
        raise ZeroDivisionError
    # That of the transaction that was undone is left to maintenance.
    assert len(data_files(tmp_path)) == 3
    add_month(warehouse, 1, "SELECT range AS n FROM range(40)")
    add_month(warehouse, 2, "SELECT range AS n FROM range(0)")
    assert rows(warehouse, "s.p") == [(1, 40)]


def test_a_required_column_that_holds_nulls_is_refused(tmp_path: Path) -> None:
    required = replace(PARTITIONED, columns=(TABLE.columns[0], replace(TABLE.columns[1], required=True)))
    warehouse = lake_of(tmp_path)
    with warehouse.draft() as draft:
        ready = draft.put(required, "SELECT NULL::BIGINT AS n", month=1)
        with pytest.raises(WarehouseError, match="column n may not be null"), warehouse.write(required) as connection:
            draft.add(connection, ready)
    assert rows(warehouse, "s.p") == []
    assert data_files(tmp_path) == []


def test_rows_that_were_added_move_with_the_lake_and_are_kept_by_maintenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = lake_of(tmp_path / "old")
    for count in (10, 11, 12):
        add_month(old, 1, f"SELECT range AS n FROM range({count})")
        with old.write(PARTITIONED) as connection:
            connection.execute("INSERT INTO s.p VALUES (1, 1), (2, $1)", [count])
    (tmp_path / "old").rename(tmp_path / "new")
    warehouse = lake_of(tmp_path / "new")
    assert rows(warehouse, "s.p") == [(1, 13), (2, 3)]
    # What a process left that was killed before it added anything.
    left = data_files(tmp_path / "new")[0].with_name("left.parquet")
    left.write_bytes(data_files(tmp_path / "new")[0].read_bytes())
    monkeypatch.setattr(warehouse_module, "_UNTOUCHED", timedelta(0))
    assert warehouse.maintain(timedelta(0)).removed_files > 0
    assert not left.exists()
    assert rows(warehouse, "s.p") == [(1, 13), (2, 3)]
    with warehouse.read() as connection:
        found = connection.execute("SELECT sum(n), max(n) FROM s.p WHERE month = 1").fetchone()
    assert found == (sum(range(12)) + 1, 11)


def test_a_column_that_a_contract_gained_is_null_in_rows_that_were_added_before(tmp_path: Path) -> None:
    add_month(lake_of(tmp_path), 1, "SELECT range AS n FROM range(3)")
    wider = replace(PARTITIONED, columns=(*TABLE.columns, Column("note", "VARCHAR", "", False)))
    warehouse = lake_of(tmp_path)
    with warehouse.draft() as draft:
        ready = draft.put(wider, "SELECT 7 AS n, 'new' AS note", month=2)
        with warehouse.write(wider) as connection:
            draft.add(connection, ready)
    with warehouse.read() as connection:
        found = connection.execute("SELECT month, note, count(*) FROM s.p GROUP BY ALL ORDER BY ALL").fetchall()
    assert found == [(1, None, 3), (2, "new", 1)]
