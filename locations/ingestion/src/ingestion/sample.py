"""Made-up TLC months, laid out like TLC's file server, so that the project can run offline.

Schemas, their drift and the odd rows are TLC's; of the values only the zones are real.
"""

import argparse
import dataclasses
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Service = Literal["yellow", "green"]
Column = npt.NDArray[Any]
Trips = dict[str, Column]  # by column name
Random = np.random.Generator

SAMPLE_DATA: Final = Path(__file__).parent / "sample_data"


@dataclasses.dataclass(frozen=True)
class OddRows:
    """How many odd rows of each kind one file has; no row is odd in two ways."""

    impossible_year: int = 6  # picked up on one of IMPOSSIBLE_DAYS
    before_month: int = 40  # picked up in the five days before the month
    after_month: int = 12  # picked up less than a day after the month
    dropoff_at_pickup: int = 60
    dropoff_before_pickup: int = 20
    zero_distance: int = 2_000
    absurd_distance: int = 8  # 92,000 to 260,000 miles
    negative_amounts: int = 300  # each stands right after the positive row that it mirrors
    unknown_zone: int = 400  # one end or both in zone 264 or 265
    unknown_rate: int = 250  # RatecodeID 99
    unreported: int = 3_000  # the columns of NULL_WHEN_UNREPORTED are null together


ODD_ROWS: Final[dict[Service, OddRows]] = {
    "yellow": OddRows(),
    "green": OddRows(negative_amounts=180, unreported=4_000),
}
ROWS: Final[dict[Service, dict[str, int]]] = {
    "yellow": {"2023-01": 50_800, "2023-02": 48_700, "2023-03": 52_300},
    "green": {"2023-01": 50_100, "2023-02": 47_600, "2023-03": 51_900},
}
IMPOSSIBLE_DAYS: Final = np.array(["2008-12-31", "2009-01-01", "2041-11-17"], "M8[s]")

COLUMNS: Final[dict[Service, str]] = {
    "yellow": """
        VendorID tpep_pickup_datetime tpep_dropoff_datetime passenger_count trip_distance RatecodeID
        store_and_fwd_flag PULocationID DOLocationID payment_type fare_amount extra mta_tax
        tip_amount tolls_amount improvement_surcharge total_amount congestion_surcharge airport_fee
    """,
    "green": """
        VendorID lpep_pickup_datetime lpep_dropoff_datetime store_and_fwd_flag RatecodeID
        PULocationID DOLocationID passenger_count trip_distance fare_amount extra mta_tax
        tip_amount tolls_amount ehail_fee improvement_surcharge total_amount payment_type
        trip_type congestion_surcharge
    """,
}
UNREPORTED: Final = ("passenger_count", "RatecodeID", "store_and_fwd_flag", "congestion_surcharge")
NULL_WHEN_UNREPORTED: Final[dict[Service, tuple[str, ...]]] = {
    "yellow": (*UNREPORTED, "airport_fee"),
    "green": (*UNREPORTED, "payment_type", "trip_type"),
}

JFK, LAGUARDIA, NEWARK = AIRPORTS = (132, 138, 1)

# Demand by hour of the day and, below, by day of the week from Monday on.
# fmt: off
WORKDAY: Final = np.array([15, 10, 7, 6, 4, 6, 24, 46, 55, 54, 51, 52,
                           54, 53, 58, 64, 66, 72, 76, 66, 54, 46, 38, 27])
WEEKEND: Final = np.array([48, 38, 32, 20, 12, 8, 11, 16, 24, 37, 46, 54,
                           58, 56, 60, 60, 66, 64, 68, 60, 52, 44, 46, 42])
# fmt: on
WEEKDAYS: Final = np.array([0.85, 0.97, 1.0, 1.05, 1.08, 1.06, 0.9])
CLOCKS_FORWARD: Final = np.datetime64("2023-03-12T02", "s")  # this hour does not exist

CHANCE_OF_PAYMENT: Final[dict[Service, list[float]]] = {  # payment_type 1 (card) to 4
    "yellow": [0.80, 0.18, 0.007, 0.013],
    "green": [0.63, 0.36, 0.007, 0.003],
}
README: Final = """\
Made-up taxi trips in the format of the New York City Taxi and Limousine Commission (TLC).

Nobody took these trips: the program `python -m ingestion.sample` made them up. They are
deterministic, so that writing them again gives the same files. Columns, types and odd rows follow
TLC's real files. The zones under misc/ are TLC's own, their shapes simplified.
"""


