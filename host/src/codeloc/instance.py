"""Dagster's instance, spoken to directly before any Dagster process runs: dagster.yaml, migration, dead runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import yaml

from codeloc.home import ROOT, Home, State

if TYPE_CHECKING:
    from dagster import DagsterInstance


def render_dagster_yaml(home: Home) -> None:
    """Write the repository's dagster.yaml into DAGSTER_HOME, with the local run launcher."""
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    # The one thing in which the local instance differs from the deployed one.
    config["run_launcher"] = {
        "module": "codeloc.launchers",
        "class": "ProcessRunLauncher",
        "config": {"home": str(home.path)},
    }
    draft = home.dagster / "dagster.yaml.part"
    draft.write_text(
        f"# Made by codeloc from {ROOT / 'dagster.yaml'}: edit that one.\n" + yaml.safe_dump(config, sort_keys=False),
        encoding="utf-8",
    )
    draft.replace(home.dagster / "dagster.yaml")


def prepare_storage(variables: dict[str, str], pools: dict[str, int], state: State, say: Callable[[str], None]) -> None:
    """Bring Dagster's storage to this version, and set limits; runs may be under way.

    Parameters
    ----------
    variables
        What `codeloc.variables.dagster_variables` gives a process of Dagster.
    pools
        Limits by pool. They are set before a pool's first use: until then Dagster lets any number in.
    """
    import dagster

    with _instance(variables) as instance:
        if state.dagster_version and state.dagster_version != dagster.__version__:
            say(f"bringing Dagster's storage from {state.dagster_version} to {dagster.__version__}")
            instance.upgrade()
        state.dagster_version = dagster.__version__
        for pool, limit in pools.items():
            instance.event_log_storage.set_concurrency_slots(pool, limit)


def settle_runs(variables: dict[str, str], say: Callable[[str], None]) -> None:
    """Settle what an unclean stop left: runs that the storage believes under way, while no process is.

    Each is marked as failed; the daemon then tries it again, as it does with every run whose process
    died. Dagster by itself would show it as started for ever.
    """
    from dagster import DagsterRunStatus, RunsFilter

    with _instance(variables) as instance:
        under_way = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
        for run in instance.get_runs(RunsFilter(statuses=under_way)):
            if run.status == DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, "The platform was stopped while this run was being canceled.")
            else:
                say(f"run {run.run_id[:8]} ({run.job_name}) was cut off by the last stop: it will be tried again")
                instance.report_run_failed(run, "The platform was stopped while this run was under way.")


@contextmanager
def _instance(variables: dict[str, str]) -> "Iterator[DagsterInstance]":
    os.environ.update(variables, DAGSTER_DISABLE_TELEMETRY="yes")

    from dagster import DagsterInstance

    with DagsterInstance.from_config(variables["DAGSTER_HOME"]) as instance:
        yield instance
