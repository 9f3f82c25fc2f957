"""Runs whose process died are tried again, also when their code location is away at that moment.

Dagster tries once: it takes a code location that does not answer for a reason never to try the run again
(`_daemon/auto_run_reexecution`, with a comment that says so). A machine that comes up again is such a moment,
as the daemon is sometimes there before the code servers.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterCodeLocationLoadError, DagsterUserCodeUnreachableError
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon.auto_run_reexecution import auto_run_reexecution
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.daemon import DaemonIterator

# How far back a daemon that starts looks for runs that an earlier one did not come to try again.
LOOK_BACK = timedelta(days=7)


class PatientEventLogConsumerDaemon(EventLogConsumerDaemon):
    """Dagster's daemon of retries, which keeps a run whose code location is away until that is back."""

    def __init__(self) -> None:
        super().__init__()
        # The location of each run that is still to be tried again.
        self._waiting: dict[str, str] = {}
        self._knows_what_was_left = False
        self._retry_run = auto_run_reexecution.retry_run
        auto_run_reexecution.retry_run = self._retry_or_keep

    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext[Any]) -> DaemonIterator:
        """Try what failed since the last time, and what waited for a location that is back."""
        instance = workspace_process_context.instance
        if not self._knows_what_was_left:
            self._waiting = {run.run_id: _location(run) for run in _left_untried(instance)}
            self._knows_what_was_left = True
        yield from super().run_iteration(workspace_process_context)
        workspace = workspace_process_context.create_request_context()
        back = [run for run, location in self._waiting.items() if workspace.has_code_location(location)]
        if back:
            for run in back:
                del self._waiting[run]
            yield from auto_run_reexecution.consume_new_runs_for_automatic_reexecution(
                workspace_process_context, instance.get_run_records(RunsFilter(run_ids=back)), self._logger
            )

    def _retry_or_keep(self, failed_run: DagsterRun, workspace_context: IWorkspaceProcessContext[Any]) -> None:
        try:
            self._retry_run(failed_run, workspace_context)
        except (DagsterUserCodeUnreachableError, DagsterCodeLocationLoadError) as error:
            location = _location(failed_run)
            self._logger.warning("Run %s waits for %s: %s", failed_run.run_id, location, error)
            workspace_context.instance.report_engine_event(
                f"The run is tried again when the code location '{location}' is back.", failed_run
            )
            self._waiting[failed_run.run_id] = location


def _left_untried(instance: DagsterInstance) -> Iterator[DagsterRun]:
    wanted = RunsFilter(
        statuses=[DagsterRunStatus.FAILURE],
        tags={WILL_RETRY_TAG: "true"},
        updated_after=datetime.now(UTC) - LOOK_BACK,
    )
    return (run for run in instance.get_runs(wanted) if AUTO_RETRY_RUN_ID_TAG not in run.tags)


def _location(run: DagsterRun) -> str:
    return run.remote_job_origin.location_name if run.remote_job_origin else ""
