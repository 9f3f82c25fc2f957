"""The landing store: whole files only, each with its record, whatever happens on the way."""

import hashlib
import json
import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from ingestion.landing import LandingStore
from ingestion.source import BadFileError, Download, SourceError, parquet_rows

from conftest import Source, of_month, parquet

NAME = "yellow_tripdata_2023-03.parquet"
PATH = f"/trip-data/{NAME}"
OLD = parquet(of_month("yellow", "2023-03", [{}] * 3))
NEW = parquet(of_month("yellow", "2023-03", [{"trip_distance": float(miles)} for miles in range(5)]))


def update(landing: LandingStore, client: httpx.Client, source: Source) -> tuple[Download, bool]:
    return landing.update(client, source.url + PATH, NAME, parquet_rows)


def files(landing: LandingStore) -> dict[str, bytes]:
    """All but what is remembered of refused ones."""
    return {file.name: file.read_bytes() for file in Path(landing.folder).iterdir() if file.suffix != ".refused"}


def described(body: bytes, source: Source, etag: str, rows: int) -> Download:
    return Download(source.url + PATH, etag, None, hashlib.sha256(body).hexdigest(), len(body), rows)


@pytest.fixture
def at_hand(landing: LandingStore, client: httpx.Client, source: Source) -> dict[str, bytes]:
    """What the store holds once the old file came."""
    source.serve(PATH, OLD, etag='"old"')
    assert update(landing, client, source) == (described(OLD, source, '"old"', rows=3), True)
    source.requests.clear()
    return files(landing)


def test_a_file_is_stored_with_its_record(landing: LandingStore, source: Source, at_hand: dict[str, bytes]) -> None:
    assert at_hand.keys() == {NAME, f"{NAME}.json"}
    assert at_hand[NAME] == OLD
    assert landing.record(NAME) == described(OLD, source, '"old"', rows=3)


def test_nothing_is_known_of_a_file_that_never_came(landing: LandingStore) -> None:
    assert landing.record(NAME) is None


def test_an_unchanged_file_is_asked_for_and_not_downloaded(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes]
) -> None:
    before = landing.path(NAME).stat()
    assert update(landing, client, source) == (described(OLD, source, '"old"', rows=3), False)
    assert source.requests == [("GET", PATH, 304)]
    assert files(landing) == at_hand
    assert landing.path(NAME).stat() == before


def test_a_new_version_replaces_file_and_record(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes]
) -> None:
    source.serve(PATH, NEW, etag='"new"')
    assert update(landing, client, source) == (described(NEW, source, '"new"', rows=5), True)
    assert files(landing).keys() == at_hand.keys()
    assert landing.path(NAME).read_bytes() == NEW
    assert landing.record(NAME) == described(NEW, source, '"new"', rows=5)


Fault = Callable[[Source], None]


def busy(source: Source) -> None:
    source.status(PATH, 503)


def gone(source: Source) -> None:
    source.status(PATH, 404)


def an_error_page(source: Source) -> None:
    source.status(PATH, 200, body=b"<html>")


def cut_off(source: Source) -> None:
    source.serve(PATH, NEW[:-100], etag='"new"')


def disconnected(source: Source) -> None:
    source.serve_half(PATH, NEW, then=lambda handler: handler.connection.shutdown(socket.SHUT_RDWR))


@pytest.mark.parametrize("fault", [busy, gone, an_error_page, cut_off, disconnected])
def test_a_failed_update_leaves_file_and_record_as_they_were(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes], fault: Fault
) -> None:
    fault(source)
    with pytest.raises(SourceError):
        update(landing, client, source)
    assert files(landing) == at_hand
    assert landing.record(NAME) == described(OLD, source, '"old"', rows=3)


@pytest.mark.parametrize("fault", [busy, gone, an_error_page, cut_off, disconnected])
def test_a_failed_first_download_leaves_nothing(
    landing: LandingStore, client: httpx.Client, source: Source, fault: Fault
) -> None:
    fault(source)
    with pytest.raises(SourceError):
        update(landing, client, source)
    assert files(landing) == {}


def test_a_download_stopped_by_the_user_leaves_nothing(
    landing: LandingStore, client: httpx.Client, source: Source
) -> None:
    source.serve(PATH, NEW)

    def stop(_file: Path) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        landing.update(client, source.url + PATH, NAME, stop)
    assert files(landing) == {}


