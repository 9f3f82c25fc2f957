"""dagster-daemon, with backfills looked at every few seconds.

Dagster looks every 30 seconds, a constant without a setting: a backfill then waits up to half a
minute before its first run and as long again before it counts as done. That is most of what a person
waits for when a month is loaded and the marts follow.
"""

from dagster._daemon import controller
from dagster._daemon.cli import main

SECONDS = 3

if controller.DEFAULT_DAEMON_INTERVAL_SECONDS != 30:
    raise RuntimeError("Dagster changed how often it looks at backfills: see whether codeloc/daemon.py is still needed")
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = SECONDS

if __name__ == "__main__":
    main()