def month_schema(service: Service, month: str) -> pa.Schema:
    """Return the physical schema of TLC's file of one month.

    Parameters
    ----------
    service
        ``"yellow"`` or ``"green"``.
    month
        A key of ``ROWS[service]``. TLC changed its writer, and with it the types, for 2023-02.
    """
    names, old = COLUMNS[service].split(), month == "2023-01"
    whole = pa.int64() if old else pa.int32()
    count = pa.float64() if old else pa.int64()
    types = {
        "VendorID": whole,
        "PULocationID": whole,
        "DOLocationID": whole,
        "passenger_count": count,
        "RatecodeID": count,
        "trip_type": count,
        "payment_type": count if service == "green" else pa.int64(),
        "store_and_fwd_flag": pa.string() if old else pa.large_string(),
        "ehail_fee": pa.null() if old else pa.float64(),
    }
    types |= {name: pa.timestamp("us") for name in names if name.endswith("_datetime")}
    spelling = {} if old else {"airport_fee": "Airport_fee"}
    return pa.schema([(spelling.get(name, name), types.get(name, pa.float64())) for name in names])


def month_table(service: Service, month: str) -> pa.Table:
    """Make up one month of trips.

    Parameters
    ----------
    service
        ``"yellow"`` or ``"green"``.
    month
        A key of ``ROWS[service]``, such as ``"2023-01"``.

    Returns
    -------
    pyarrow.Table
        ``ROWS[service][month]`` trips in the schema of `month_schema`, among them the odd rows
        that ``ODD_ROWS[service]`` counts. The same arguments give the same table.
    """
    rng = Random(np.random.PCG64(list(f"{service} {month}".encode())))
    odd_rows = dataclasses.asdict(ODD_ROWS[service])
    trips = ROWS[service][month] - odd_rows["negative_amounts"]
    odd = np.repeat(["no", *odd_rows], [trips - sum(odd_rows.values()), *odd_rows.values()])
    rng.shuffle(odd)
    pickup = _pickup_times(rng, month, trips)
    # TLC's files run hour by hour, with the unreported trips after all others.
    order = np.lexsort((pickup.astype("M8[h]"), odd == "unreported"))
    odd = odd[order]
    trip = _rides(rng, service, pickup[order], odd)
    cents = _amounts(rng, service, trip, odd)
    _spoil(rng, month, trip, odd)

    row = np.repeat(np.arange(trips), 1 + (odd == "negative_amounts"))
    mirror = np.where(np.diff(row, prepend=-1) == 0, -1, 1)
    unreported = odd[row] == "unreported"
    schema = month_schema(service, month)
    columns = []
    for name, field in zip(COLUMNS[service].split(), schema, strict=True):
        if name == "ehail_fee":
            columns.append(pa.nulls(len(row), field.type))
            continue
        if name in cents:
            values = cents[name][row] * mirror / 100
        else:
            values = trip[name.removeprefix("tpep_").removeprefix("lpep_")][row]
        mask = unreported if name in NULL_WHEN_UNREPORTED[service] else None
        columns.append(pa.array(values, mask=mask).cast(field.type))
    return pa.table(columns, schema=schema)


def _pickup_times(rng: Random, month: str, trips: int) -> Column:
    """Draw pick-up times by the demand of each hour of the month."""
    hours = np.arange(np.datetime64(month, "h"), (np.datetime64(month, "M") + 1).astype("M8[h]"))
    days = hours.astype("M8[D]")
    weekday = (days.astype(int) + 3) % 7  # numpy's day 0, 1970-01-01, was a Thursday
    hour = (hours - days).astype(int)
    demand = np.where(weekday < 5, WORKDAY[hour], WEEKEND[hour]) * WEEKDAYS[weekday]
    demand[hours == CLOCKS_FORWARD] = 0
    begin = rng.choice(hours, trips, p=demand / demand.sum()).astype("M8[s]")
    return np.asarray(begin + rng.integers(0, 3600, trips))


