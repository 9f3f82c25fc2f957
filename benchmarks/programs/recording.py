"""What it takes to record that a partition was materialized: as Dagster does it, and with kept connections."""

import json
import sys
import time

from dagster import AssetKey, AssetMaterialization, DagsterInstance
from partitioned import partitioned

COUNT = 100


def seconds(instance: DagsterInstance, key: AssetKey, partitions: list[str]) -> float:
    """For one of them."""
    began = time.perf_counter()
    for partition in partitions:
        instance.report_runless_asset_event(AssetMaterialization(key, partition=partition))
    return (time.perf_counter() - began) / len(partitions)


def main(size: str) -> None:
    """Record some of the partitions of an asset both ways."""
    key = AssetKey(f"of_{size}")
    source = next(found for found in partitioned if found.key == key)
    partitions = source.partitions_def.get_partition_keys()[:COUNT]
    with DagsterInstance.get() as instance:
        told = {"connecting": seconds(instance, key, partitions)}
        # What Dagster's webserver does, and our runs: shared/src/taxi_shared/connections.py.
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
        told["connected"] = seconds(instance, key, partitions)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
