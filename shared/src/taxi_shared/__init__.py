"""What more than one location relies on: warehouse, contracts, partitions, executor, conventions.

Each location's `definitions.py` imports it first, for the four things that hold for all that a location defines.
"""

import gc
import sys
import warnings

from dagster import BetaWarning

from taxi_shared.connections import keep_connections
from taxi_shared.release import stamp_materializations

# Backfill policies and multi-dimensional partition mappings are beta in the Dagster version every
# lock pins; the choice is made once, here, rather than repeated in the log of every process.
warnings.filterwarnings("ignore", category=BetaWarning)
stamp_materializations()
# What is imported by now stays: looking through it again and again took a quarter of the time to build definitions.
gc.freeze()
# A run, or a step of one, has its storage before it has its definitions; nothing else is worth the import.
if "dagster_postgres" in sys.modules:
    keep_connections()
