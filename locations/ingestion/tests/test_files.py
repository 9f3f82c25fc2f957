"""The downloads as assets: what each partition says of its file, and what a fault does to the run."""

import hashlib
from pathlib import Path

import pytest
from dagster import AssetCheckSeverity, Failure, RetryRequested
from ingestion import sample
from ingestion.defs.common import faults_of_the_source
from ingestion.defs.files import taxi_trips_file, taxi_zone_lookup_file, taxi_zones_file
from ingestion.landing import LandingStore
from ingestion.source import (
    BadFileError,
    FileNotPublishedError,
    SourceError,
    SourceUnavailableError,
    TripFile,
)

from conftest import Run, Source, failure, metadata, of_month, parquet

KEYS = ["2023-01-01|green", "2023-02-01|green", "2023-03-01|green"]


@pytest.mark.parametrize("attempt", range(4))
def test_passing_faults_are_tried_again_after_growing_waits(attempt: int) -> None:
    fault = SourceUnavailableError("HTTP 503")
    with pytest.raises(RetryRequested) as caught, faults_of_the_source(attempt):
        raise fault
    assert caught.value.__cause__ is fault
    assert caught.value.max_retries == 4
    # Two seconds, doubled each time, more or less.
    assert caught.value.seconds_to_wait is not None
    assert 0 <= caught.value.seconds_to_wait <= 2 * 2 * 2**attempt


@pytest.mark.parametrize(("asked_for", "wait"), [(0, 0), (7, 7), (300, 300), (86_400, 300)])
def test_a_wait_the_server_asks_for_is_kept_up_to_five_minutes(asked_for: int, wait: int) -> None:
    with pytest.raises(RetryRequested) as caught, faults_of_the_source(0):
        raise SourceUnavailableError("HTTP 429", asked_for)
    assert (caught.value.max_retries, caught.value.seconds_to_wait) == (4, wait)


@pytest.mark.parametrize("kind", [SourceError, FileNotPublishedError, BadFileError])
def test_lasting_faults_end_the_step(kind: type[SourceError]) -> None:
    with pytest.raises(Failure) as caught, faults_of_the_source(0):
        raise kind("what happened")
    assert caught.value.description == "what happened"
    assert caught.value.allow_retries is False


def test_no_asset_has_a_policy_that_would_try_again_what_was_canceled() -> None:
    for asset in (taxi_trips_file, taxi_zones_file, taxi_zone_lookup_file):
        assert asset.op.retry_policy is None


def test_each_month_of_a_run_has_its_own_metadata(source: Source, landing: LandingStore, run: Run) -> None:
    bodies: dict[str, bytes] = {}
    for rows, key in enumerate(KEYS, start=1):
        file = TripFile.of_partition(key)
        bodies[key] = parquet(of_month("green", f"{file.month:%Y-%m}", [{}] * rows))
        source.serve(f"/{file.url_path}", bodies[key], etag=f'"{rows}"')
    first = run(taxi_trips_file, key=KEYS[0], last_key=KEYS[-1])
    assert first.success
    described = {
        key: {
            "dagster/row_count": rows,
            "bytes": len(bodies[key]),
            "downloaded": True,
            "source": f"{source.url}/trip-data/green_tripdata_{key[:7]}.parquet",
            "etag": f'"{rows}"',
            "last_modified": "none",
            "sha256": hashlib.sha256(bodies[key]).hexdigest(),
            "file": str(landing.path(f"green_tripdata_{key[:7]}.parquet")),
        }
        for rows, key in enumerate(KEYS, start=1)
    }
    found = metadata(first, "landing/taxi_trips_file")
    for rows, key in enumerate(KEYS, start=1):
        columns = [column.name for column in found[key].pop("dagster/column_schema").columns]
        assert columns == sample.month_schema("green", key[:7]).names
        shown = found[key].pop("preview").records
        assert [row.data["trip_distance"] for row in shown] == [2.5] * rows
    assert found == described

    source.requests.clear()
    again = run(taxi_trips_file, key=KEYS[0], last_key=KEYS[-1])
    for partition, values in metadata(again, "landing/taxi_trips_file").items():
        assert values | described[str(partition)] == values | {"downloaded": True}
        assert values["downloaded"] is False
    assert [status for _, _, status in source.requests] == [304, 304, 304]


@pytest.mark.parametrize(("service", "begin"), [("yellow", "2011-01"), ("green", "2013-08")])
def test_a_month_not_published_fails_at_once_and_says_what_there_is(
    source: Source, run: Run, service: str, begin: str
) -> None:
    result = run(taxi_trips_file, key=f"2023-09-01|{service}")
    path = f"/trip-data/{service}_tripdata_2023-09.parquet"
    assert failure(result) == (
        f"{source.url}{path}: not published (HTTP 404). TLC publishes about two months after a month ended;"
        f" {service} files begin with {begin}. What was there of it before stays as it was. Once the file or the rule"
        f" is mended, materialize landing/taxi_trips_file and raw/taxi_trips for 2023-09-01|{service}."
    )
    assert source.requests == [("GET", path, 404)]