def _routes(rng: Random, service: Service, trips: int) -> tuple[Column, Column]:
    """Draw the zones, rows of trip_zones.csv, where trips begin and end: busy ones, rather near."""
    zones = np.genfromtxt(SAMPLE_DATA / "trip_zones.csv", delimiter=",", names=True, dtype=None)
    airport = np.isin(zones["LocationID"], AIRPORTS)
    usual_miles = np.where(airport[:, None], 30, np.where(airport, 5, 2))
    demand = zones[f"{service}_dropoffs"] * np.exp(-_miles(zones[:, None], zones) / usual_miles)
    chance = zones[f"{service}_pickups"][:, None] * demand / demand.sum(axis=1, keepdims=True)
    pair = rng.choice(chance.size, trips, p=chance.ravel() / chance.sum())
    origin, destination = np.divmod(pair, len(zones))
    return zones[origin], zones[destination]


def _miles(origin: Column, destination: Column) -> Column:
    """Guess the miles by road between zones from their centres."""
    east = 52.4 * (origin["longitude"] - destination["longitude"])  # miles per degree here
    north = 69.0 * (origin["latitude"] - destination["latitude"])
    return np.asarray(1.3 * np.sqrt(east**2 + north**2 + 0.5**2))


def _rides(rng: Random, service: Service, pickup: Column, odd: Column) -> Trips:
    """Make up all but the money: TLC's columns, and what `_amounts` and `_spoil` need besides."""
    trips = len(pickup)
    origin, destination = _routes(rng, service, trips)
    miles = np.maximum(_miles(origin, destination) * rng.lognormal(0, 0.25, trips), 0.1)
    hour = (pickup.astype("M8[h]") - pickup.astype("M8[D]")).astype(int)
    speed = np.minimum(np.where((hour >= 22) | (hour < 6), 13, 9) + miles, 28)
    seconds = 60 + 3600 * miles / (speed * rng.lognormal(0, 0.2, trips))

    manhattan = (origin["manhattan"] | destination["manhattan"]) == 1
    jfk = (origin["LocationID"] == JFK) | (destination["LocationID"] == JFK)
    newark = destination["LocationID"] == NEWARK
    vendor = rng.choice([1, 2], trips, p=[0.27, 0.73])
    vendor[odd == "unknown_rate"] = 1
    vendor[(odd == "unreported") & (rng.random(trips) < 0.03)] = 6
    payment = rng.choice([1, 2, 3, 4], trips, p=CHANCE_OF_PAYMENT[service])
    payment = np.where(odd == "negative_amounts", rng.choice([3, 4], trips), payment)
    payment[odd == "unreported"] = 0
    rate = np.select([jfk & manhattan, newark, rng.random(trips) < 0.01], [2, 3, 5], 1)
    return {
        "origin": origin,
        "destination": destination,
        "hour": hour,
        "seconds": seconds.astype(int),
        "VendorID": vendor,
        "pickup_datetime": pickup,
        "passenger_count": rng.choice(7, trips, p=[0.02, 0.75, 0.14, 0.04, 0.02, 0.02, 0.01]),
        "trip_distance": miles.round(2),
        "RatecodeID": rate,
        "store_and_fwd_flag": np.where(rng.random(trips) < 0.006, "Y", "N"),
        "PULocationID": origin["LocationID"],
        "DOLocationID": destination["LocationID"],
        "payment_type": payment,
        "trip_type": np.where(rate == 5, 2, 1),  # price agreed beforehand: dispatched, not hailed
    }


def _amounts(rng: Random, service: Service, trip: Trips, odd: Column) -> Trips:
    """Work out the money by the fares of 2023, in cents so that the total is exact."""
    yellow, hour, rate = service == "yellow", trip["hour"], trip["RatecodeID"]
    reported = odd != "unreported"
    from_zone, to_zone = trip["PULocationID"], trip["DOLocationID"]
    rush = np.is_busday(trip["pickup_datetime"].astype("M8[D]")) & (hour >= 16) & (hour < 20)
    night = (hour >= 20) | (hour < 6)
    laguardia = (from_zone == LAGUARDIA) | (to_zone == LAGUARDIA)
    congestion = (trip["origin"]["yellow_zone"] | trip["destination"]["yellow_zone"]) & reported
    bridge = trip["origin"]["manhattan"] != trip["destination"]["manhattan"]
    # 70 cents per fifth of a mile or, when slow, per minute: about this mixture in real files.
    units = np.rint(0.68 * (5 * trip["trip_distance"] + trip["seconds"] / 60))
    meter = 300 + 70 * units.astype(int)
    parts = {
        "fare_amount": np.select([rate == 2, rate == 3], [7000, meter + 2000], meter),
        "extra": 250 * rush + 100 * night + 500 * (laguardia & yellow),
        "mta_tax": 50 * (rate != 5),
        "tolls_amount": 655 * (bridge & (rng.random(len(hour)) < 0.3)),
        "improvement_surcharge": np.full(len(hour), 100),
        "congestion_surcharge": (250 if yellow else 275) * congestion,
        "airport_fee": 125 * (np.isin(from_zone, (JFK, LAGUARDIA)) & yellow & reported),
    }
    due = sum(parts.values())
    share = rng.choice([0, 0.15, 0.2, 0.25, 0.3], len(hour), p=[0.07, 0.13, 0.5, 0.2, 0.1])
    tip = np.rint(due * share * (trip["payment_type"] == 1)).astype(int)
    return parts | {"tip_amount": tip, "total_amount": due + tip}


