"""Months in the warehouse: every row among the trips or in the quarantine, each month whole or not at all."""

import base64
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingestion import sample
from ingestion.defs import trips as trips_module
from ingestion.defs.files import taxi_trips_file
from ingestion.defs.trips import (
    LOADS,
    QUARANTINE,
    TABLES,
    TRIPS,
    LoadedMonth,
    RowsUnaccountedError,
    make_ready,
    put,
    taxi_trips,
)
from ingestion.landing import LandingStore
from ingestion.source import TripFile
from taxi_shared.warehouse import Warehouse

from conftest import Run, Source, Values, content, failure, lake_in, metadata, of_month, parquet

KEYS = ["2023-01-01|green", "2023-02-01|green", "2023-03-01|green"]
Tables = dict[str, list[tuple[Any, ...]]]


def tables(warehouse: Warehouse) -> Tables:
    """Everything loaded."""
    return content(warehouse, TRIPS.table, QUARANTINE.table)


def load(warehouse: Warehouse, file: TripFile, path: Path) -> LoadedMonth:
    with warehouse.draft() as draft, warehouse.write(TRIPS, QUARANTINE) as connection:
        ready = make_ready(draft, file, path)
        put(connection, draft, file, ready)
    return ready.loaded


def publish(source: Source, key: str, rows: Sequence[Values]) -> None:
    """Have the server offer `rows` as the file of partition `key`."""
    file = TripFile.of_partition(key)
    service: Literal["yellow", "green"] = "yellow" if file.service == "yellow" else "green"
    source.publish(file, of_month(service, f"{file.month:%Y-%m}", rows))


# -- which rows are kept ----------------------------------------------------------------------------

START, END = datetime(2023, 3, 1), datetime(2023, 4, 1)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


def ride(pickup: datetime, lasts: timedelta = timedelta(minutes=10)) -> Values:
    return {"pickup": pickup, "dropoff": pickup + lasts}


