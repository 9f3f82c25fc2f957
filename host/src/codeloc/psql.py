"""Questions to Postgres through its own psql: it is there on this machine and in the container alike.

From outside of the containers nothing of ours could reach the server.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from codeloc.commands import Command

# psql as a program speaks to it: no settings of the user, nothing but rows, no password prompt, an error ends it.
PSQL = ("-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1")
_END = "<end of the answer>"
# Rows are compared as text: it must not depend on the server or on whoever asks.
_AS_TEXT = (
    "SET timezone TO 'UTC'",
    "SET datestyle TO 'ISO, YMD'",
    "SET intervalstyle TO 'postgres'",
    "SET bytea_output TO 'hex'",
    "SET extra_float_digits TO 1",
    "SET search_path TO pg_catalog",
    "SET standard_conforming_strings TO on",
    "SET client_min_messages TO warning",
)
# A backup takes its time, whatever an administrator allows other sessions.
_PATIENT = (
    "SET statement_timeout TO 0",
    "SET idle_in_transaction_session_timeout TO 0",
)


def literal(value: str | None) -> str:
    """A text as it stands in SQL."""
    if value is None:
        return "NULL"
    # A backslash is nothing special there: the session says so. Postgres has no text with a zero byte in it.
    return "'" + value.replace("'", "''").replace("\0", "") + "'"


class Session:
    """A psql that answers questions."""

    def __init__(self, given_to: BinaryIO, printed: BinaryIO) -> None:
        self._given_to = given_to
        self._printed = printed

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows that a SELECT finds."""
        return [json.loads(line) for line in self._ask(f"SELECT row_to_json(found) FROM ({query}) AS found")]

    def run(self, statement: str) -> None:
        """Execute something that finds nothing."""
        self._ask(statement)

    def value(self, expression: str) -> Any:  # noqa: ANN401
        """The value of one expression."""
        (row,) = self.rows(f"SELECT {expression} AS value")
        return row["value"]

    def _ask(self, statement: str) -> list[str]:
        self._given_to.write(f"{statement}\n;\n\\echo {_END}\n".encode())
        self._given_to.flush()
        lines = []
        while (line := self._printed.readline().decode().rstrip("\n")) != _END:
            if not line:
                raise EOFError("the database went away")
            lines.append(line)
        return lines


@contextmanager
def session(psql: Command, database: str) -> Iterator[Session]:
    """A session of the administrator.

    Raises
    ------
    CodelocError
        The server cannot be reached, or refused a statement.
    """
    with psql.with_words(*PSQL, "-d", database).piped() as pipes:
        opened = Session(*pipes)
        for statement in (*_PATIENT, *_AS_TEXT):
            opened.run(statement)
        yield opened
