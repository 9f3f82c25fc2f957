"""The warehouse for people: from Python, and as `./codeloc sql` runs it. With Postgres: in the top-level tests."""

import csv
import io
import json
import os
import pty
import select
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pytest
from taxi_shared.contracts import Column, TableContract
from taxi_shared.explore import ROWS_SHOWN, ExploreError, connect, main
from taxi_shared.warehouse import Warehouse

COLUMNS = (Column("n", "BIGINT", "", True), Column("word", "VARCHAR", "", False))
TABLE = TableContract("s.t", "1.0.0", "one", "", COLUMNS, ("n",), (), timedelta(days=1))
WORDS = ["plain", "it's", 'a "quoted", one', "two\nlines", "", None, "Ødegård 🚕"]


class Sql(Protocol):
    """Runs the command on the platform; `piped` is its standard input."""

    def __call__(self, query: str | None, *options: str, piped: str = "") -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A platform's folder, whose name needs quoting: lake `one` has rows, lake `two` was never written."""
    home = tmp_path / "50% of 'it'"
    settings: dict[str, Any] = {
        "catalog": f"sqlite:{home}/catalog",
        "data_root": f"{home}/lakes",
        "temp_directory": f"{home}/spill",
    }
    (home / "spill").mkdir(parents=True)
    (home / "reader.json").write_text(json.dumps({"lakes": ["one", "two"], **settings}))
    with Warehouse(lake="one", **settings).write(TABLE) as connection:
        connection.executemany("INSERT INTO s.t VALUES (?, ?)", list(enumerate(WORDS)))
    return home


@pytest.fixture
def sql(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sql:
    def run(query: str | None, *options: str, piped: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        code = main([str(home), *options, *([] if query is None else ["--query", query])])
        return subprocess.CompletedProcess([], code, *capfd.readouterr())

    return run


# -- from Python ----------------------------------------------------------------------------------


def test_every_lake_that_exists_is_there_and_the_other_one_is_named(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(home) as warehouse:
        assert warehouse.sql("FROM one.s.t ORDER BY n").fetchall() == list(enumerate(WORDS))
    (note,) = [record.getMessage() for record in caplog.records]
    assert "the lake 'two' does not exist yet: materialize an asset of location 'two' first" in note


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO one.s.t VALUES (100, 'mine')",
        "UPDATE one.s.t SET word = 'mine'",
        "DELETE FROM one.s.t",
        "DROP TABLE one.s.t",
        "CREATE TABLE one.s.mine AS SELECT 1 AS n",
        "CREATE SCHEMA one.mine",
        "ALTER TABLE one.s.t ADD COLUMN mine INTEGER",
        "CREATE VIEW one.s.mine AS SELECT 1 AS n",
    ],
)
def test_nothing_can_be_written(home: Path, statement: str) -> None:
    with connect(home) as warehouse:
        with pytest.raises(duckdb.Error, match="read-only"):
            warehouse.execute(statement)
        assert warehouse.execute("SELECT count(*) FROM one.s.t").fetchall() == [(len(WORDS),)]


def test_own_tables_can_be_made_beside_the_lakes(home: Path) -> None:
    with connect(home) as warehouse:
        warehouse.execute("CREATE TABLE mine AS FROM one.s.t WHERE n < 2")
        assert warehouse.sql("SELECT count(*) FROM mine").fetchall() == [(2,)]


def test_a_connection_spills_where_the_platform_says_and_leaves_nothing(home: Path) -> None:
    settings = json.loads((home / "reader.json").read_text()) | {"memory_limit": "60MB"}
    (home / "reader.json").write_text(json.dumps(settings))
    with connect(home) as warehouse:
        warehouse.execute("SET preserve_insertion_order = false")
        sorted_rows = warehouse.execute("SELECT md5(range::VARCHAR) AS r FROM range(3000000) ORDER BY r")
        assert sorted_rows.fetchone() is not None
        assert [path.name for path in (home / "spill").iterdir()] != []
    assert list((home / "spill").iterdir()) == []


def test_a_folder_without_a_platform_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ExploreError, match=rf"there is no {tmp_path}/reader\.json.*\./codeloc up"):
        connect(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"lakes": []}', '{"lakes": ["one"], "unknown": 1}'])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "reader.json").write_text(content)
    with pytest.raises(ExploreError, match=r"reader\.json is damaged .* \./codeloc down and up"):
        connect(tmp_path)


def test_a_platform_that_is_down_is_told_without_its_password(tmp_path: Path) -> None:
    catalog = "host=127.0.0.1 port=9 user=reader password='hun ter2' dbname=warehouse"
    settings = {"lakes": ["one"], "catalog": catalog, "data_root": "/nonexistent"}
    (tmp_path / "reader.json").write_text(json.dumps(settings))
    with pytest.raises(ExploreError, match=r"does not answer. Is it down\? \./codeloc up") as caught:
        connect(tmp_path)
    assert "ter2" not in str(caught.value)


# -- the command ----------------------------------------------------------------------------------