# Reason of the quarantine, or None where the row is kept.
ROWS: dict[str, tuple[Values, str | None]] = {
    "an ordinary trip": ({}, None),
    "an amount that is not a number": ({"total_amount": float("nan")}, "unreadable_value"),
    "an endless trip": ({"trip_distance": float("inf")}, "unreadable_value"),
    "first second of the month": (ride(START), None),
    "last second of the month": (ride(END - SECOND), None),
    "7 days early": (ride(START - 7 * DAY), None),
    "a second more than 7 days early": (ride(START - 7 * DAY - SECOND), "outside_file_month"),
    "a second less than a day late": (ride(END + DAY - SECOND), None),
    "a day late": (ride(END + DAY), "outside_file_month"),
    "2008": (ride(datetime(2008, 12, 31, 23)), "outside_file_month"),
    "2041": (ride(datetime(2041, 11, 17)), "outside_file_month"),
    "drop-off 30 days later": (ride(START, lasts=30 * DAY), None),
    "drop-off a second more than 30 days later": (ride(START, lasts=30 * DAY + SECOND), "implausible_duration"),
    "drop-off in 1800": ({"dropoff": datetime(1800, 1, 1)}, "no_duration"),
    "drop-off in 9999": ({"dropoff": datetime(9999, 1, 1)}, "implausible_duration"),
    "260,000 miles for 260,000 USD": ({"trip_distance": 2.6e5, "total_amount": 2.6e5}, "implausible_distance"),
    "10,000 USD": ({"total_amount": 10_000.0}, None),
    "a cent more than 10,000 USD": ({"total_amount": 10_000.01}, "implausible_amount"),
    "a toll of 1e300 USD": ({"tolls_amount": 1e300}, "implausible_amount"),
    "a fare of -10,001 USD": ({"fare_amount": -10_001.0}, "implausible_amount"),
    "a second long": (ride(START, lasts=SECOND), None),
    "drop-off equal to pickup": (ride(START, lasts=0 * SECOND), "no_duration"),
    "drop-off before pickup": (ride(START, lasts=-SECOND), "no_duration"),
    "zone 1": ({"PULocationID": 1, "DOLocationID": 1}, None),
    "zone 264": ({"PULocationID": 264}, None),
    "zone 265": ({"PULocationID": 265, "DOLocationID": 265}, None),
    "pickup in zone 0": ({"PULocationID": 0}, "unknown_zone"),
    "drop-off in zone 0": ({"DOLocationID": 0}, "unknown_zone"),
    "pickup in zone 266": ({"PULocationID": 266}, "unknown_zone"),
    "drop-off in zone 266": ({"DOLocationID": 266}, "unknown_zone"),
    "pickup in zone -1": ({"PULocationID": -1}, "unknown_zone"),
    "no distance": ({"trip_distance": 0.0}, None),
    "1000 miles": ({"trip_distance": 1000.0}, None),
    "a bit more than 1000 miles": ({"trip_distance": 1000.01}, "implausible_distance"),
    "260,000 miles": ({"trip_distance": 260_000.0}, "implausible_distance"),
    "a negative distance": ({"trip_distance": -0.01}, "implausible_distance"),
    "distance unknown": ({"trip_distance": None}, None),
    "free of charge": ({"total_amount": 0.0}, None),
    "a cent given back": ({"total_amount": -0.01}, "negative_amount"),
    "total unknown": ({"total_amount": None}, None),
    "a negative fare of a positive total": ({"fare_amount": -3.0}, None),
    "unreported": (dict.fromkeys(["passenger_count", "RatecodeID", "store_and_fwd_flag"]), None),
    "no pickup time": ({"pickup": None}, "missing_value"),
    "no drop-off time": ({"dropoff": None}, "missing_value"),
    "no pickup zone": ({"PULocationID": None}, "missing_value"),
    "no drop-off zone": ({"DOLocationID": None}, "missing_value"),
    "40,000 passengers": ({"passenger_count": 40_000}, "unreadable_value"),
    # With several faults the first rule counts.
    "unreadable before missing": ({"passenger_count": 40_000, "pickup": None}, "unreadable_value"),
    "missing before outside": (ride(datetime(2041, 1, 1)) | {"PULocationID": None}, "missing_value"),
    "outside before no duration": (ride(datetime(2041, 1, 1), lasts=-SECOND), "outside_file_month"),
    "no duration before zone": (ride(START, lasts=-SECOND) | {"PULocationID": 0}, "no_duration"),
    "zone before distance": ({"PULocationID": 0, "trip_distance": -1.0}, "unknown_zone"),
    "distance before amount": ({"trip_distance": -1.0, "total_amount": -1.0}, "implausible_distance"),
}