def test_an_error_page_fails_at_once_and_keeps_the_file_at_hand(
    source: Source, landing: LandingStore, run: Run
) -> None:
    file = TripFile.of_partition(KEYS[0])
    source.publish(file, of_month("green", "2023-01", [{}]))
    assert run(taxi_trips_file, key=KEYS[0]).success
    at_hand = landing.path(file.name).read_bytes()

    source.requests.clear()
    source.status(f"/{file.url_path}", 200, body=b"<html>Please sign in</html>")
    says = (
        f"{source.url}/{file.url_path}: not a Parquet file: it does not begin with PAR1, but with"
        " b'<html>Please sign in' (the server sent 27 bytes of unknown type)."
    )
    result = run(taxi_trips_file, key=KEYS[0])
    assert failure(result).startswith(f"{says} What was there of it before stays as it was.")
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.description) == (False, f"{KEYS[0]}: {says}")
    assert len(source.requests) == 1
    assert landing.path(file.name).read_bytes() == at_hand


def test_the_check_warns_of_a_file_that_was_refused_until_a_good_one_comes(source: Source, run: Run) -> None:
    for key in KEYS[:2]:
        source.publish(TripFile.of_partition(key), of_month("green", key[:7], [{}]))
    bad = TripFile.of_partition(KEYS[0])
    source.status(f"/{bad.url_path}", 200, body=b"<html>Please sign in</html>")
    assert not run(taxi_trips_file, key=KEYS[0]).success
    other = run(taxi_trips_file, key=KEYS[1])
    assert other.success
    (check,) = other.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, AssetCheckSeverity.WARN)
    says = f"refused before: {bad.name}: {source.url}/{bad.url_path}: not a Parquet file"
    assert check.description is not None
    assert check.description.startswith(says)
    source.publish(bad, of_month("green", KEYS[0][:7], [{}]))
    for key in KEYS[:2]:
        (check,) = run(taxi_trips_file, key=key).get_asset_check_evaluations()
        assert check.passed


def test_the_other_files_of_a_run_are_downloaded(source: Source, landing: LandingStore, run: Run) -> None:
    for key in (KEYS[0], KEYS[2]):
        source.publish(TripFile.of_partition(key), of_month("green", key[:7], [{}]))
    result = run(taxi_trips_file, key=KEYS[0], last_key=KEYS[2])
    text = failure(result)
    assert text.startswith(f"1 of 3 months failed ({KEYS[1]}). {source.url}/")
    assert text.endswith(f"The files of {KEYS[0]}, {KEYS[2]} are there, and raw/taxi_trips can be made of them.")
    found = metadata(result, "landing/taxi_trips_file")
    assert {key: values["dagster/row_count"] for key, values in found.items()} == {KEYS[0]: 1, KEYS[2]: 1}
    source.publish(TripFile.of_partition(KEYS[1]), of_month("green", KEYS[1][:7], [{}]))
    mended = run(taxi_trips_file, key=KEYS[1])
    assert mended.success
    assert [check.passed for check in mended.get_asset_check_evaluations()] == [True]


def test_a_run_goes_on_once_the_fault_has_passed(source: Source, run: Run) -> None:
    file = TripFile.of_partition(KEYS[0])
    path = f"/{file.url_path}"
    source.publish(file, of_month("green", "2023-01", [{}]))
    published = source.answers[path]
    source.status(path, 503, {"Retry-After": "0"})
    busy = source.answers[path]
    source.answers[path] = lambda handler: (published if len(source.requests) == 2 else busy)(handler)
    assert run(taxi_trips_file, key=KEYS[0]).success
    assert source.requests == [("GET", path, 503), ("GET", path, 503), ("GET", path, 200)]


def test_the_zone_files_are_described(source: Source, landing: LandingStore, run: Run) -> None:
    for name in ("taxi_zones.csv", "taxi_zone_lookup.csv"):
        source.serve(f"/misc/{name}", (sample.SAMPLE_DATA / name).read_bytes())
    result = run(taxi_zones_file, taxi_zone_lookup_file)
    assert result.success
    for asset, rows in {"taxi_zones_file": 263, "taxi_zone_lookup_file": 265}.items():
        (found,) = metadata(result, f"landing/{asset}").values()
        name = f"{asset.removesuffix('_file')}.csv"
        assert (found["dagster/row_count"], found["downloaded"]) == (rows, True)
        assert (found["source"], found["file"]) == (f"{source.url}/misc/{name}", str(landing.path(name)))
        assert Path(str(found["file"])).read_bytes() == (sample.SAMPLE_DATA / name).read_bytes()
