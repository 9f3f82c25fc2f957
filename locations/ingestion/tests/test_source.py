"""What comes from the file server, what does not, and which faults are worth another try."""

import hashlib
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from ingestion import source as source_module
from ingestion.source import (
    BadFileError,
    Download,
    FileNotPublishedError,
    SourceError,
    SourceUnavailableError,
    TripFile,
    csv_rows,
    current_etag,
    fetch,
    open_client,
    parquet_rows,
)

from conftest import Source, of_month, parquet

PATH = "/trip-data/yellow_tripdata_2023-03.parquet"
TRIPS = parquet(of_month("yellow", "2023-03", [{}] * 3))
ZONES = csv_rows("OBJECTID", "the_geom", "zone", "LocationID", "borough")


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "file.part"


def test_a_trip_file_knows_its_partition_its_name_and_its_place() -> None:
    file = TripFile.of_partition("2023-03-01|green")
    assert file.partition_key == "2023-03-01|green"
    assert file.name == "green_tripdata_2023-03.parquet"
    assert file.url_path == "trip-data/green_tripdata_2023-03.parquet"


def test_a_good_file_is_fetched_whole_and_described(source: Source, client: httpx.Client, partial: Path) -> None:
    source.serve(PATH, TRIPS, etag='"v1"')
    assert fetch(client, source.url + PATH, partial, None, parquet_rows) == Download(
        url=source.url + PATH,
        etag='"v1"',
        last_modified=None,
        sha256=hashlib.sha256(TRIPS).hexdigest(),
        bytes=len(TRIPS),
        rows=3,
    )
    assert partial.read_bytes() == TRIPS


def test_a_file_the_server_still_has_is_not_fetched_again(source: Source, client: httpx.Client, partial: Path) -> None:
    source.serve(PATH, TRIPS, etag='"v1"')
    assert fetch(client, source.url + PATH, partial, '"v1"', parquet_rows) is None
    assert source.requests == [("GET", PATH, 304)]
    assert not partial.exists()


