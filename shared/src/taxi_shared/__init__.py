"""What more than one location relies on: warehouse, contracts, partitions, executor, conventions."""

import warnings

from dagster import BetaWarning

# Backfill policies and multi-dimensional partition mappings are beta in the Dagster version every
# lock pins; the choice is made once, here, rather than repeated in the log of every process.
warnings.filterwarnings("ignore", category=BetaWarning)
