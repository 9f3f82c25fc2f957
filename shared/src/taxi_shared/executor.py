"""The executor every location uses: a run of one step stays in its process, more steps run in parallel.

Dagster's own executors decide this per job and before the plan is known. Most runs here have one
step (a partition of one asset), and for those a second process costs more than the step itself; the
class below only picks between Dagster's two executors once the number of steps is known.
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


class StepCountExecutor(Executor):
    """Delegates to Dagster's in-process executor for one step and to its multiprocess one for more."""

    def __init__(self, single: Executor, parallel: Executor) -> None:
        self._single = single
        self._parallel = parallel

    @property
    def retries(self) -> RetryMode:
        """Whether steps may be retried: the same for both."""
        return self._parallel.retries

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run the plan with the executor that fits its size."""
        chosen = self._single if len(execution_plan.step_keys_to_execute) == 1 else self._parallel
        return chosen.execute(plan_context, execution_plan)


def _create(definition: ExecutorDefinition, context: InitExecutorContext, config: dict[str, Any]) -> Executor:
    create = definition.executor_creation_fn
    if create is None:  # the two definitions used below always have one
        raise TypeError(f"executor {definition.name} cannot be created by itself")
    return create(context._replace(executor_def=definition, executor_config=config))


@executor(name="by_step_count", requirements=multiple_process_executor_requirements())
def by_step_count(context: InitExecutorContext) -> Executor:
    """In process for one step; for more, as many processes as the machine has cores."""
    forkserver = {"forkserver": {"preload_modules": ["dagster", "dagster_postgres", "duckdb"]}}
    return StepCountExecutor(
        single=_create(in_process_executor, context, {"retries": {"enabled": {}}}),
        parallel=_create(
            multiprocess_executor,
            context,
            {"retries": {"enabled": {}}, "max_concurrent": 0, "start_method": forkserver},
        ),
    )