def test_another_version_is_fetched(source: Source, client: httpx.Client, partial: Path) -> None:
    source.serve(PATH, TRIPS, etag='"v2"')
    download = fetch(client, source.url + PATH, partial, '"v1"', parquet_rows)
    assert download is not None
    assert download.etag == '"v2"'


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_is_not_there_is_not_published(
    source: Source, client: httpx.Client, partial: Path, status: int
) -> None:
    source.status(PATH, status, body=b'{"code": "not_found"}')
    with pytest.raises(FileNotPublishedError, match=rf"{PATH}: not published \(HTTP {status}\)"):
        fetch(client, source.url + PATH, partial, None, parquet_rows)
    assert not partial.exists()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, None), ({"Retry-After": "7"}, 7), ({"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}, None)],
    ids=["without a wait", "with a wait", "with a date"],
)
def test_a_busy_server_is_a_passing_fault(
    source: Source,
    client: httpx.Client,
    partial: Path,
    status: int,
    headers: dict[str, str],
    seconds: int | None,
) -> None:
    source.status(PATH, status, headers)
    with pytest.raises(SourceUnavailableError, match=f"{PATH}: HTTP {status}$") as caught:
        fetch(client, source.url + PATH, partial, None, parquet_rows)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("status", [400, 401, 410, 501])
def test_any_other_status_is_a_lasting_fault(source: Source, client: httpx.Client, partial: Path, status: int) -> None:
    source.status(PATH, status)
    with pytest.raises(SourceError, match=f"{PATH}: HTTP {status}$") as caught:
        fetch(client, source.url + PATH, partial, None, parquet_rows)
    assert type(caught.value) is SourceError


def test_a_refused_connection_is_a_passing_fault(client: httpx.Client, partial: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}{PATH}"
        with pytest.raises(SourceUnavailableError, match=f"{url}: ConnectError"):
            fetch(client, url, partial, None, parquet_rows)


def close(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hold_until(event: threading.Event) -> None:
    assert event.wait(60)


@pytest.mark.parametrize(
    ("fault", "named"), [(close, "RemoteProtocolError"), (reset, "(ReadError|RemoteProtocolError)")]
)
def test_a_connection_lost_in_mid_body_is_a_passing_fault(
    source: Source,
    client: httpx.Client,
    partial: Path,
    fault: Callable[[BaseHTTPRequestHandler], None],
    named: str,
) -> None:
    source.serve_half(PATH, TRIPS, then=fault)
    with pytest.raises(SourceUnavailableError, match=f"{PATH}: {named}"):
        fetch(client, source.url + PATH, partial, None, parquet_rows)


def test_a_server_that_falls_silent_is_a_passing_fault(
    source: Source, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_TIMEOUT", httpx.Timeout(0.1))
    given_up = threading.Event()
    source.serve_half(PATH, TRIPS, then=lambda _handler: hold_until(given_up))
    with open_client() as client, pytest.raises(SourceUnavailableError, match=f"{PATH}: ReadTimeout"):
        fetch(client, source.url + PATH, partial, None, parquet_rows)
    given_up.set()


def test_waits_are_bounded() -> None:
    with open_client() as client:
        assert client.timeout == httpx.Timeout(connect=10, read=30, write=30, pool=30)


def test_a_redirect_to_the_real_file_is_followed(source: Source, client: httpx.Client, partial: Path) -> None:
    source.status("/moved.parquet", 302, {"Location": PATH})
    source.serve(PATH, TRIPS, etag='"v1"')
    download = fetch(client, f"{source.url}/moved.parquet", partial, None, parquet_rows)
    assert download is not None
    assert (download.url, download.rows) == (f"{source.url}/moved.parquet", 3)
    assert partial.read_bytes() == TRIPS


def test_a_redirect_in_circles_is_a_lasting_fault(source: Source, client: httpx.Client, partial: Path) -> None:
    source.status(PATH, 302, {"Location": PATH})
    with pytest.raises(SourceError, match=f"{PATH}: redirected in circles") as caught:
        fetch(client, source.url + PATH, partial, None, parquet_rows)
    assert type(caught.value) is SourceError
    assert len(source.requests) == 6


HTML = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
JSON = b'{"code": "not_found", "error": true}'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:6a9e\nsize 1254291\n"
GARBLED_FOOTER = b"PAR1" + b"x" * 100 + (32).to_bytes(4, "little") + b"PAR1"
NOT_PARQUET = "not a Parquet file: it does not begin with PAR1"
CUT_OFF = "a Parquet file that was cut off: its footer is missing"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (HTML, NOT_PARQUET),
        (JSON, NOT_PARQUET),
        (POINTER, NOT_PARQUET),
        (b"", NOT_PARQUET),
        (TRIPS[: len(TRIPS) // 2], CUT_OFF),
        (b"PAR1", "a Parquet file whose footer cannot be read: "),
        (GARBLED_FOOTER, "a Parquet file whose footer cannot be read: "),
    ],
    ids=["HTML page", "JSON error", "git-lfs pointer", "empty", "truncated", "four bytes", "garbled footer"],
)
def test_what_is_no_parquet_file_is_refused(
    source: Source, client: httpx.Client, partial: Path, body: bytes, said: str
) -> None:
    source.status(PATH, 200, {"Content-Type": "text/x-other"}, body)
    with pytest.raises(BadFileError) as caught:
        fetch(client, source.url + PATH, partial, None, parquet_rows)
    message = str(caught.value)
    assert message.startswith(f"{source.url}{PATH}: {said}")
    assert message.endswith(f"(the server sent {len(body):,} bytes of text/x-other)")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"the_geom,zone,LocationID,borough\n1,2,3,4\n", "column OBJECTID is missing from its header"),
        (b"a,b\n1,2\n", "column OBJECTID, the_geom, zone, LocationID, borough is missing from its header"),
        (HTML, "column OBJECTID, the_geom, zone, LocationID, borough is missing from its header"),
        (b"", "column OBJECTID, the_geom, zone, LocationID, borough is missing from its header"),
        (b"OBJECTID,the_geom,zone,LocationID,borough\n", "a CSV file without rows"),
        (b"OBJECTID,the_geom,zone,LocationID,borough\r\n\r\n\r\n", "a CSV file without rows"),
        (TRIPS, "not a CSV file: "),
    ],
    ids=["a column too few", "another table", "HTML page", "empty", "header alone", "empty lines", "Parquet"],
)
def test_what_is_no_table_of_zones_is_refused(
    source: Source, client: httpx.Client, partial: Path, body: bytes, said: str
) -> None:
    source.serve("/zones.csv", body)
    with pytest.raises(BadFileError) as caught:
        fetch(client, f"{source.url}/zones.csv", partial, None, ZONES)
    message = str(caught.value)
    assert message.startswith(f"{source.url}/zones.csv: ")
    assert said in message
    assert message.endswith(f"(the server sent {len(body):,} bytes of unknown type)")


