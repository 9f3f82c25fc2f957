"""What the location's assets have in common: their owner, how faults of the source are retried, how a run ends that
could do some of its months only.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from dagster import Backoff, Failure, Jitter, MetadataValue, RetryPolicy, RetryRequested
from taxi_shared.alerts import FAILED_PARTITIONS

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


def mending(keys: Iterable[str]) -> str:
    """What a person does about months that were refused, given by their partitions."""
    return (
        "Once the file or the rule is mended, materialize landing/taxi_trips_file and raw/taxi_trips for"
        f" {', '.join(keys)}."
    )


def refused_months(refusals: Mapping[str, str], others: int, what_then: str) -> Failure:
    """The end of a run that went on with its other months.

    Parameters
    ----------
    refusals
        Why, by partition.
    others
        How many months went well.
    what_then
        What that means, and what to do.
    """
    text = " ".join(refusals.values())
    if others or len(refusals) > 1:
        text = f"{len(refusals)} of {len(refusals) + others} months failed ({', '.join(refusals)}). {text}"
    return Failure(
        f"{text} {what_then}".rstrip(),
        metadata={FAILED_PARTITIONS: MetadataValue.json(list(refusals))},
        allow_retries=False,
    )
