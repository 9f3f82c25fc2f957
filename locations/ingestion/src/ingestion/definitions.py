"""The location's only entrance: everything it defines lies under `defs/`."""

from pathlib import Path

import taxi_shared  # noqa: F401  (sets the warning filter and stamps materializations)
from dagster import Definitions, definitions, load_from_defs_folder


@definitions
def defs() -> Definitions:
    """Everything under `defs/`."""
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