def test_rows_of_a_csv_file_are_records_and_not_lines(tmp_path: Path) -> None:
    file = tmp_path / "zones.csv"
    file.write_bytes(b'\xef\xbb\xbfOBJECTID,zone\r\n1,"two\r\nlines"\r\n2,one\r\n')
    assert csv_rows("OBJECTID", "zone")(file) == 2


@pytest.mark.tlc_data
@pytest.mark.parametrize(
    ("name", "check", "said"),
    [
        ("git_lfs_pointer.parquet", parquet_rows, NOT_PARQUET),
        ("json_404_saved_as.parquet", parquet_rows, NOT_PARQUET),
        ("truncated_download.parquet", parquet_rows, CUT_OFF),
        ("not_the_zones.csv", ZONES, "column OBJECTID is missing from its header"),
    ],
)
def test_bad_downloads_that_happened_are_refused(
    source: Source,
    client: httpx.Client,
    partial: Path,
    tlc_data: Path,
    name: str,
    check: Callable[[Path], int],
    said: str,
) -> None:
    source.serve(f"/{name}", (tlc_data.parent / "malformed" / name).read_bytes())
    with pytest.raises(BadFileError) as caught:
        fetch(client, f"{source.url}/{name}", partial, None, check)
    assert str(caught.value).startswith(f"{source.url}/{name}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "/trip-data/x", "mirror.example/x", "ftp://127.0.0.1/x", "http://[::1/x", "http:///x"]
)
def test_an_address_that_is_none_names_the_setting(client: httpx.Client, partial: Path, url: str) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(client, url, partial, None, parquet_rows)
    assert type(caught.value) is SourceError
    assert str(caught.value).startswith(f"'{url}' is not an address to download from: ")
    assert str(caught.value).endswith(". Check TLC_BASE_URL and TAXI_ZONES_URL.")


def test_the_current_etag_is_asked_for_without_the_file(source: Source, client: httpx.Client) -> None:
    source.serve(PATH, TRIPS, etag='"v1"')
    assert current_etag(client, source.url + PATH) == '"v1"'
    assert source.requests == [("HEAD", PATH, 200)]


def test_a_server_without_etags_is_told_apart_by_its_dates(source: Source, client: httpx.Client) -> None:
    source.status(PATH, 200, {"Last-Modified": "Mon, 20 Mar 2023 10:00:00 GMT"})
    assert current_etag(client, source.url + PATH) == "Mon, 20 Mar 2023 10:00:00 GMT"


def test_a_file_not_published_has_no_etag(source: Source, client: httpx.Client) -> None:
    assert current_etag(client, source.url + PATH) is None


def test_a_busy_server_has_no_answer_about_etags(source: Source, client: httpx.Client) -> None:
    source.status(PATH, 503)
    with pytest.raises(SourceUnavailableError):
        current_etag(client, source.url + PATH)


def test_a_parquet_file_of_nothing_has_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "empty.parquet"
    file.write_bytes(parquet(pa.table({"a": pa.array([], pa.int64())})))
    assert parquet_rows(file) == 0
