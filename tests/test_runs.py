"""A run is a process of its own: whatever else dies, or is not there, it goes on, and it can be canceled."""

from collections.abc import Iterator

import psutil
import pytest

from conftest import Platform, SlowSource, wait_for


@pytest.fixture
def held(spare: Platform, slow_source: SlowSource) -> Iterator[str]:
    """A run of ingestion that is in the middle of its download until the source goes on."""
    slow_source.waiting.clear()
    slow_source.go_on.clear()
    run = spare.launch_asset("landing/taxi_zone_lookup_file")
    assert slow_source.waiting.wait(60)
    yield run
    slow_source.go_on.set()
    spare.quiet()


def process_of(platform: Platform, run: str) -> psutil.Process:
    """The process that a run is in, as its tag says."""
    pid, began = platform.run(run)["tags"]["codeloc/process"].split()
    found = psutil.Process(int(pid))
    assert found.create_time() == float(began)
    return found


def test_it_outlives_daemon_webserver_and_code_server(spare: Platform, slow_source: SlowSource, held: str) -> None:
    process = process_of(spare, held)
    for name in ("daemon", "webserver", "ingestion"):
        pid = spare.pid(name)
        psutil.Process(pid).kill()
        wait_for(lambda name=name, pid=pid: spare.pid(name) not in (0, pid), f"{name} to be started again")  # type: ignore[misc]
    assert process.is_running()
    wait_for(lambda: spare.codeloc("status").returncode == 0, "the platform to be well again")
    slow_source.go_on.set()
    assert spare.finished(held) == "SUCCESS"


def test_it_keeps_its_connections_as_the_daemon_does(spare: Platform) -> None:
    spare.quiet()
    statement = "SELECT sessions FROM pg_stat_database WHERE datname = 'dagster'"
    ((before,),) = spare.postgres(statement)
    assert spare.finished(spare.launch_asset("lakes/ingestion")) == "SUCCESS"
    ((after,),) = spare.postgres(statement)
    # With one for each statement there would be several hundred.
    assert 0 < after - before < 100


def test_it_goes_on_when_its_connections_were_cut(spare: Platform, slow_source: SlowSource, held: str) -> None:
    kept = [connection.laddr.port for connection in process_of(spare, held).net_connections() if connection.raddr]
    cut = spare.postgres(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = ANY(ARRAY{kept})")
    assert cut
    slow_source.go_on.set()
    assert spare.finished(held) == "SUCCESS"


def test_a_killed_one_is_tried_again(spare: Platform, slow_source: SlowSource, held: str) -> None:
    process_of(spare, held).kill()
    retry = wait_for(lambda: spare.run(held)["tags"].get("dagster/auto_retry_run_id"), "the daemon to try again")
    slow_source.go_on.set()
    assert spare.finished(retry) == "SUCCESS"


def test_it_can_be_canceled_without_its_code_server(spare: Platform, held: str) -> None:
    process = process_of(spare, held)
    with spare.stopped("ingestion"):
        cancel = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
        assert spare.graphql(cancel, id=held)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        assert spare.finished(held) == "CANCELED"
        wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "its process to end")
    wait_for(lambda: all(spare.loaded_locations().values()), "ingestion to be back")
