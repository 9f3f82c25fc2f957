"""What the location's assets have in common: their owner, and how faults of the source are retried."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dagster import Backoff, Failure, Jitter, RetryPolicy, RetryRequested

from ingestion.source import SourceError, SourceUnavailableError

OWNERS: Final = ["team:ingestion"]

# Waits of about 2, 4, 8 and 16 seconds. It is no asset's `retry_policy`: under one, Dagster takes the cancellation of a
# run for one more fault, and begins the step again.
PASSING_FAULTS: Final = RetryPolicy(max_retries=4, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
_LONGEST_WAIT: Final = 300


@contextmanager
def faults_of_the_source(retry_number: int) -> Iterator[None]:
    """Has the step tried again after a passing fault, and ends it on all others.

    Parameters
    ----------
    retry_number
        How often it was tried again already.
    """
    try:
        yield
    except SourceUnavailableError as error:
        asked_for = error.retry_after
        wait = PASSING_FAULTS.calculate_delay(retry_number + 1) if asked_for is None else asked_for
        raise RetryRequested(PASSING_FAULTS.max_retries, min(wait, _LONGEST_WAIT)) from error
    except SourceError as error:
        raise Failure(str(error), allow_retries=False) from error