@pytest.mark.parametrize("body", [OLD[:-1], OLD + b"x", b""], ids=["shorter", "longer", "empty"])
def test_a_file_that_is_not_the_recorded_one_is_fetched_again(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes], body: bytes
) -> None:
    landing.path(NAME).write_bytes(body)
    assert landing.record(NAME) is None
    assert update(landing, client, source) == (described(OLD, source, '"old"', rows=3), True)
    assert source.requests == [("GET", PATH, 200)]
    assert files(landing) == at_hand


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b"\xff", b'{"url": '])
def test_a_file_whose_record_cannot_be_read_is_fetched_again(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes], record: bytes
) -> None:
    landing.path(f"{NAME}.json").write_bytes(record)
    assert landing.record(NAME) is None
    assert update(landing, client, source) == (described(OLD, source, '"old"', rows=3), True)
    assert files(landing) == at_hand


def test_a_file_that_vanished_is_fetched_again(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes]
) -> None:
    landing.path(NAME).unlink()
    assert update(landing, client, source)[1]
    assert files(landing) == at_hand


def test_an_etag_of_another_server_is_not_reused(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes]
) -> None:
    mirror = f"{source.url}/mirror{PATH}"
    source.serve(f"/mirror{PATH}", NEW, etag='"old"')
    download, fetched = landing.update(client, mirror, NAME, parquet_rows)
    assert fetched
    assert (download.url, download.rows) == (mirror, 5)
    assert landing.path(NAME).read_bytes() == NEW


def test_a_file_without_an_etag_is_fetched_each_time(
    landing: LandingStore, client: httpx.Client, source: Source
) -> None:
    source.serve(PATH, OLD)
    assert [update(landing, client, source)[1] for _ in range(2)] == [True, True]
    assert source.requests == [("GET", PATH, 200), ("GET", PATH, 200)]


def test_nobody_sees_half_a_file_under_its_name(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes]
) -> None:
    # Large enough that half of it is on the disk before the other half is sent.
    noise = random.Random(0).randbytes(8 << 20)  # noqa: S311  (no secret)
    large = parquet(pa.table({"noise": [noise]}))
    seen_half = threading.Event()

    def send_the_rest(handler: BaseHTTPRequestHandler) -> None:
        assert seen_half.wait(60)
        handler.wfile.write(large[len(large) // 2 :])

    source.serve_half(PATH, large, then=send_the_rest)
    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(update, landing, client, source)
        try:
            while not (parts := [file for file in files_of(landing, ".part") if file.stat().st_size]):
                assert not updating.done()
            assert [file.name.startswith(f".{NAME}.") for file in parts] == [True]
            seen = files(landing)
            assert {name: seen[name] for name in seen if not name.startswith(".")} == at_hand
            assert landing.record(NAME) == described(OLD, source, '"old"', rows=3)
        finally:
            seen_half.set()
        assert updating.result(60)[1]
    assert landing.path(NAME).read_bytes() == large
    assert files(landing).keys() == {NAME, f"{NAME}.json"}


def files_of(landing: LandingStore, suffix: str) -> list[Path]:
    return [file for file in Path(landing.folder).iterdir() if file.suffix == suffix]


def test_a_file_is_checked_before_it_has_its_name(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes]
) -> None:
    source.serve(PATH, NEW, etag='"new"')

    def refuse(file: Path) -> int:
        assert file.read_bytes() == NEW
        assert landing.path(NAME).read_bytes() == OLD
        raise BadFileError("refused")

    with pytest.raises(BadFileError, match=f"{PATH}: refused"):
        landing.update(client, source.url + PATH, NAME, refuse)
    assert files(landing) == at_hand


def test_a_crash_between_file_and_record_is_mended_by_the_next_update(
    landing: LandingStore, client: httpx.Client, source: Source, at_hand: dict[str, bytes]
) -> None:
    source.serve(PATH, NEW, etag='"new"')
    update(landing, client, source)
    landing.path(f"{NAME}.json").write_bytes(at_hand[f"{NAME}.json"])
    assert landing.record(NAME) is None
    assert update(landing, client, source) == (described(NEW, source, '"new"', rows=5), True)
    assert landing.record(NAME) == described(NEW, source, '"new"', rows=5)


def test_an_answer_nobody_asked_for_changes_nothing(
    landing: LandingStore, client: httpx.Client, source: Source
) -> None:
    source.status(PATH, 304)
    with pytest.raises(SourceError, match=f"{PATH}.*304"):
        update(landing, client, source)
    assert files(landing) == {}


def test_the_record_is_for_people_too(at_hand: dict[str, bytes], source: Source) -> None:
    assert json.loads(at_hand[f"{NAME}.json"]) == {
        "url": source.url + PATH,
        "etag": '"old"',
        "last_modified": None,
        "sha256": hashlib.sha256(OLD).hexdigest(),
        "bytes": len(OLD),
        "rows": 3,
    }
