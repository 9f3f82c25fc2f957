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
from taxi_shared.executor import by_plan


@asset
def first() -> MaterializeResult[None]:
    return MaterializeResult(metadata={"pid": os.getpid()})


@asset
def second() -> MaterializeResult[None]:
    return MaterializeResult(metadata={"pid": os.getpid()})


@asset(deps=[first])
def after_first() -> MaterializeResult[None]:
    return MaterializeResult(metadata={"pid": os.getpid()})


definitions = Definitions(
    [first, second, after_first],
    jobs=[
        define_asset_job("in_a_row", [first, after_first]),
        define_asset_job("side_by_side", [first, second]),
    ],
    executor=by_plan,
)


def in_a_row() -> JobDefinition:
    return definitions.resolve_job_def("in_a_row")


def side_by_side() -> JobDefinition:
    return definitions.resolve_job_def("side_by_side")


def pids(result: JobExecutionResult) -> list[object]:
    assert result.success
    events = result.filter_events(lambda event: event.is_step_materialization)
    return [event.materialization.metadata["pid"].value for event in events]


def test_steps_in_a_row_stay_in_the_run_and_others_get_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)  # the steps' processes import this module
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        with execute_job(reconstructable(in_a_row), instance) as single:
            assert pids(single) == [os.getpid()] * 2
        with execute_job(reconstructable(side_by_side), instance) as parallel:
            found = pids(parallel)
    assert len(set(found)) == 2
    assert os.getpid() not in found