@pytest.fixture(scope="module")
def found_reasons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What became of each of ROWS."""
    folder = tmp_path_factory.mktemp("rows")
    path = folder / "trips.parquet"
    path.write_bytes(parquet(of_month("yellow", "2023-03", [values for values, _ in ROWS.values()])))
    warehouse = lake_in(folder)
    load(warehouse, TripFile("yellow", date(2023, 3, 1)), path)
    with warehouse.read() as connection:
        found = connection.execute(
            f"""SELECT source_row, NULL FROM {TRIPS.table}
            UNION ALL SELECT source_row, reason FROM {QUARANTINE.table} ORDER BY 1"""
        ).fetchall()
    assert [row for row, _ in found] == list(range(len(ROWS)))
    return {name: reason for name, (_, reason) in zip(ROWS, found, strict=True)}


@pytest.mark.parametrize("name", ROWS)
def test_odd_rows_are_quarantined_with_the_reason(found_reasons: dict[str, str | None], name: str) -> None:
    assert found_reasons[name] == ROWS[name][1]


def test_a_quarantined_row_keeps_what_could_be_read(warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "trips.parquet"
    path.write_bytes(parquet(of_month("yellow", "2023-03", [{}, {"passenger_count": 40_000}])))
    assert load(warehouse, TripFile("yellow", date(2023, 3, 1)), path) == LoadedMonth(
        read=2, kept=1, quarantined=1, reasons={"unreadable_value": 1}, columns=pq.read_schema(path).names
    )
    with warehouse.read() as connection:
        found = connection.execute(
            f"SELECT source_row, reason, passenger_count, pickup_at, total_amount FROM {QUARANTINE.table}"
        ).fetchall()
    assert found == [(1, "unreadable_value", None, datetime(2023, 3, 10, 12), 18.5)]


# -- a month is replaced whole or not at all --------------------------------------------------------

ODD = [{"trip_distance": -1.0}, {"total_amount": -18.5}, {"total_amount": -1.0}]


def test_a_run_says_of_each_month_what_became_of_its_rows(
    source: Source, landing: LandingStore, warehouse: Warehouse, run: Run
) -> None:
    for rows, key in enumerate(KEYS, start=1):
        publish(source, key, [{}] * rows + ODD[: rows - 1])
    result = run(taxi_trips_file, taxi_trips, key=KEYS[0], last_key=KEYS[-1])
    assert result.success

    downloads = {key: landing.record(TripFile.of_partition(key).name) for key in KEYS}
    common: dict[str, Values] = {
        key: {
            "source": download.url,
            "source_etag": download.etag,
            "source_sha256": download.sha256,
            "unknown_columns": [],
        }
        for key, download in downloads.items()
        if download is not None
    }
    found = {table.table: metadata(result, table.asset_key.to_user_string()) for table in TABLES}
    snapshots: dict[str, set[int]] = {}
    for table in TABLES:
        for rows, key in enumerate(KEYS, start=1):
            values = found[table.table][key]
            expected_rows = {TRIPS: rows, QUARANTINE: rows - 1, LOADS: 1}[table]
            shown = values.pop("preview")
            assert [column.name for column in shown.schema.columns] == [column.name for column in table.columns]
            assert len(shown.records) == expected_rows
            lineage = values.pop("dagster/column_lineage", None)
            values.pop("columns_made_from", None)
            assert values.pop("contract_version") == TRIPS.version
            snapshots.setdefault(key, set()).add(values.pop("snapshot_id"))
            if table is not LOADS:
                upstream = {column: dep[0].column_name for column, dep in lineage.deps_by_column.items()}
                assert upstream["pickup_at"] == "lpep_pickup_datetime"
                assert upstream["ehail_fee"] == "ehail_fee"
                assert "airport_fee" not in upstream
    # All tables of a month are of one snapshot.
    assert [len(numbers) for numbers in snapshots.values()] == [1, 1, 1]
    for values in found[TRIPS.table].values():
        assert is_png(values.pop("trips_per_day"))
    for values in found[QUARANTINE.table].values():
        assert is_png(values.pop("rows_by_reason"))
    assert found[TRIPS.table] == {
        KEYS[0]: {"dagster/partition_row_count": 1, "rows_read": 1} | common[KEYS[0]],
        KEYS[1]: {"dagster/partition_row_count": 2, "rows_read": 3} | common[KEYS[1]],
        KEYS[2]: {"dagster/partition_row_count": 3, "rows_read": 5} | common[KEYS[2]],
    }
    quarantined = found[QUARANTINE.table]
    reasons = {key: [row.data for row in found.pop("reasons").records] for key, found in quarantined.items()}
    assert reasons == {
        KEYS[0]: [],
        KEYS[1]: [{"reason": "implausible_distance", "rows": 1}],
        KEYS[2]: [{"reason": "implausible_distance", "rows": 1}, {"reason": "negative_amount", "rows": 1}],
    }
    assert quarantined == {
        KEYS[0]: {"dagster/partition_row_count": 0, "rows_read": 1, "share": 0.0} | common[KEYS[0]],
        KEYS[1]: {"dagster/partition_row_count": 1, "rows_read": 3, "share": 1 / 3} | common[KEYS[1]],
        KEYS[2]: {"dagster/partition_row_count": 2, "rows_read": 5, "share": 2 / 5} | common[KEYS[2]],
    }
    assert found[LOADS.table] == {
        key: {"dagster/partition_row_count": 1, "rows_kept": kept, "rows_read": rows_read} | common[key]
        for key, kept, rows_read in zip(KEYS, (1, 2, 3), (1, 3, 5), strict=True)
    }
    with warehouse.read() as connection:
        for table, expected in {TRIPS: [1, 2, 3], QUARANTINE: [1, 2]}.items():
            counted = connection.execute(
                f"SELECT count(*) FROM {table.table} GROUP BY service, file_month ORDER BY file_month"
            ).fetchall()
            assert [rows for (rows,) in counted] == expected


def is_png(markdown: str) -> bool:
    """Whether it is an image as the UI shows it: a PNG, said to be one."""
    _, _, encoded = markdown.removesuffix(")").partition("](data:image/png;base64,")
    return base64.b64decode(encoded).startswith(b"\x89PNG\r\n\x1a\n")


def test_each_month_says_which_file_it_was_made_from_and_what_became_of_its_rows(
    source: Source, landing: LandingStore, warehouse: Warehouse, run: Run
) -> None:
    for key in KEYS[:2]:
        publish(source, key, [{}, *ODD])
    before = datetime.now(UTC).replace(tzinfo=None)
    loading = run(taxi_trips_file, taxi_trips, key=KEYS[0], last_key=KEYS[1])
    assert loading.success
    first = content(warehouse, LOADS.table)[LOADS.table]
    for key, row in zip(KEYS, first, strict=False):
        download = landing.record(TripFile.of_partition(key).name)
        assert download is not None
        assert row[:2] == ("green", date.fromisoformat(key[:10]))
        assert before <= row[2] <= datetime.now(UTC).replace(tzinfo=None)
        source_file = (download.url, download.etag, download.sha256)
        assert row[3:] == (4, 1, 3, *source_file, TRIPS.version, None, loading.run_id)

    publish(source, KEYS[0], [{}, {}])
    assert run(taxi_trips_file, taxi_trips, key=KEYS[0]).success
    again = content(warehouse, LOADS.table)[LOADS.table]
    assert again[1:] == first[1:]
    assert again[0][3:6] == (2, 2, 0)
    assert again[0][2] > first[0][2]
    assert again[0][8] != first[0][8]


def test_a_month_run_again_changes_nothing(source: Source, warehouse: Warehouse, run: Run) -> None:
    for key in KEYS[:2]:
        publish(source, key, [{}, *ODD])
        assert run(taxi_trips_file, taxi_trips, key=key).success
    before = tables(warehouse)
    assert {table: len(rows) for table, rows in before.items()} == {TRIPS.table: 2, QUARANTINE.table: 6}
    assert run(taxi_trips_file, taxi_trips, key=KEYS[0]).success
    assert run(taxi_trips, key=KEYS[0], last_key=KEYS[1]).success
    assert tables(warehouse) == before


def test_a_month_uploaded_again_replaces_the_one_before(source: Source, warehouse: Warehouse, run: Run) -> None:
    for key in (*KEYS[:2], "2023-01-01|yellow"):
        publish(source, key, [{"trip_distance": float(miles)} for miles in range(4)] + ODD)
        assert run(taxi_trips_file, taxi_trips, key=key).success
    before = tables(warehouse)
    publish(source, KEYS[0], [{"trip_distance": 9.0}, ODD[0]])
    result = run(taxi_trips_file, taxi_trips, key=KEYS[0])
    assert metadata(result, "raw/taxi_trips")[KEYS[0]]["rows_read"] == 2
    after = tables(warehouse)
    for table in before:
        replaced = ("green", date(2023, 1, 1))
        assert [row for row in after[table] if row[:2] != replaced] == [
            row for row in before[table] if row[:2] != replaced
        ]
        assert len([row for row in after[table] if row[:2] == replaced]) == 1


def test_a_month_that_fails_leaves_it_and_the_others_as_they_were(
    source: Source, warehouse: Warehouse, run: Run
) -> None:
    for key in KEYS[:2]:
        publish(source, key, [{}, *ODD])
        assert run(taxi_trips_file, taxi_trips, key=key).success
    before = tables(warehouse)

    file = TripFile.of_partition(KEYS[1])
    source.publish(file, of_month("green", "2023-02", [{}]).drop_columns("PULocationID"))
    result = run(taxi_trips_file, taxi_trips, key=KEYS[1])
    assert failure(result).startswith(f"{file.name}: column PULocationID is missing. The file has: VendorID,")
    assert metadata(result, "raw/taxi_trips") == {}
    assert tables(warehouse) == before


def test_the_months_before_the_one_that_fails_are_recorded_as_loaded(
    source: Source, warehouse: Warehouse, run: Run
) -> None:
    for key in KEYS[:2]:
        publish(source, key, [{}])
    file = TripFile.of_partition(KEYS[1])
    source.publish(file, of_month("green", "2023-02", [{}]).drop_columns("PULocationID"))
    result = run(taxi_trips_file, taxi_trips, key=KEYS[0], last_key=KEYS[1])
    assert not result.success
    recorded = {
        (event.asset_key.to_user_string(), event.partition)
        for event in result.get_asset_materialization_events()
        if event.asset_key and event.asset_key.path[0] == "raw"
    }
    assert recorded == {(table.asset_key.to_user_string(), KEYS[0]) for table in TABLES}
    assert {row[:2] for row in tables(warehouse)["raw.taxi_trips"]} == {("green", date(2023, 1, 1))}


KEPT = "SELECT * EXCLUDE (unreadable, absurd), NULL::VARCHAR AS reason FROM canonical"


@pytest.fixture
def classify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts another query in the place of classify_trips.sql."""

    def put(query: str) -> None:
        sql = f"CREATE OR REPLACE TEMP VIEW classified AS {query}"
        (tmp_path / "classify_trips.sql").write_text(sql, encoding="utf-8")
        monkeypatch.setattr(trips_module, "files", lambda _package: tmp_path)

    return put


