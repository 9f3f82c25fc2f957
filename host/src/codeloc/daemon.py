"""dagster-daemon, with four changes that Dagster has no settings for.

It looks every 30 seconds at backfills: one then waits up to half a minute before its first run and as long again
before it counts as done. That is most of what a person waits for when a month is loaded and the marts follow.

It drops the retry of a run whose code location is away: see codeloc/retries.py.

It connects to Postgres anew for each statement: see codeloc/connections.py.

And nobody can ask it which code it has loaded: it tells, so that a deploy knows when it is through.
"""

from typing import Any

from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon import controller
from dagster._daemon.cli import main
from dagster._daemon.daemon import DaemonIterator
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from codeloc.connections import keep_connections
from codeloc.retries import PatientEventLogConsumerDaemon
from codeloc.serving import daemon_key, version_of

SECONDS = 3


class TellingQueuedRunCoordinatorDaemon(QueuedRunCoordinatorDaemon):
    """Dagster's daemon of the queue, which looks each second, and tells which version of each location is loaded."""

    def __init__(self, interval_seconds: int) -> None:
        super().__init__(interval_seconds=interval_seconds)
        self._told: dict[str, str] = {}

    def run_iteration(
        self,
        workspace_process_context: IWorkspaceProcessContext[Any],
        fixed_iteration_time: float | None = None,
    ) -> DaemonIterator:
        """Tell what is loaded, and start what may be started."""
        entries = workspace_process_context.create_request_context().get_code_location_entries()
        loaded = {
            # Empty: it does not load.
            daemon_key(name): (version_of(entry.code_location.container_image) or "") if entry.code_location else ""
            for name, entry in entries.items()
        }
        if loaded != self._told:
            workspace_process_context.instance.daemon_cursor_storage.set_cursor_values(loaded)
            self._told = loaded
        yield from super().run_iteration(workspace_process_context, fixed_iteration_time)


if controller.DEFAULT_DAEMON_INTERVAL_SECONDS != 30:
    raise RuntimeError("Dagster changed how often it looks at backfills: see whether codeloc/daemon.py is still needed")
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = SECONDS
# What the controller makes when it is asked for EVENT_LOG_CONSUMER and for QUEUED_RUN_COORDINATOR.
vars(controller)["EventLogConsumerDaemon"] = PatientEventLogConsumerDaemon
vars(controller)["QueuedRunCoordinatorDaemon"] = TellingQueuedRunCoordinatorDaemon
keep_connections()

if __name__ == "__main__":
    main()
