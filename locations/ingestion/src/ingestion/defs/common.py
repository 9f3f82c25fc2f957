"""What the location's assets have in common: their owner, and how faults of the source are retried."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dagster import Backoff, Failure, Jitter, RetryPolicy, RetryRequested

from ingestion.source import SourceError, SourceUnavailableError

OWNERS: Final = ["team:ingestion"]

MAX_RETRIES: Final = 4
# Waits of about 2, 4, 8 and 16 seconds.
PASSING_FAULTS: Final = RetryPolicy(
    max_retries=MAX_RETRIES, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS
)
_LONGEST_WAIT: Final = 300


@contextmanager
def faults_of_the_source() -> Iterator[None]:
    """Leaves passing faults to the asset's retry policy and ends the step on all others."""
    try:
        yield
    except SourceUnavailableError as error:
        if error.retry_after is None:
            raise
        raise RetryRequested(MAX_RETRIES, min(error.retry_after, _LONGEST_WAIT)) from error
    except SourceError as error:
        raise Failure(str(error), allow_retries=False) from error
