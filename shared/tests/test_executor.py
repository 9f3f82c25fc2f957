import os
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    Definitions,
    JobDefinition,
    JobExecutionResult,
    MaterializeResult,
    asset,
    define_asset_job,
    execute_job,
    reconstructable,
)
from taxi_shared.executor import by_step_count


@asset
def first() -> MaterializeResult[None]:
    return MaterializeResult(metadata={"pid": os.getpid()})


@asset
def second() -> MaterializeResult[None]:
    return MaterializeResult(metadata={"pid": os.getpid()})


definitions = Definitions(
    [first, second],
    jobs=[define_asset_job("one_step", [first]), define_asset_job("two_steps", [first, second])],
    executor=by_step_count,
)


def one_step() -> JobDefinition:
    return definitions.resolve_job_def("one_step")


def two_steps() -> JobDefinition:
    return definitions.resolve_job_def("two_steps")


def pids(result: JobExecutionResult) -> list[object]:
    assert result.success
    events = result.filter_events(lambda event: event.is_step_materialization)
    return [event.materialization.metadata["pid"].value for event in events]


def test_one_step_stays_in_the_run_and_more_get_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)  # the steps' processes import this module
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        with execute_job(reconstructable(one_step), instance) as single:
            assert pids(single) == [os.getpid()]
        with execute_job(reconstructable(two_steps), instance) as parallel:
            found = pids(parallel)
    assert len(set(found)) == 2
    assert os.getpid() not in found
