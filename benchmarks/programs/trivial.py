"""Assets that do nothing, so that what takes time is the platform: in a location of ours, and in plain Dagster."""

from dagster import BackfillPolicy, StaticPartitionsDefinition, asset

# As many as three years have months.
KEYS = StaticPartitionsDefinition([f"{number:02}" for number in range(1, 37)])


@asset
def trivial() -> None:
    """Nothing."""


@asset(partitions_def=KEYS)
def parts() -> None:
    """Nothing, partition by partition: a backfill makes a run of each."""


@asset(partitions_def=KEYS, backfill_policy=BackfillPolicy.single_run())
def parts_in_one_run() -> None:
    """Nothing, of all partitions at once: a backfill makes one run."""
