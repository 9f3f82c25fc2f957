"""dagster-daemon, with two changes that Dagster has no settings for.

It looks every 30 seconds at backfills: one then waits up to half a minute before its first run and as long again
before it counts as done. That is most of what a person waits for when a month is loaded and the marts follow.

And it drops the retry of a run whose code location is away: see codeloc/retries.py.
"""

from dagster._daemon import controller
from dagster._daemon.cli import main

from codeloc.retries import PatientEventLogConsumerDaemon

SECONDS = 3

if controller.DEFAULT_DAEMON_INTERVAL_SECONDS != 30:
    raise RuntimeError("Dagster changed how often it looks at backfills: see whether codeloc/daemon.py is still needed")
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = SECONDS
# What the controller makes when it is asked for EVENT_LOG_CONSUMER.
vars(controller)["EventLogConsumerDaemon"] = PatientEventLogConsumerDaemon

if __name__ == "__main__":
    main()
