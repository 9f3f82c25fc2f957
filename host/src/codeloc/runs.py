"""A run and what the daemon makes of it: a run whose process died is tried again, as another run."""

import time

from codeloc.graphql import Webserver

# The daemon says a little after a failure whether it tries the run again.
_LONGEST_DECISION = 30
_LONGEST_SILENCE = 2


class FollowedRun:
    """A run, or the retry that took its place."""

    def __init__(self, webserver: Webserver, run_id: str) -> None:
        self.run_id = run_id
        self._webserver = webserver
        self._failed_at: float | None = None

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self._webserver.url}/runs/{self.run_id}"

    def end(self) -> str | None:
        """SUCCESS, FAILURE or CANCELED once that is final; None while it, or a retry, is to come or under way."""
        run = self._webserver.run(self.run_id)
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        retry = tags.get("dagster/auto_retry_run_id")
        if run["status"] == "SUCCESS":
            return "SUCCESS"
        if retry is not None:
            self.run_id, self._failed_at = retry, None
            return None
        if run["status"] not in ("FAILURE", "CANCELED"):
            return None
        self._failed_at = self._failed_at or time.monotonic()
        since = time.monotonic() - self._failed_at
        undecided = "dagster/will_retry" not in tags and since < _LONGEST_SILENCE
        if undecided or (tags.get("dagster/will_retry") == "true" and since < _LONGEST_DECISION):
            return None
        return str(run["status"])
