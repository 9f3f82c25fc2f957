"""What one look of Dagster's automation at an asset takes, in a platform whose instance the environment names."""

import json
import sys
import time
from pathlib import Path

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetSelection,
    DagsterInstance,
    Definitions,
    deserialize_value,
    evaluate_automation_conditions,
    serialize_value,
)
from partitioned import partitioned


def main(size: str, cursor_file: str, *updated: str) -> None:
    """Look once, after the partitions that are named were updated; the cursor of the look before is in the file."""
    definitions, cursor = Definitions(assets=partitioned), Path(cursor_file)
    with DagsterInstance.get() as instance:
        for partition in updated:
            instance.report_runless_asset_event(AssetMaterialization(AssetKey(f"of_{size}"), partition=partition))
        began = time.perf_counter()
        found = evaluate_automation_conditions(
            definitions,
            instance,
            asset_selection=AssetSelection.assets(AssetKey(f"follows_{size}")),
            cursor=deserialize_value(cursor.read_text()) if cursor.exists() else None,
        )
        seconds = time.perf_counter() - began
    cursor.write_text(serialize_value(found.cursor))
    print(json.dumps({"seconds": seconds, "requested": found.total_requested}))


if __name__ == "__main__":
    main(*sys.argv[1:])