@pytest.mark.parametrize(
    ("query", "kept", "quarantined"),
    [
        (f"{KEPT} WHERE trip_distance > 0", 1, 0),
        (f"{KEPT} UNION ALL {KEPT}", 8, 0),
        (f"{KEPT} UNION ALL SELECT * REPLACE ('twice' AS reason) FROM ({KEPT})", 4, 4),
    ],
    ids=["lost", "doubled", "kept and quarantined"],
)
def test_rows_that_do_not_add_up_undo_the_month(
    warehouse: Warehouse,
    tmp_path: Path,
    classify: Callable[[str], None],
    query: str,
    kept: int,
    quarantined: int,
) -> None:
    file, path = TripFile("green", date(2023, 1, 1)), tmp_path / "trips.parquet"
    path.write_bytes(parquet(of_month("green", "2023-01", [{}, *ODD])))
    load(warehouse, file, path)
    before = tables(warehouse)
    path.write_bytes(parquet(of_month("green", "2023-01", [{}] + [{"trip_distance": 0.0}] * 3)))
    classify(query)
    with pytest.raises(RowsUnaccountedError) as caught:
        load(warehouse, file, path)
    assert str(caught.value) == (
        f"4 rows read but {kept} kept and {quarantined} quarantined; nothing was changed."
        " This is a fault in ingestion/defs/classify_trips.sql."
    )
    assert tables(warehouse) == before


