"""Up, down and what happens in between: repeated, interrupted, killed, beside another one, on a taken port."""

import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from conftest import CODELOC, ROOT, Platform, SlowSource, environment, free_port, run_codeloc, start, wait_for

HOST_PYTHON = str(ROOT / "host" / ".venv" / "bin" / "python")

SERVER_COMMAND = """
import sys
from pathlib import Path
from codeloc import postgres
from codeloc.home import Home
home = Home(Path(sys.argv[1]))
home.make()
postgres.initialize(home, "of the server", lambda line: None)
print(postgres.system_user() or "", *postgres.command(home, int(sys.argv[2])), sep="\\n")
"""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform that is not up yet, and is down again afterwards."""
    found = Platform(tmp_path / "home", free_port())
    yield found
    found.codeloc("down")
    assert found.processes() == []


def test_up_while_up_says_so_and_exits_with_0(sample: Platform) -> None:
    before = {process.pid for process in sample.processes() if "grpc" in process.cmdline()}
    again = sample.codeloc("up")
    assert again.returncode == 0, again.stderr
    assert "up already" in again.stdout
    assert sample.url in again.stdout
    assert {process.pid for process in sample.processes() if "grpc" in process.cmdline()} == before


def test_up_while_up_refuses_another_source_or_port(sample: Platform) -> None:
    for option, value in (("--source", "tlc"), ("--port", str(free_port()))):
        refused = sample.codeloc("up", option, value)
        assert refused.returncode == 1
        assert f"up with {option}" in refused.stderr
        assert "codeloc down --home" in refused.stderr


def test_two_platforms_are_up_at_once(sample: Platform, spare: Platform) -> None:
    for platform in (sample, spare):
        assert platform.codeloc("status").returncode == 0
    assert sample.port != spare.port
    assert {process.pid for process in sample.processes()}.isdisjoint(process.pid for process in spare.processes())


def test_status_and_down_of_a_platform_that_is_down(platform: Platform) -> None:
    status = platform.codeloc("status")
    assert status.returncode == 3
    assert "is down" in status.stdout
    down = platform.codeloc("down")
    assert down.returncode == 0
    assert "down already" in down.stdout


def test_an_interrupted_up_leaves_nothing_and_the_next_one_works(platform: Platform) -> None:
    arguments = [CODELOC, "up", "--home", str(platform.home), "--port", str(platform.port)]
    for moment in ("starting Postgres", "starting the code servers", "loading"):
        first = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )
        assert first.stdout is not None
        # Each time it comes further than where it was interrupted before.
        assert any(moment in line for line in first.stdout), moment
        if moment == "loading":
            assert platform.codeloc("status").returncode == 0
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        first.communicate(timeout=90)
        assert first.returncode == 130
        assert platform.processes() == []

    start(platform, "--empty")
    assert platform.codeloc("status").returncode == 0


def test_everything_comes_back_when_it_is_killed(spare: Platform) -> None:
    for name in ("daemon", "webserver", "ingestion", "analytics", "files", "postgres"):
        pid = spare.pid(name)
        psutil.Process(pid).kill()
        wait_for(lambda name=name, pid=pid: spare.pid(name) not in (0, pid), f"{name} to be started again")  # type: ignore[misc]

    def sound() -> bool:
        return spare.codeloc("status").returncode == 0

    wait_for(sound, "the platform to be well again", 120)


def test_up_after_the_supervisor_was_killed(spare: Platform) -> None:
    supervisor = psutil.Process(int((spare.home / "supervisor.pid").read_text()))
    left = supervisor.children()
    supervisor.kill()
    again = start(spare, "--empty")
    assert "an earlier stop left behind" in again.stdout
    assert not any(process.is_running() for process in left)
    assert spare.codeloc("status").returncode == 0


def test_a_run_cut_off_by_down_is_tried_again_at_the_next_up(spare: Platform, slow_source: SlowSource) -> None:
    run = spare.launch_asset("landing/taxi_zone_lookup_file")
    assert slow_source.waiting.wait(60)
    stopped = spare.codeloc("down")
    slow_source.go_on.set()
    assert "tried again at the next start" in stopped.stdout
    assert spare.processes() == []
    start(spare, "--empty")
    retry = wait_for(lambda: spare.run(run)["tags"].get("dagster/auto_retry_run_id"), "the daemon to retry the run")
    assert spare.finished(retry) == "SUCCESS"
    # The one that was cut off had a place in the pool of the file server.
    places = "SELECT concurrency_key, run_id FROM pending_steps"
    wait_for(lambda: spare.postgres(places, database="dagster") == [], "every place in a pool to be free")


def test_a_taken_port_is_an_error_that_names_it(platform: Platform) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", platform.port))
        taken.listen()
        refused = platform.codeloc("up", "--empty", "--port", str(platform.port))
    assert refused.returncode == 1
    assert f"port {platform.port} is taken by" in refused.stderr
    assert platform.processes() == []


def test_a_wrong_setting_is_named_before_anything_starts(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = environment() | {"WEBSERVER_PORT": "http", "WAREHOUSE_THREADS": "0", "POSTGRES_HOST": "db.example"}
    refused = subprocess.run(
        [CODELOC, "up", "--home", str(platform.home)], capture_output=True, text=True, env=wrong, check=False
    )
    assert refused.returncode == 1
    for name in ("WEBSERVER_PORT", "WAREHOUSE_THREADS"):
        assert name in refused.stderr
    assert not platform.home.exists()


def test_a_wrong_source_is_named_before_anything_starts(platform: Platform) -> None:
    refused = platform.codeloc("up", "--source", "nonsense")
    assert refused.returncode == 1
    assert "--source nonsense" in refused.stderr
    assert platform.processes() == []


@pytest.fixture
def existing_server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings of a Postgres server that was there before; it runs without the platform."""
    port = free_port()
    home = tmp_path / "server"
    made = subprocess.run(
        [HOST_PYTHON, "-c", SERVER_COMMAND, str(home), str(port)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    words = made.stdout.splitlines()
    user = words.pop(0)
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            words, user=account.pw_uid, group=account.pw_gid, cwd="/", stdout=log, stderr=log, env=environment()
        )
    yield {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(port), "POSTGRES_PASSWORD": "of the server"}
    server.send_signal(signal.SIGINT)
    server.wait(30)


def test_an_existing_server_takes_the_place_of_the_embedded_one(
    existing_server: dict[str, str], platform: Platform
) -> None:
    def up(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [CODELOC, "up", "--empty", "--home", str(platform.home), "--port", str(platform.port)]
        settings = environment() | settings
        return subprocess.run(command, capture_output=True, text=True, env=settings, check=False, timeout=120)

    refused = up(existing_server | {"POSTGRES_PASSWORD": "another"})
    assert refused.returncode == 1
    assert "check POSTGRES_PASSWORD" in refused.stderr
    assert platform.processes() == []

    started = up(existing_server)
    assert started.returncode == 0, started.stderr
    other = subprocess.run(
        [CODELOC, "up", "--empty", "--home", str(platform.home.with_name("other"))],
        capture_output=True,
        text=True,
        env=environment() | existing_server,
        check=False,
        timeout=120,
    )
    assert other.returncode == 1
    assert f"belongs to {socket.gethostname()}:{platform.home}" in other.stderr
    assert "postgres" not in platform.supervisorctl("status")
    assert platform.finished(platform.launch("zone_update_job")) == "SUCCESS"


def test_doctor_tells_a_taken_port_and_a_wrong_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = subprocess.run(
            [CODELOC, "doctor", "--home", str(tmp_path)],
            capture_output=True,
            text=True,
            env=environment() | {"WEBSERVER_PORT": port},
            check=False,
        )
    assert f"port {port}: taken by" in told.stdout
    wrong = subprocess.run(
        [CODELOC, "doctor", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment() | {"WAREHOUSE_THREADS": "many"},
        check=False,
    )
    assert wrong.returncode == 1
    assert "WAREHOUSE_THREADS" in wrong.stdout


@pytest.mark.parametrize(
    "command",
    [
        *("up", "down", "status", "bi", "sql", "logs", "test", "doctor", "backup", "restore"),
        *("plan", "deploy", "rollback", "history", "reload", "new", "remove", "bench"),
    ],
)
def test_help_explains_each_command_with_an_example(command: str) -> None:
    shown = run_codeloc(command, "--help")
    assert shown.returncode == 0
    assert f"Example: ./codeloc {command}" in shown.stdout


def test_an_unknown_location_or_package_or_log_is_answered_with_the_known_ones(sample: Platform) -> None:
    for arguments in (("reload", "marketing"), ("deploy", "marketing"), ("logs", "marketing")):
        refused = sample.codeloc(*arguments)
        assert refused.returncode == 1
        assert "marketing" in refused.stderr
        assert "analytics" in refused.stderr
    refused = run_codeloc("test", "marketing")
    assert refused.returncode == 1
    assert "analytics" in refused.stderr
