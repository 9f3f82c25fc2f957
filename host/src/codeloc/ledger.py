"""What was deployed when, by whom and why, in Postgres beside Dagster's history; and the lock of whoever deploys.

A row is written when a deploy begins and completed when it ends. One that was never completed, and whose lock nobody
holds, was cut off: the next command finds it and finishes or undoes what it was at.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from codeloc import postgres
from codeloc.commands import Command
from codeloc.errors import CodelocError
from codeloc.psql import Session, literal, session
from codeloc.serving import daemon_key

_LOCK = "hashtextextended('codeloc deploy', 0)"
_TABLE = """
CREATE SCHEMA IF NOT EXISTS codeloc;
CREATE TABLE IF NOT EXISTS codeloc.deployments (
    id uuid PRIMARY KEY,
    location text NOT NULL,
    action text NOT NULL,
    from_version text,
    to_version text,
    commit text,
    who text NOT NULL,
    reason text,
    files json,
    plan json,
    started timestamptz NOT NULL DEFAULT now(),
    step text,
    ended timestamptz,
    outcome text,
    error text
)
"""
# Runs that have not ended, and may still be started or tried again on the code they were submitted with.
_ACTIVE = "('NOT_STARTED', 'QUEUED', 'STARTING', 'STARTED', 'CANCELING')"
_IMAGE = re.compile(r'"container_image": "([^"]+)"')

DONE, FAILED, UNDONE = "done", "failed", "undone"


@dataclass(frozen=True)
class Deployment:
    """A row of the history.

    Attributes
    ----------
    outcome
        done, failed (the former version serves on), or undone (it was cut off, and a later command took it back);
        None: it is under way, or was cut off.
    """

    id: str
    location: str
    action: str
    from_version: str | None
    to_version: str | None
    commit: str | None
    who: str
    reason: str | None
    plan: dict[str, Any] | None
    started: datetime
    step: str | None
    ended: datetime | None
    outcome: str | None
    error: str | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Deployment":
        """A row as psql tells it."""
        times = {name: datetime.fromisoformat(row[name]) if row[name] else None for name in ("started", "ended")}
        return cls(**(row | times))

    def as_json(self) -> dict[str, Any]:
        """For machines; times in UTC."""
        times = {name: str(value) if (value := getattr(self, name)) else None for name in ("started", "ended")}
        return {**vars(self), **times, "seconds": self.seconds}

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return (self.ended - self.started).total_seconds() if self.ended else None


class Ledger:
    """The history, through an open session."""

    def __init__(self, opened: Session) -> None:
        self._session = opened

    def lock(self) -> None:
        """Be the only one who deploys, until the session ends: also when this process is killed.

        Raises
        ------
        CodelocError
            Somebody else is at it; who, and what.
        """
        if not self._session.value(f"pg_try_advisory_lock({_LOCK})"):
            at = "somebody else deploys"
            for found in self.unfinished():
                at = f"{found.who} is at `{found.action} {found.location}` since {found.started:%H:%M:%S} UTC"
            raise CodelocError(f"{at}: wait for its end, then try again")

    def begin(
        self,
        location: str,
        action: str,
        from_version: str | None,
        to_version: str | None,
        commit: str | None,
        who: str,
        reason: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Write down that something begins; returns its id.

        Parameters
        ----------
        files
            What `to_version` is made from, as `codeloc.sources.Source` has it.
        """
        row = str(uuid.uuid4())
        made_from = json.dumps(dict(files)) if files else None
        texts = map(literal, [row, location, action, from_version, to_version, commit, who, reason, made_from])
        columns = "id, location, action, from_version, to_version, commit, who, reason, files"
        self._session.run(f"INSERT INTO codeloc.deployments ({columns}) VALUES ({', '.join(texts)})")
        return row

    def is_locked(self) -> bool:
        """Whether somebody deploys at this moment."""
        if self._session.value(f"pg_try_advisory_lock({_LOCK})"):
            self._session.value(f"pg_advisory_unlock({_LOCK})")
            return False
        return True

    def note(self, row: str, **values: str) -> None:
        """Write down what became known meanwhile, by column."""
        changes = ", ".join(f"{column} = {literal(value)}" for column, value in values.items())
        self._session.run(f"UPDATE codeloc.deployments SET {changes} WHERE id = {literal(row)}")

    def end(self, row: str, outcome: str, error: str | None = None) -> None:
        """Write down how it ended."""
        self._session.run(
            f"UPDATE codeloc.deployments SET ended = now(), outcome = {literal(outcome)}, error = {literal(error)}"
            f" WHERE id = {literal(row)}"
        )

    def wanted(self, row: str) -> str | None:
        """The version that shall serve in the end."""
        (found,) = self._deployments(f"WHERE id = {literal(row)}")
        return found.to_version

    def unfinished(self) -> list[Deployment]:
        """What has begun and has not ended, oldest first."""
        return self._deployments("WHERE ended IS NULL ORDER BY started")

    def history(self, location: str | None = None, limit: int = 1000) -> list[Deployment]:
        """What there was, newest first."""
        of = f"WHERE location = {literal(location)}" if location else ""
        return self._deployments(f"{of} ORDER BY started DESC LIMIT {limit}")

    def files(self, location: str, version: str | None) -> dict[str, str]:
        """What a version is made from; nothing where it is not known."""
        rows = self._session.rows(
            f"SELECT files FROM codeloc.deployments WHERE location = {literal(location)}"
            f" AND to_version = {literal(version)} AND files IS NOT NULL ORDER BY started DESC LIMIT 1"
        )
        return dict(rows[0]["files"]) if rows else {}

    def active_versions(self, location: str) -> set[str]:
        """Versions of a location's code that runs which have not ended were submitted with."""
        rows = self._session.rows(
            f"SELECT run_body FROM public.runs WHERE status IN {_ACTIVE} AND run_body LIKE '%\"container_image\"%'"
        )
        images = {image for row in rows for image in _IMAGE.findall(row["run_body"])}
        # As codeloc.releases names them, and as docker-compose.yml does.
        of_location = re.compile(rf"(?:.*[-/])?{re.escape(location)}:(.+)")
        return {found[1] for image in images if (found := of_location.fullmatch(image))}

    def daemon_serves(self, location: str) -> str | None:
        """The version of a location that the daemon says it has loaded."""
        rows = self._session.rows(f"SELECT value FROM public.kvs WHERE key = {literal(daemon_key(location))}")
        return (rows[0]["value"] or None) if rows else None

    def running_automation(self, location: str) -> dict[str, str]:
        """Schedules and sensors of a location that somebody turned on, by name: SCHEDULE or SENSOR."""
        rows = self._session.rows(
            "SELECT instigator_type, instigator_body FROM public.instigators WHERE status = 'RUNNING'"
        )
        found = {}
        for row in rows:
            origin = json.loads(row["instigator_body"])["origin"]
            repository = origin.get("repository_origin") or origin["external_repository_origin"]
            of = repository.get("code_location_origin") or repository["repository_location_origin"]
            if of["location_name"] == location:
                found[origin.get("instigator_name") or origin["job_name"]] = str(row["instigator_type"])
        return found

    def _deployments(self, condition: str) -> list[Deployment]:
        columns = ", ".join(field.name for field in fields(Deployment))
        rows = self._session.rows(f"SELECT {columns} FROM codeloc.deployments {condition}")
        return [Deployment.of(row) for row in rows]


@contextmanager
def ledger(psql: Command) -> Iterator[Ledger]:
    """The history, made on the first use."""
    with session(psql, postgres.DAGSTER) as opened:
        opened.run(_TABLE.replace(";\n", "\n;\n"))
        yield Ledger(opened)
