"""What the warehouse should hold, counted from source files with plain DuckDB and rules written anew.

Nothing here is shared with the code under test.
"""

from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb

KEPT = """
    pickup IS NOT NULL AND dropoff IS NOT NULL AND dropoff > pickup AND dropoff <= pickup + INTERVAL 30 DAY
    AND pickup >= $month::DATE - INTERVAL 7 DAY
    AND pickup < $month::DATE + INTERVAL 1 MONTH + INTERVAL 1 DAY
    AND PULocationID BETWEEN 1 AND 265 AND DOLocationID BETWEEN 1 AND 265
    AND coalesce(trip_distance BETWEEN 0 AND 1000, true)
    AND coalesce(total_amount BETWEEN 0 AND 10000, true) AND coalesce(abs(fare_amount) <= 10000, true)
"""


@dataclass(frozen=True)
class Counted:
    """Rows of one file, and what its kept rows charge in all."""

    kept: int
    quarantined: int
    total_amount: float


def month_of(file: Path) -> str:
    """First day of the file's month."""
    return f"{file.stem[-7:]}-01"


def rows_of(file: Path) -> str:
    """What to select a file's rows from; the two services name their times differently. The file is `$file`."""
    prefix = "tpep" if file.name.startswith("yellow") else "lpep"
    return (
        f"(SELECT *, {prefix}_pickup_datetime AS pickup, {prefix}_dropoff_datetime AS dropoff FROM read_parquet($file))"
    )


def count_file(file: Path) -> Counted:
    """How many rows of a file should be trips, and how many should be in the quarantine."""
    with duckdb.connect() as connection:
        row = connection.execute(
            f"""SELECT count(*) FILTER ({KEPT}), count(*) - count(*) FILTER ({KEPT}),
            coalesce(sum(total_amount) FILTER ({KEPT}), 0) FROM {rows_of(file)}""",
            {"month": month_of(file), "file": str(file)},
        ).fetchone()
    assert row is not None
    return Counted(*row)


def trips_per_week(files: list[Path]) -> list[tuple[date, int]]:
    """Monday and number of trips of every week with trips, over several files of one service."""
    weeks: dict[date, int] = {}
    with duckdb.connect() as connection:
        for file in files:
            for monday, trips in connection.execute(
                f"SELECT date_trunc('week', pickup)::DATE, count(*) FROM {rows_of(file)} WHERE {KEPT} GROUP BY 1",
                {"month": month_of(file), "file": str(file)},
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
                f"""SELECT (dayofweek(pickup) + 6) % 7, hour(pickup), count(*) FROM {rows_of(file)}
                WHERE {KEPT} AND pickup::DATE BETWEEN $first AND $last
                AND PULocationID IN (SELECT LocationID FROM read_csv($zones) WHERE Borough = $borough)
                GROUP BY ALL""",
                {
                    "month": month_of(file),
                    "file": str(file),
                    "zones": str(zones),
                    "borough": borough,
                    "first": first,
                    "last": last,
                },
            ).fetchall():
                found[weekday, hour] = found.get((weekday, hour), 0) + trips
    return found


@dataclass(frozen=True)
class Totals:
    """What trips picked up in some months come to, USD, and what became of the rows of those months' files."""

    trips: int
    charged: float
    fares: float
    card_fares: float
    card_tips: float
    airport_ends: int  # a trip from one airport to another has two
    rows: int
    quarantined: int


def totals(files: Sequence[Path], months: Sequence[str]) -> Totals:
    """Count trips of `files` that were picked up in `months`, each `YYYY-MM`, whichever of the files they came in."""
    query = """SELECT count(*), sum(total_amount), sum(fare_amount),
        coalesce(sum(fare_amount) FILTER (payment_type = 1), 0),
        coalesce(sum(tip_amount) FILTER (payment_type = 1), 0),
        count(*) FILTER (PULocationID IN (1, 132, 138)) + count(*) FILTER (DOLocationID IN (1, 132, 138))"""
    # The files without a trip in these months have nothing but a count to add.
    found = [row for row in _each(files, query, months) if row[0]]
    trips, charged, fares, card_fares, card_tips, airport_ends = (sum(column) for column in zip(*found, strict=True))
    counted = [count_file(file) for file in files if file.stem[-7:] in months]
    quarantined = sum(one.quarantined for one in counted)
    rows = sum(one.kept for one in counted) + quarantined
    return Totals(trips, charged, fares, card_fares, card_tips, airport_ends, rows, quarantined)


def pickups_by_zone(files: Sequence[Path], months: Sequence[str], lookup: Path) -> dict[str, dict[str, int]]:
    """Pickups in `months` by borough and zone, named as in TLC's file `lookup`."""
    with duckdb.connect() as connection:
        names = {
            int(zone_id): (borough, zone)
            for zone_id, borough, zone in connection.execute(
                "SELECT LocationID, Borough, Zone FROM read_csv($1, all_varchar = true)", [str(lookup)]
            ).fetchall()
        }
    found: dict[str, dict[str, int]] = {borough: {} for borough, _ in names.values()}
    for zone_id, trips in _each(files, "SELECT PULocationID, count(*)", months, "GROUP BY 1"):
        borough, zone = names[zone_id]
        found[borough][zone] = found[borough].get(zone, 0) + trips
    return found


def average_pickups(files: Sequence[Path], months: Sequence[str], weekday: int, hour: int) -> float:
    """Pickups in `hour` on days such as `weekday` (0: Monday), on the average of all such days in `months`."""
    trips = sum(
        count
        for found_day, found_hour, count in _each(
            files, "SELECT isodow(pickup) - 1, hour(pickup), count(*)", months, "GROUP BY 1, 2"
        )
        if (found_day, found_hour) == (weekday, hour)
    )
    days = [date(int(month[:4]), int(month[5:]), 1) for month in months]
    such = sum(
        date(first.year, first.month, day + 1).weekday() == weekday
        for first in days
        for day in range(monthrange(first.year, first.month)[1])
    )
    return trips / such


def _each(files: Sequence[Path], select: str, months: Sequence[str], group: str = "") -> Iterator[tuple[int, ...]]:
    with duckdb.connect() as connection:
        for file in files:
            yield from connection.execute(
                f"{select} FROM {rows_of(file)} WHERE {KEPT} AND strftime(pickup, '%Y-%m') IN $months {group}",
                {"month": month_of(file), "file": str(file), "months": list(months)},
            ).fetchall()
