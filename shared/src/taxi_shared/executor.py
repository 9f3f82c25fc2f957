"""The executor every location uses: steps that follow each other stay in the run's process, others run in parallel.

Dagster's own executors decide this per job and before the plan is known. Most runs here have one step (a partition of
one asset) or a few in a row, and for those a second process costs more than the step itself; the class below only picks
between Dagster's two executors once the plan is known.
"""

from collections.abc import Iterator
from typing import Any

from dagster import (
    Executor,
    ExecutorDefinition,
    InitExecutorContext,
    executor,
    in_process_executor,
    multiple_process_executor_requirements,
    multiprocess_executor,
)
from dagster._core.events import DagsterEvent
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode


class PlanExecutor(Executor):
    """Delegates to Dagster's in-process executor for steps in a row and to its multiprocess one for others."""

    def __init__(self, single: Executor, parallel: Executor) -> None:
        self._single = single
        self._parallel = parallel

    @property
    def retries(self) -> RetryMode:
        """Whether steps may be retried: the same for both."""
        return self._parallel.retries

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run the plan with the executor that fits it."""
        in_a_row = all(len(level) == 1 for level in execution_plan.get_steps_to_execute_by_level())
        return (self._single if in_a_row else self._parallel).execute(plan_context, execution_plan)


def _create(definition: ExecutorDefinition, context: InitExecutorContext, config: dict[str, Any]) -> Executor:
    create = definition.executor_creation_fn
    if create is None:  # the two definitions used below always have one
        raise TypeError(f"executor {definition.name} cannot be created by itself")
    return create(context._replace(executor_def=definition, executor_config=config))


@executor(name="by_plan", requirements=multiple_process_executor_requirements())
def by_plan(context: InitExecutorContext) -> Executor:
    """In process for steps in a row; for others, as many processes as the machine has cores."""
    forkserver = {"forkserver": {"preload_modules": ["dagster", "dagster_postgres", "duckdb"]}}
    return PlanExecutor(
        single=_create(in_process_executor, context, {"retries": {"enabled": {}}}),
        parallel=_create(
            multiprocess_executor,
            context,
            {"retries": {"enabled": {}}, "max_concurrent": 0, "start_method": forkserver},
        ),
    )
