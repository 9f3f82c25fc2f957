"""What it costs to load a month of trips: against DuckDB alone, the course's way, a limit of memory, and later months.

Each figure is that of a process of its own, which loads with the asset, the landing store and the warehouse that a run
has; only the catalog's Postgres runs beside it.
"""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from benchmarks.workplace import folder, postgres, program

ROWS, SHORT_ROWS = 3_000_000, 1_000_000
MOST_ROWS = 20_000_000
LARGEST = 1024**3
MONTHS, SHORT_MONTHS = (36, 300_000), (12, 30_000)
# The first month also pays what a process pays once: libraries, and tables that are made.
BEGINNING, END = slice(1, 4), slice(-3, None)
TIMES = 3


def measure(short: bool) -> list[Row]:
    """The rows about loading."""
    # Fixed costs, such as Dagster's own events, weigh more in the short form's small months.
    rows, times = (SHORT_ROWS, 1) if short else (ROWS, TIMES)
    with folder() as home, postgres(home / "postgres") as catalog:
        month = home / "month"
        _load("make_month", month, rows)
        size = f"{rows:,} rows"
        # In turns, so that what else the machine does meets all three.
        taken = [[_cpu(what, month, catalog) for what in ("asset", "copy", "course")] for _ in range(times)]
        ours, limit, course = (statistics.median(of_one) for of_one in zip(*taken, strict=True))
        found = [
            Row(
                "month",
                f"`taxi_trips`: a yellow month of {size} replaced, whole asset with casts, quarantine and checks (CPU)",
                "DuckDB `COPY (SELECT * FROM read_parquet(file)) TO … (zstd)` of the same file",
                ours,
                limit,
                "s",
                1.5,
                4.0 if short else 2.5,
            ),
            Row(
                "month vs course",
                f"the same: {size} replaced (CPU)",
                "as the course does it: create table, delete, insert into one .duckdb file, all of the file's columns",
                ours,
                course,
                "s",
                1.0,
                3.0 if short else 1.8,
            ),
            _memory(month, catalog, rows),
        ]
        if not short:
            _load("make_month", home / "large", MOST_ROWS)
            found.append(_memory(home / "large", catalog, MOST_ROWS))
        return [*found, _growth(home / "months", catalog, *(SHORT_MONTHS if short else MONTHS))]


def _memory(month: Path, catalog: str, rows: int) -> Row:
    # Replaced: the rows of the month before are taken out in the same transaction.
    for _ in range(2):
        peak = float(_load("peak", month, catalog=catalog)["bytes"])
    return Row(
        f"memory {rows // 1_000:,}k",
        f"`taxi_trips`: a month of {rows:,} rows replaced (peak memory)",
        "1 GiB",
        peak / 1024**2,
        LARGEST / 1024**2,
        "MiB",
        1.0,
        1.2,
    )


def _growth(months: Path, catalog: str, count: int, rows: int) -> Row:
    _load("make_months", months, count, rows)
    cpu = _load("months", months, count, catalog=catalog)["cpu"]
    return Row(
        f"{count} months",
        f"months of {rows:,} rows loaded one after another: each of months {count - 2} to {count} (CPU)",
        "each of months 2 to 4",
        statistics.median(cpu[END]),
        statistics.median(cpu[BEGINNING]),
        "s",
        1.2,
        1.5,
    )


def _cpu(what: str, month: Path, catalog: str) -> float:
    return float(_load(what, month, catalog=catalog)["cpu"])


def _load(what: str, place: Path, *numbers: int, catalog: str = "") -> dict[str, Any]:
    place.mkdir(exist_ok=True)
    return program("ingestion", "loading", what, str(place), *map(str, numbers), WAREHOUSE_CATALOG=catalog)