def test_rows_that_do_not_add_up_fail_the_run(source: Source, run: Run, classify: Callable[[str], None]) -> None:
    publish(source, KEYS[0], [{}, *ODD])
    classify(f"{KEPT} WHERE trip_distance > 0")
    result = run(taxi_trips_file, taxi_trips, key=KEYS[0])
    assert failure(result).startswith("green_tripdata_2023-01.parquet: 4 rows read but 3 kept and 0 quarantined")
    assert metadata(result, "raw/taxi_trips") == {}


def test_a_file_that_was_not_downloaded_is_asked_for_by_name(landing: LandingStore, run: Run) -> None:
    path = landing.path("green_tripdata_2023-01.parquet")
    assert failure(run(taxi_trips, key=KEYS[0])) == (
        f"{path} is missing or is not the file that was downloaded: materialize landing/taxi_trips_file"
        f" for {KEYS[0]} first."
    )


def test_a_file_that_is_not_the_downloaded_one_is_not_loaded(
    source: Source, landing: LandingStore, warehouse: Warehouse, run: Run
) -> None:
    publish(source, KEYS[0], [{}])
    assert run(taxi_trips_file, taxi_trips, key=KEYS[0]).success
    before = tables(warehouse)
    with landing.path("green_tripdata_2023-01.parquet").open("ab") as file:
        file.write(b"more")
    assert f"landing/taxi_trips_file for {KEYS[0]} first" in failure(run(taxi_trips, key=KEYS[0]))
    assert tables(warehouse) == before


