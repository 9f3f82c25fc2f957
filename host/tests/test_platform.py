import configparser
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from codeloc import seed, workspace
from codeloc.errors import CodelocError
from codeloc.home import ROOT, Home, State, passwords, save_reader
from codeloc.platform import Platform, is_alive, is_free, taken_by, wait_until
from codeloc.postgres import Server, password_line
from codeloc.supervision import Program, Supervisor, _config, log_file
from codeloc.workspace import location_named, locations


def test_locations_are_those_of_workspace_yaml() -> None:
    for location in locations():
        assert (location.folder / "src" / location.name / "definitions.py").exists()


def test_an_unknown_location_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CodelocError, match=r"no location 'marketing' in workspace\.yaml, only ingestion, analytics"):
        location_named("marketing")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("python_file: {relative_path: a.py}", "every entry must be a grpc_server"),
        ("grpc_server: {location_name: marketing, socket: run/marketing/current}", "there is no package at"),
        ("grpc_server: {location_name: ingestion, host: localhost, port: 4000}", "every entry must be a grpc_server"),
        ("grpc_server: {location_name: ingestion, socket: run/analytics/current}", "socket run/NAME/current"),
    ],
)
def test_a_wrong_entry_of_the_workspace_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, told: str
) -> None:
    (tmp_path / "locations").mkdir()
    (tmp_path / "workspace.yaml").write_text(f"load_from:\n  - {entry}\n")
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    with pytest.raises(CodelocError, match=told):
        locations()


def test_passwords_are_made_up_once_and_kept_where_only_their_owner_reads_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = passwords(home, ["a", "b"], {})
    assert first == passwords(home, ["a", "b"], {})
    assert first["a"] != first["b"]
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert passwords(home, ["a", "c"], {"a": "given"})["a"] == "given"
    assert "given" not in (tmp_path / "secrets.json").read_text()


