"""Dagster's instance, spoken to directly before any Dagster process runs: dagster.yaml, migration, dead runs."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import yaml

from codeloc.home import ROOT, Home, State

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

# The one thing in which the local instance differs from the deployed one.
LOCAL_RUN_LAUNCHER = {"module": "dagster", "class": "DefaultRunLauncher"}


def render_dagster_yaml(home: Home) -> None:
    """Write the repository's dagster.yaml into DAGSTER_HOME, with the local run launcher."""
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    config["run_launcher"] = LOCAL_RUN_LAUNCHER
    draft = home.dagster / "dagster.yaml.part"
    draft.write_text(
        f"# Made by codeloc from {ROOT / 'dagster.yaml'}: edit that one.\n" + yaml.safe_dump(config, sort_keys=False),
        encoding="utf-8",
    )
    draft.replace(home.dagster / "dagster.yaml")


def prepare_instance(
    home: Home, postgres_url: str, pools: dict[str, int], state: State, say: Callable[[str], None]
) -> None:
    """Bring Dagster's storage to this version and settle what an unclean stop left.

    Runs while no process of the platform does, so every run that the storage believes under way has
    lost its process.

    Parameters
    ----------
    pools
        Limits by pool. They are set before a pool's first use: until then Dagster lets any number in.
    """
    prepare_storage(home, postgres_url, pools, state, say)
    settle_runs(home, postgres_url, lambda _run: False, say)


def prepare_storage(
    home: Home, postgres_url: str, pools: dict[str, int], state: State, say: Callable[[str], None]
) -> None:
    """Bring Dagster's storage to this version, and set the limits of `pools`; runs may be under way."""
    import dagster

    with _instance(home, postgres_url) as instance:
        if state.dagster_version and state.dagster_version != dagster.__version__:
            say(f"bringing Dagster's storage from {state.dagster_version} to {dagster.__version__}")
            instance.upgrade()
        state.dagster_version = dagster.__version__
        for pool, limit in pools.items():
            instance.event_log_storage.set_concurrency_slots(pool, limit)


def settle_runs(
    home: Home, postgres_url: str, has_process: "Callable[[DagsterRun], bool]", say: Callable[[str], None]
) -> None:
    """Mark each run that is believed under way and has no process as failed.

    The daemon then tries it again, as it does with every run whose process died. Dagster by itself
    would show it as started for ever.
    """
    from dagster import DagsterRunStatus, RunsFilter

    with _instance(home, postgres_url) as instance:
        under_way = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
        for run in instance.get_runs(RunsFilter(statuses=under_way)):
            if has_process(run):
                continue
            if run.status == DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, "The platform was stopped while this run was being canceled.")
            else:
                say(f"run {run.run_id[:8]} ({run.job_name}) was cut off by the last stop: it will be tried again")
                instance.report_run_failed(run, "The platform was stopped while this run was under way.")


def runs_in_its_server(run: "DagsterRun") -> bool:
    """Whether the code server that a run was handed to answers and still executes it."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._core.storage.tags import GRPC_INFO_TAG
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
    from dagster._serdes import deserialize_value

    if GRPC_INFO_TAG not in run.tags:
        return False
    server = json.loads(run.tags[GRPC_INFO_TAG])
    client = DagsterGrpcClient(host=server["host"], port=server["port"])
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=5)
    except DagsterUserCodeUnreachableError:
        return False
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


@contextmanager
def _instance(home: Home, postgres_url: str) -> "Iterator[DagsterInstance]":
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    os.environ["DAGSTER_POSTGRES_URL"] = postgres_url
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"

    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(home.dagster)) as instance:
        yield instance
