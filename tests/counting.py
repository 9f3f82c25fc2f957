"""What the warehouse should hold, counted from source files with plain DuckDB and rules written anew.

Nothing here is shared with the code under test.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb

KEPT = """
    pickup IS NOT NULL AND dropoff IS NOT NULL AND dropoff > pickup
    AND pickup >= $month::DATE - INTERVAL 7 DAY
    AND pickup < $month::DATE + INTERVAL 1 MONTH + INTERVAL 1 DAY
    AND PULocationID BETWEEN 1 AND 265 AND DOLocationID BETWEEN 1 AND 265
    AND coalesce(trip_distance BETWEEN 0 AND 1000, true)
    AND coalesce(total_amount >= 0, true)
"""


@dataclass(frozen=True)
class Counted:
    """Rows of one file, and what its kept rows charge in all."""

    kept: int
    quarantined: int
    total_amount: float


def _month(file: Path) -> str:
    return f"{file.stem[-7:]}-01"


def _rows(file: Path) -> str:
    prefix = "tpep" if file.name.startswith("yellow") else "lpep"
    return (
        f"(SELECT *, {prefix}_pickup_datetime AS pickup, {prefix}_dropoff_datetime AS dropoff FROM read_parquet($file))"
    )


def count_file(file: Path) -> Counted:
    """How many rows of a file should be trips, and how many should be in the quarantine."""
    with duckdb.connect() as connection:
        row = connection.execute(
            f"""SELECT count(*) FILTER ({KEPT}), count(*) - count(*) FILTER ({KEPT}),
            coalesce(sum(total_amount) FILTER ({KEPT}), 0) FROM {_rows(file)}""",
            {"month": _month(file), "file": str(file)},
        ).fetchone()
    assert row is not None
    return Counted(*row)


def trips_per_week(files: list[Path]) -> list[tuple[date, int]]:
    """Monday and number of trips of every week with trips, over several files of one service."""
    weeks: dict[date, int] = {}
    with duckdb.connect() as connection:
        for file in files:
            for monday, trips in connection.execute(
                f"SELECT date_trunc('week', pickup)::DATE, count(*) FROM {_rows(file)} WHERE {KEPT} GROUP BY 1",
                {"month": _month(file), "file": str(file)},
            ).fetchall():
                weeks[monday] = weeks.get(monday, 0) + trips
    return sorted(weeks.items())


def trips_by_hour(files: list[Path], zones: Path, borough: str, first: date, last: date) -> dict[tuple[int, int], int]:
    """Trips picked up in a borough from `first` to `last`, by weekday (0 is Monday) and hour.

    `zones` is TLC's lookup table: the borough of each zone.
    """
    found: dict[tuple[int, int], int] = {}
    with duckdb.connect() as connection:
        for file in files:
            for weekday, hour, trips in connection.execute(
                f"""SELECT (dayofweek(pickup) + 6) % 7, hour(pickup), count(*) FROM {_rows(file)}
                WHERE {KEPT} AND pickup::DATE BETWEEN $first AND $last
                AND PULocationID IN (SELECT LocationID FROM read_csv($zones) WHERE Borough = $borough)
                GROUP BY ALL""",
                {
                    "month": _month(file),
                    "file": str(file),
                    "zones": str(zones),
                    "borough": borough,
                    "first": first,
                    "last": last,
                },
            ).fetchall():
                found[weekday, hour] = found.get((weekday, hour), 0) + trips
    return found