def test_state_survives(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert State.load(home) == State()
    State(source="sample", ports={"webserver": 1}).save(home)
    assert State.load(home) == State(source="sample", ports={"webserver": 1})


def test_connection_strings_carry_any_password() -> None:
    server = Server("127.0.0.1", 5432, "postgres", "p")
    assert server.url("dagster", "dagster", "a@b/c:d") == (
        "postgresql+psycopg2://dagster:a%40b%2Fc%3Ad@127.0.0.1:5432/dagster"
    )
    assert r"password='a b\'c'" in server.connection_string("warehouse", "ingestion", "a b'c")
    with_file = server.connection_string("warehouse", "reader", password_file=Path("/a 'b'/reader.pgpass"))
    assert r"passfile='/a \'b\'/reader.pgpass'" in with_file
    assert "password=" not in with_file
    assert password_line("reader", r"a:b\c") == "*:*:*:reader:a\\:b\\\\c\n"


def test_what_readers_need_is_for_the_owner_of_the_folder_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    save_reader(home, {"lakes": ["one"]}, "secret\n")
    assert json.loads((tmp_path / "reader.json").read_text()) == {"lakes": ["one"]}
    assert home.reader_password.read_text() == "secret\n"
    for file in (tmp_path / "reader.json", home.reader_password):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_schema_for_bi_tools_that_is_given_to_nobody_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workspace.yaml").write_text((ROOT / "workspace.yaml").read_text())
    (tmp_path / "pyproject.toml").write_text('[tool.codeloc.bi_schemas]\nmarts = "marketing"\n')
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    with pytest.raises(
        CodelocError, match=r"schema 'marts' .* is given to 'marketing', and the locations are ingestion"
    ):
        Platform(Home(tmp_path / "var")).start(None, None, lambda _line: None)
    assert not (tmp_path / "var").exists()


def test_the_supervisors_configuration_carries_any_value(tmp_path: Path) -> None:
    home = Home(tmp_path / "50% of 'it'")
    home.make()
    value = """a "quoted" 100% 'value' with \\ and , and ="""
    script = "import json, os, sys; print(json.dumps([os.environ['VALUE'], sys.argv[1]]), flush=True); sys.stdin.read()"
    supervisor = Supervisor(home)
    supervisor.start(
        [Program("echo", [sys.executable, "-c", script, value], {"VALUE": value}, tmp_path)], dict(os.environ)
    )
    try:
        supervisor.start_program("echo")
        log = home.logs / "echo.log"
        wait_until(lambda: None if log.exists() and log.read_text().strip() else "no output", 20, "no output")
        assert json.loads(log.read_text().splitlines()[0]) == [value, value]
        for file in (home.supervisor_config, home.path / "tmp" / "echo.program.env"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        pid = supervisor.shut_down()
        wait_until(lambda: "alive" if is_alive(pid) else None, 20, "the supervisor runs on")


def test_a_program_is_stopped_with_its_signal_and_runs_as_its_user(tmp_path: Path) -> None:
    parsed = configparser.RawConfigParser()
    parsed.read_string(
        _config(Home(tmp_path), [Program("one", ["true"], {}, tmp_path, stop_signal="INT", user="nobody")])
    )
    assert parsed["unix_http_server"]["chmod"] == "0700"
    assert dict(parsed["program:one"]) | {"stopsignal": "INT", "user": "nobody"} == dict(parsed["program:one"])


def test_a_program_that_is_started_again_and_again_counts_as_ended(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    stays = Program("stays", ["sleep", "600"], {}, tmp_path)
    # Longer than the supervisor's `startsecs`: it is RUNNING whenever one looks.
    ends = Program("ends", ["sh", "-c", "sleep 1.3; echo gone"], {}, tmp_path)
    supervisor = Supervisor(home)
    supervisor.start([stays, ends], dict(os.environ))
    try:
        for program in (stays, ends):
            supervisor.start_program(program.name)
        supervisor.require(["stays", "ends"])
        wait_until(lambda: None if supervisor.ended(["stays", "ends"]) else "it runs", 20, "it did not end")
        assert supervisor.ended(["stays", "ends"]) == "ends"
        wait_until(
            lambda: None if _state(supervisor, "ends") == "RUNNING" else "it ended", 20, "it was not started again"
        )
        assert supervisor.ended(["ends"]) == "ends"
        with pytest.raises(CodelocError, match="ends does not start; the end of its log:\ngone"):
            supervisor.require(["stays", "ends"])
        supervisor.require(["stays"])
    finally:
        supervisor.shut_down()
        wait_until(lambda: "it runs" if supervisor.is_running() else None, 30, "the supervisor did not end")


def _state(supervisor: Supervisor, name: str) -> str:
    return next(process.state for process in supervisor.processes() if process.name == name)


def test_the_end_of_a_log_tells_the_cause_of_an_exception(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    log, supervisor = log_file(home, "one"), Supervisor(home)
    assert supervisor.log_end("one") == "(no log)"
    frames = [f"  frame {number}" for number in range(60)]
    caused = "The above exception was the direct cause of the following exception:"
    ended = [*frames, "ModuleNotFoundError: gone", "", caused, "", "Traceback", *frames, "LoadError: definitions"]
    started = "12:00 - dagster.code_server - INFO - Starting"
    log.write_text("\n".join([started, *ended, started, *ended]) + "\n")
    shown = supervisor.log_end("one").splitlines()
    assert "ModuleNotFoundError: gone" in shown
    assert shown[-1] == "LoadError: definitions"
    assert len(shown) < 30
    log.write_text("\n".join([*ended, f"{started} Dagster code server for module a"]) + "\n")
    assert supervisor.log_end("one").splitlines() == shown
    # Started again since: that exception is over.
    log.write_text("\n".join([*ended, started, "killed"]) + "\n")
    assert supervisor.log_end("one", 2).splitlines() == [started, "killed"]


def test_a_home_too_deep_for_a_socket_is_refused_with_the_limit(tmp_path: Path) -> None:
    with pytest.raises(CodelocError, match="choose a shorter one with --home, at most"):
        Supervisor(Home(tmp_path / ("deep" * 30)))


def test_a_listening_port_is_taken_and_by_whom() -> None:
    with socket.socket() as listening:
        # As gRPC servers do, which share a port without an error.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert not is_free(port)
        assert f"pid {os.getpid()}" in taken_by(port)
    assert is_free(port)


def test_a_process_that_ended_and_was_not_collected_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: None if psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE else "alive", 20, "runs on")
    assert not is_alive(child.pid)
    child.wait()
    assert not is_alive(child.pid)


@pytest.mark.parametrize(
    ("source", "base", "zones"),
    [
        ("sample", "http://127.0.0.1:1/sample", "http://127.0.0.1:1/sample/misc/taxi_zones.csv"),
        ("http://mirror/tlc/", "http://mirror/tlc", "http://mirror/tlc/misc/taxi_zones.csv"),
    ],
)
def test_where_the_source_is(source: str, base: str, zones: str) -> None:
    assert seed.source_environment(source, "http://127.0.0.1:1/sample", None) == {
        "TLC_BASE_URL": base,
        "TAXI_ZONES_URL": zones,
    }
    assert seed.source_environment(source, "http://127.0.0.1:1/sample", "http://z")["TAXI_ZONES_URL"] == "http://z"


def test_a_source_that_is_no_address_is_refused() -> None:
    with pytest.raises(CodelocError, match="--source ftp://x: must be 'sample', 'tlc', or an address"):
        seed.source_environment("ftp://x", "", None)


def test_a_source_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(CodelocError, match="leave user and password out of the address") as refused:
        seed.source_environment("https://me:secret@mirror/tlc", "", None)
    assert "secret" not in str(refused.value)


def test_the_root_of_the_repository_is_found() -> None:
    assert (ROOT / "workspace.yaml").exists()