def test_a_file_without_rows_leaves_its_month_as_it_was(source: Source, warehouse: Warehouse, run: Run) -> None:
    publish(source, KEYS[0], [{}, *ODD])
    assert run(taxi_trips_file, taxi_trips, key=KEYS[0]).success
    before = tables(warehouse)
    publish(source, KEYS[0], [])
    assert "rows: observed 0 rows, expected more than 0 rows" in failure(run(taxi_trips_file, taxi_trips, key=KEYS[0]))
    assert tables(warehouse) == before


def test_columns_the_contract_does_not_have_are_reported_and_left_out(source: Source, run: Run) -> None:
    file = TripFile.of_partition(KEYS[0])
    table = of_month("green", "2023-01", [{}, {}])
    source.publish(file, table.append_column("tip_by_app", pa.array([1.0, 2.0])))
    found = metadata(run(taxi_trips_file, taxi_trips, key=KEYS[0]), "raw/taxi_trips")[KEYS[0]]
    assert (found["unknown_columns"], found["dagster/partition_row_count"]) == (["tip_by_app"], 2)


def test_a_folder_that_looks_like_a_partition_is_no_column(warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "vendor_id=9" / "env=production" / "trips.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(parquet(of_month("green", "2023-01", [{}])))
    assert load(warehouse, TripFile("green", date(2023, 1, 1)), path).unknown_columns == []
    with warehouse.read() as connection:
        assert connection.execute(f"SELECT vendor_id FROM {TRIPS.table}").fetchall() == [(2,)]


# -- real months ------------------------------------------------------------------------------------

REAL_MONTHS = [
    *(f"green_tripdata_{month}" for month in ("2023-01", "2023-02", "2023-03", "2024-01")),
    *(f"yellow_tripdata_{month}" for month in ("2018-12", "2019-01", "2020-10", "2020-11", "2025-02")),
]
Loaded = tuple[Warehouse, dict[str, LoadedMonth]]


@pytest.fixture(scope="module")
def real(tlc_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """All real months in one warehouse."""
    folder = tmp_path_factory.mktemp("real")
    warehouse = lake_in(folder)
    months = {name: load(warehouse, file_of(name), tlc_data / "trip-data" / f"{name}.parquet") for name in REAL_MONTHS}
    return warehouse, months


def file_of(name: str) -> TripFile:
    service, _, month = name.split("_")
    return TripFile(service, date.fromisoformat(f"{month}-01"))


def reasons_by_hand(path: Path, file: TripFile) -> dict[str, int]:
    """Rows of a real file by the first rule they break, from what the rules mean."""
    prefix = "tpep" if file.service == "yellow" else "lpep"
    pickup, dropoff = f"{prefix}_pickup_datetime", f"{prefix}_dropoff_datetime"
    earliest = file.month - timedelta(days=7)
    month_end = (file.month + timedelta(days=31)).replace(day=1)
    needed = f"{pickup}, {dropoff}, PULocationID, DOLocationID"
    rules = {
        "missing_value": f"concat_ws('|', {needed}) NOT LIKE '%|%|%|%'",
        "outside_file_month": f"NOT ({pickup}::DATE BETWEEN '{earliest}' AND '{month_end}')",
        "no_duration": f"epoch({dropoff}) - epoch({pickup}) <= 0",
        "implausible_duration": f"epoch({dropoff}) - epoch({pickup}) > 30 * 86400",
        "unknown_zone": "PULocationID < 1 OR PULocationID > 265 OR DOLocationID < 1 OR DOLocationID > 265",
        "implausible_distance": "NOT trip_distance BETWEEN 0 AND 1000",
        "implausible_amount": "abs(total_amount) > 1e4 OR abs(fare_amount) > 1e4",
        "negative_amount": "sign(total_amount) = -1",
    }
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE left_over AS FROM read_parquet('{path}')")
        counts: dict[str, int] = {}
        for reason, rule in rules.items():
            (broken,) = connection.execute(f"SELECT count(*) FROM left_over WHERE {rule}").fetchall()
            connection.execute(f"DELETE FROM left_over WHERE {rule}")
            counts[reason] = broken[0]
        (kept,) = connection.execute("SELECT count(*) FROM left_over").fetchall()
    return {reason: count for reason, count in counts.items() if count} | {"kept": kept[0]}


@pytest.mark.tlc_data
@pytest.mark.parametrize("name", REAL_MONTHS)
def test_real_rows_are_kept_or_quarantined_as_the_rules_say(real: Loaded, tlc_data: Path, name: str) -> None:
    path = tlc_data / "trip-data" / f"{name}.parquet"
    loaded = real[1][name]
    expected = reasons_by_hand(path, file_of(name))
    assert loaded.reasons | {"kept": loaded.kept} == expected
    assert loaded.read == pq.read_metadata(path).num_rows == loaded.kept + loaded.quarantined
    assert loaded.unknown_columns == []


@pytest.mark.tlc_data
@pytest.mark.parametrize("name", REAL_MONTHS)
def test_no_value_of_a_real_file_is_changed_or_lost(real: Loaded, tlc_data: Path, name: str) -> None:
    file = file_of(name)
    columns = [column.name for column in TRIPS.columns if column.name not in ("service", "file_month")]
    with real[0].read() as connection:
        loaded = connection.execute(
            f"""SELECT {", ".join(columns)} FROM (
                SELECT {", ".join(columns)}, service, file_month FROM {TRIPS.table}
                UNION ALL SELECT {", ".join(columns)}, service, file_month FROM {QUARANTINE.table})
            WHERE service = $1 AND file_month = $2 ORDER BY source_row""",
            [file.service, file.month],
        ).to_arrow_table()
    published = pq.read_table(tlc_data / "trip-data" / f"{name}.parquet")
    assert loaded.column("source_row").to_pylist() == list(range(published.num_rows))

    published = published.rename_columns([canonical_name(column) for column in published.column_names])
    assert set(published.column_names) <= set(columns)
    for column in columns[1:]:
        type_ = loaded.schema.field(column).type
        expected = (
            published.column(column).cast(type_)
            if column in published.column_names
            else pa.chunked_array([pa.nulls(published.num_rows, type_)])
        )
        assert loaded.column(column).equals(expected), column


def canonical_name(column: str) -> str:
    at_tlc = {
        "pickup_datetime": "pickup_at",
        "dropoff_datetime": "dropoff_at",
        "vendorid": "vendor_id",
        "ratecodeid": "rate_code_id",
        "pulocationid": "pickup_zone_id",
        "dolocationid": "dropoff_zone_id",
    }
    short = column.lower().removeprefix("tpep_").removeprefix("lpep_")
    return at_tlc.get(short, short)


# -- the sample -------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["yellow", "green"])
def test_the_sample_is_quarantined_as_it_promises(
    warehouse: Warehouse, sample_data: Path, service: sample.Service
) -> None:
    odd = sample.ODD_ROWS[service]
    promised = {
        "negative_amount": odd.negative_amounts,
        "no_duration": odd.dropoff_at_pickup + odd.dropoff_before_pickup,
        "implausible_distance": odd.absurd_distance,
        "outside_file_month": odd.impossible_year,
    }
    for month, rows in sample.ROWS[service].items():
        file = TripFile(service, date.fromisoformat(f"{month}-01"))
        assert load(warehouse, file, sample_data / file.url_path) == LoadedMonth(
            read=rows,
            kept=rows - sum(promised.values()),
            quarantined=sum(promised.values()),
            reasons=promised,
            columns=pq.read_schema(sample_data / file.url_path).names,
        )