def test_a_table_is_printed_with_its_number_of_rows(sql: Sql) -> None:
    done = sql("SELECT n, word FROM one.s.t WHERE n < 2 ORDER BY n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "│     1 │ it's    │" in lines
    assert lines[-1] == "2 rows"
    assert sql("SELECT 1 AS n").stdout.splitlines()[-1] == "1 row"
    assert sql("FROM one.s.t WHERE n < 0").stdout.splitlines()[-1] == "0 rows"


def test_a_long_table_shows_its_first_rows_and_says_how_many_there_are(sql: Sql) -> None:
    done = sql("SELECT range AS n FROM range(1234567) ORDER BY n DESC")
    assert f"1,234,567 rows, of which the first {ROWS_SHOWN} are shown" in done.stdout
    assert "1234566" in done.stdout
    assert str(1234567 - ROWS_SHOWN) in done.stdout
    assert str(1234566 - ROWS_SHOWN) not in done.stdout
    assert sql(f"FROM range({ROWS_SHOWN})").stdout.splitlines()[-1] == f"{ROWS_SHOWN} rows"


def test_csv_and_json_carry_every_value(sql: Sql) -> None:
    query = "FROM one.s.t ORDER BY n"
    rows = list(csv.reader(sql(query, "--format", "csv").stdout.splitlines(keepends=True)))
    assert rows == [["n", "word"], *([str(number), word or ""] for number, word in enumerate(WORDS))]
    assert json.loads(sql(query, "--format", "json").stdout) == [
        {"n": number, "word": word} for number, word in enumerate(WORDS)
    ]


def test_a_query_can_be_piped_in_and_be_several_statements(sql: Sql) -> None:
    piped = (
        "SET threads = 1; CREATE TABLE mine AS SELECT max(n) AS n FROM one.s.t;\nSELECT n + 1 AS n FROM mine; -- end"
    )
    assert sql(None, "--format", "csv", piped=piped).stdout == f"n\n{len(WORDS)}\n"


@pytest.mark.parametrize("form", ["table", "csv"])
def test_what_is_not_a_select_can_be_looked_at_too(sql: Sql, form: str) -> None:
    done = sql("DESCRIBE one.s.t", "--format", form)
    assert done.returncode == 0, done.stderr
    assert "word" in done.stdout
    assert "BIGINT" in done.stdout


def test_the_list_of_tables_is_the_lakes(sql: Sql) -> None:
    done = sql("SHOW ALL TABLES")
    assert "│ one" in done.stdout
    assert done.stdout.endswith("1 row\n")


@pytest.mark.parametrize("ending", ["csv", "parquet", "CSV"])
def test_a_file_gets_every_row(sql: Sql, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"it's new.{ending}"
    file.write_text("old")
    done = sql("SELECT n, coalesce(word, '') AS word FROM one.s.t, range(1000) ORDER BY n", "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"7,000 rows in {file}\n"
    read = duckdb.read_parquet if ending == "parquet" else duckdb.read_csv
    assert len(read(str(file))) == 7000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50% of 'it'", file.name]


def test_a_query_that_fails_half_way_leaves_the_file_as_it_was(sql: Sql, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    file.write_text("old")
    done = sql(
        "SELECT CASE WHEN range = 900000 THEN error('out of luck') END FROM range(1000000)", "--output", str(file)
    )
    assert done.returncode == 1
    assert "out of luck" in done.stderr
    assert file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50% of 'it'", "out.csv"]


@pytest.mark.parametrize(
    ("query", "options", "told"),
    [
        ("SELECT nothing FROM one.s.t", [], 'Referenced column "nothing" not found'),
        ("FROM one.s.absent", [], "Table with name absent does not exist"),
        ("SELEC 1", [], "syntax error"),
        ("FROM settings", [], "Table with name settings does not exist"),
        ("DELETE FROM one.s.t", [], "read-only"),
        ("SET threads = 1", [], "returns no rows"),
        ("", [], "returns no rows"),
        ("SELECT error('late') FROM range(3)", ["--format", "json"], "late"),
        ("SELECT 1", ["--output", "out.xlsx"], "out.xlsx: the name must end in .csv or .parquet"),
        ("SELECT 1", ["--output", "nowhere/out.csv"], "nowhere/out.csv: there is no folder"),
    ],
)
def test_an_error_is_told_without_a_traceback(sql: Sql, query: str, options: list[str], told: str) -> None:
    done = sql(query, *options)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(home: Path, form: str) -> None:
    command = [sys.executable, "-m", "taxi_shared.explore", str(home), "--format", form, "--query"]
    query = "SELECT range, repeat('x', 3000) AS x FROM range(100000000)"
    with subprocess.Popen([*command, query], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(1)
        running.stdout.close()
        told = running.stderr.read().decode()
    assert "Broken" not in told
    assert "Traceback" not in told
    assert list((home / "spill").iterdir()) == []


def test_what_is_printed_is_added_to_a_file_that_has_something(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taxi_shared.explore", str(home), "--format", "csv", "--query", "SELECT 1 AS n"]
    with (tmp_path / "out.csv").open("a") as file:
        file.write("before\n")
        file.flush()
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, check=True)
    assert (tmp_path / "out.csv").read_text() == "before\nn\n1\n"


def test_without_a_query_a_terminal_gets_duckdbs_shell(home: Path) -> None:
    terminal, inside = pty.openpty()
    before = {path for path in home.rglob("*") if "lakes" not in path.parts}
    command = [sys.executable, "-m", "taxi_shared.explore", str(home)]
    # On a better terminal the shell edits its line, and what it shows is full of movements.
    plain = os.environ | {"TERM": "dumb"}
    with subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=plain):
        os.close(inside)
        shown = read_until(terminal, " D ")
        os.write(terminal, b"SELECT 41 + count(*) AS answer FROM one.s.t;\nDELETE FROM one.s.t;\n.quit\n")
        shown += read_until(terminal, None)
    assert "Lakes: one." in shown
    assert "48" in shown
    assert "read-only" in shown
    assert {path for path in home.rglob("*") if "lakes" not in path.parts} == before


def read_until(terminal: int, sign: str | None) -> str:
    """What the terminal shows until `sign`, or until the last process has left it."""
    shown = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # how a terminal says that nobody is there any more
            return shown.decode()
        if sign is not None and sign in shown.decode(errors="replace"):
            return shown.decode()
    pytest.fail(f"the shell went on: {shown.decode()}")