def _spoil(rng: Random, month: str, trip: Trips, odd: Column) -> None:
    """Put the odd values that leave the money alone into `trip`, and its drop-off times."""
    trips = len(odd)
    start, stop = np.datetime64(month, "s"), (np.datetime64(month, "M") + 1).astype("M8[s]")
    days_early, time_of_day = rng.integers(1, 6, trips), rng.integers(0, 86_400, trips)
    day = IMPOSSIBLE_DAYS[np.cumsum(odd == "impossible_year") % len(IMPOSSIBLE_DAYS)]
    pickup = trip["pickup_datetime"] = np.select(
        [odd == "before_month", odd == "after_month", odd == "impossible_year"],
        [start - 86_400 * days_early + time_of_day, stop + time_of_day, day + time_of_day],
        trip["pickup_datetime"],
    )
    sense = np.select([odd == "dropoff_at_pickup", odd == "dropoff_before_pickup"], [0, -1], 1)
    dropoff = trip["dropoff_datetime"] = pickup + sense * trip["seconds"]
    dropoff[(pickup < CLOCKS_FORWARD) & (dropoff >= CLOCKS_FORWARD)] += 3600
    trip["trip_distance"] = np.select(
        [odd == "zero_distance", odd == "absurd_distance"],
        [0, rng.uniform(92_000, 260_000, trips).round(2)],
        trip["trip_distance"],
    )
    trip["RatecodeID"][odd == "unknown_rate"] = 99
    unknown, zone = odd == "unknown_zone", rng.choice([264, 265], trips)
    trip["DOLocationID"] = np.where(unknown, zone, trip["DOLocationID"])
    trip["PULocationID"] = np.where(unknown & (zone == 264), zone, trip["PULocationID"])


def sample_files() -> Iterator[tuple[str, int, bytes]]:
    """Make up the files one by one: path below the output folder, number of data rows, content."""
    for service, months in ROWS.items():
        for month, rows in months.items():
            sink = pa.BufferOutputStream()
            packing = "gzip" if month == "2023-01" else "zstd"  # as TLC's old and new writer
            pq.write_table(month_table(service, month), sink, compression=packing)
            path = f"trip-data/{service}_tripdata_{month}.parquet"
            yield path, rows, sink.getvalue().to_pybytes()
    for name in ("taxi_zone_lookup.csv", "taxi_zones.csv"):
        content = (SAMPLE_DATA / name).read_bytes()
        yield f"misc/{name}", content.count(b"\n") - 1, content
    yield "README.txt", README.count("\n"), README.encode()


def publish(path: Path, content: bytes) -> bool:
    """Give `path` this content in one step; return False if it had it already.

    A file that is right already is not touched, so that a file server's ETag stays the same.
    """
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sample into the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m ingestion.sample", description=__doc__)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="made if it does not exist")
    out = parser.parse_args(arguments).out_dir
    written = 0
    for path, rows, content in sample_files():
        try:
            changed = publish(out / path, content)
        except OSError as error:
            parser.exit(1, f"Cannot write {out / path}: {error}. Name a writable OUT_DIR.\n")
        written += changed
        state = "written" if changed else "unchanged"
        sys.stdout.write(f"{path:45}{rows:>8,} rows{len(content):>12,} bytes  {state}\n")
    result = f"{written} files written" if written else "Nothing rewritten: every file was right"
    sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    main()
