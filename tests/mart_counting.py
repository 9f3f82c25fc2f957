"""What each mart should hold, counted from source files: rows by key, each with its numbers.

Trips are read file by file with plain DuckDB and added up in Python; nothing is shared with the code under test.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from counting import KEPT, count_file, month_of, rows_of

Key = tuple[Any, ...]
Numbers = tuple[float, ...]

PAYMENTS = {0: "flex fare", 1: "card", 2: "cash", 3: "no charge", 4: "dispute", 5: "unknown", 6: "voided"}
AIRPORTS = {1: "Newark Airport", 132: "JFK Airport", 138: "LaGuardia Airport"}


@dataclass(frozen=True)
class CountedMart:
    """A mart's columns of key and numbers, and what they should be for the files of one service."""

    key: tuple[str, ...]
    numbers: tuple[str, ...]
    count: Callable[[Sequence[Path]], dict[Key, Numbers]]


def _weeks(files: Sequence[Path]) -> dict[Key, Numbers]:
    return _added_up(
        ((_monday(trip["pickup"]),), (1, trip["miles"], trip["fare"], trip["tip"], trip["total"]))
        for trip in _trips(files)
    )


def _demand(files: Sequence[Path]) -> dict[Key, Numbers]:
    return _added_up(
        ((trip["from"], trip["pickup"].replace(minute=0, second=0, microsecond=0)), (1, trip["total"]))
        for trip in _trips(files)
    )


def _payments(files: Sequence[Path]) -> dict[Key, Numbers]:
    return _added_up(
        (
            (_first_of_month(trip["pickup"]), PAYMENTS.get(trip["payment"], "not reported")),
            (1, trip["miles"], _seconds(trip), trip["fare"], trip["tip"], trip["tolls"], trip["total"]),
        )
        for trip in _trips(files)
    )


def _distances(files: Sequence[Path]) -> dict[Key, Numbers]:
    def band(miles: float | None) -> str:
        if not miles:
            return "none recorded"
        edges = [0, 1, 2, 3, 5, 10, 20]
        low = max(edge for edge in edges if edge <= miles)
        return f"{low} to {edges[edges.index(low) + 1]}" if low < edges[-1] else "20 and more"

    return _added_up(
        (
            (_first_of_month(trip["pickup"]), band(trip["miles"])),
            (
                1,
                trip["fare"],
                trip["total"],
                int(trip["payment"] == 1),
                trip["fare"] if trip["payment"] == 1 else 0,
                trip["tip"] if trip["payment"] == 1 else 0,
            ),
        )
        for trip in _trips(files)
    )


def _airports(files: Sequence[Path]) -> dict[Key, Numbers]:
    return _added_up(
        (
            (trip["pickup"].date(), AIRPORTS[trip[end]], end),
            (1, trip["miles"], _seconds(trip), trip["fare"], trip["tip"], trip["total"]),
        )
        for trip in _trips(files)
        for end in ("from", "to")
        if trip[end] in AIRPORTS
    )


def _quality(files: Sequence[Path]) -> dict[Key, Numbers]:
    found: dict[Key, Numbers] = {}
    for file in files:
        counted = count_file(file)
        found[date.fromisoformat(month_of(file)), True] = (counted.kept,)
        if counted.quarantined:
            found[date.fromisoformat(month_of(file)), False] = (counted.quarantined,)
    return found


COUNTED = {
    "trips_by_week": CountedMart(
        ("week",), ("trips", "distance_miles", "fare_amount", "tip_amount", "total_amount"), _weeks
    ),
    "zone_hourly_demand": CountedMart(("zone_id", "pickup_hour"), ("trips", "total_amount"), _demand),
    "fare_economics": CountedMart(
        ("month", "payment"),
        ("trips", "distance_miles", "duration_seconds", "fare_amount", "tip_amount", "tolls_amount", "total_amount"),
        _payments,
    ),
    "fares_by_distance": CountedMart(
        ("month", "distance_band"),
        ("trips", "fare_amount", "total_amount", "card_trips", "card_fare_amount", "card_tip_amount"),
        _distances,
    ),
    "airport_trips": CountedMart(
        ("day", "airport", "direction"),
        ("trips", "distance_miles", "duration_seconds", "fare_amount", "tip_amount", "total_amount"),
        _airports,
    ),
    # Why a row was quarantined is ingestion's own test; here that it was.
    "load_quality": CountedMart(("file_month", "outcome = 'kept'"), ("row_count",), _quality),
}


def zones_of(borough: str, lookup: Path) -> set[int]:
    """The zones of a borough in TLC's lookup table."""
    with lookup.open(encoding="utf-8", newline="") as opened:
        return {int(row["LocationID"]) for row in csv.DictReader(opened) if row["Borough"] == borough}


def _trips(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Each kept trip of the files; amounts that nobody recorded are None."""
    names = ("pickup", "dropoff", "from", "to", "miles", "payment", "fare", "tip", "tolls", "total")
    for file in files:
        with duckdb.connect() as connection:
            found = connection.execute(
                f"""SELECT pickup, dropoff, PULocationID, DOLocationID, trip_distance, payment_type,
                fare_amount, tip_amount, tolls_amount, total_amount FROM {rows_of(file)} WHERE {KEPT}""",
                {"month": month_of(file), "file": str(file)},
            )
            while rows := found.fetchmany(10_000):
                yield from (dict(zip(names, row, strict=True)) for row in rows)


def _added_up(parts: Iterator[tuple[Key, tuple[float | None, ...]]]) -> dict[Key, Numbers]:
    found: dict[Key, list[float]] = defaultdict(list)
    for key, numbers in parts:
        sums = found[key] or [0.0] * len(numbers)
        found[key] = [old + (new or 0) for old, new in zip(sums, numbers, strict=True)]
    return {key: tuple(sums) for key, sums in found.items()}


def _seconds(trip: dict[str, Any]) -> int:
    return int((trip["dropoff"].replace(microsecond=0) - trip["pickup"].replace(microsecond=0)).total_seconds())


def _first_of_month(at: datetime) -> date:
    return at.date().replace(day=1)


def _monday(at: datetime) -> date:
    return at.date() - timedelta(days=at.weekday())
