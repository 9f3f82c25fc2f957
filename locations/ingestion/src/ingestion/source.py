"""TLC's file server: fetches a file whole, checked and only when it changed.

Errors::

    SourceError
    +-- SourceUnavailableError   passing: worth another try (timeout, reset, 429, 5xx, short body)
    +-- FileNotPublishedError    the server has no such file (403, 404)
    +-- BadFileError             the server sent something that is not the file it should be
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import httpx

# Seconds to connect, read, write, and wait for a connection.
_TIMEOUT: Final = (10, 30, 30, 30)
# A body that comes more slowly, bytes a second on the average, is given up after the patience, in seconds. No wait
# for a single piece of it need be long, so that the timeout above would never end it.
_SLOWEST: Final = 10_000
_PATIENCE: Final = 120
_PASSING_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class SourceError(Exception):
    """A file could not be had from the source."""


class SourceUnavailableError(SourceError):
    """A passing fault. `retry_after` holds the seconds the server asked for, if it did."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class FileNotPublishedError(SourceError):
    """The server has no such file."""


class BadFileError(SourceError):
    """What came is not the file asked for."""


@dataclass(frozen=True)
class TripFile:
    """The file of one service and month, and its partition key `YYYY-MM-01|service`."""

    service: str
    month: date

    @classmethod
    def of_partition(cls, key: str) -> "TripFile":
        """The file of partition `key`."""
        month, service = key.split("|")
        return cls(service, date.fromisoformat(month))

    @property
    def partition_key(self) -> str:
        """Key of the partition the file is loaded as."""
        return f"{self.month:%Y-%m-01}|{self.service}"

    def before(self, months: int) -> "Iterator[TripFile]":
        """The files of the months before it, the newest first."""
        number = self.month.year * 12 + self.month.month - 1
        for earlier in range(number - 1, number - 1 - months, -1):
            yield TripFile(self.service, date(earlier // 12, earlier % 12 + 1, 1))

    @property
    def name(self) -> str:
        """The file's name, at TLC and in the landing store."""
        return f"{self.service}_tripdata_{self.month:%Y-%m}.parquet"

    @property
    def url_path(self) -> str:
        """The file's path below the server's address."""
        return f"trip-data/{self.name}"


@dataclass(frozen=True)
class Download:
    """What is known of a file that was fetched.

    Attributes
    ----------
    rows
        Rows in the file, by its footer (Parquet) or its lines (CSV).
    bytes
        Size in bytes.
    """

    url: str
    etag: str | None
    last_modified: str | None
    sha256: str
    bytes: int
    rows: int


@contextmanager
def open_client() -> "Iterator[httpx.Client]":
    """A client with bounded waits that follows a few redirects."""
    import httpx

    # Compression would make the announced length differ from the file's.
    headers = {"Accept-Encoding": "identity"}
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True, max_redirects=5, headers=headers) as client:
        yield client


def current_etag(client: "httpx.Client", url: str) -> str | None:
    """The ETag the server has for `url` now (its Last-Modified where it sends no ETag).

    Returns
    -------
    str or None
        None when the file is not published.
    """
    with _named_faults(url):
        response = client.head(url)
    try:
        _check_status(response, url)
    except FileNotPublishedError:
        return None
    tag: str | None = response.headers.get("etag") or response.headers.get("last-modified")
    return tag


def fetch(
    client: "httpx.Client", url: str, partial: Path, etag: str | None, count_rows: Callable[[Path], int]
) -> Download | None:
    """Fetch `url` into `partial`, unless the server still has the version `etag`.

    Parameters
    ----------
    partial
        Where the bytes go; the caller renames it once this returns.
    etag
        ETag of the version at hand, or None to fetch in any case.
    count_rows
        Checks that the file is what it should be and returns its rows; raises BadFileError.

    Returns
    -------
    Download or None
        None when the server still has the version at hand.

    Raises
    ------
    SourceError
        See the module's docstring. `partial` may hold an incomplete file then.
    """
    digest = hashlib.sha256()
    size = 0
    headers = {"If-None-Match": etag} if etag else {}
    with _named_faults(url), client.stream("GET", url, headers=headers) as response:
        if response.status_code == HTTPStatus.NOT_MODIFIED:
            return None
        _check_status(response, url)
        began = time.monotonic()
        with partial.open("wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                seconds = time.monotonic() - began
                if seconds > _PATIENCE and size < _SLOWEST * seconds:
                    raise SourceUnavailableError(f"{url}: too slow: {size:,} bytes in {seconds:.0f} s")
        try:
            rows = count_rows(partial)
        except BadFileError as error:
            kind = response.headers.get("content-type", "unknown type")
            raise BadFileError(f"{url}: {error} (the server sent {size:,} bytes of {kind})") from None
        return Download(
            url=url,
            etag=response.headers.get("etag"),
            last_modified=response.headers.get("last-modified"),
            sha256=digest.hexdigest(),
            bytes=size,
            rows=rows,
        )


def parquet_rows(file: Path) -> int:
    """Rows of a Parquet file; BadFileError when it is none, or not all of it can be read."""
    with file.open("rb") as opened:
        head = opened.read(20)
        if not head.startswith(b"PAR1"):
            raise BadFileError(f"not a Parquet file: it does not begin with PAR1, but with {head!r}")
        opened.seek(-4, 2)
        if opened.read(4) != b"PAR1":
            raise BadFileError("a Parquet file that was cut off: its footer is missing")

    import duckdb
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        rows = int(pq.read_metadata(file).num_rows)
    # Pyarrow reports a garbled footer as OSError, and one whose texts are none as UnicodeDecodeError.
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadFileError(f"a Parquet file whose footer cannot be read: {str(error).strip()}") from None
    try:
        with duckdb.connect(config={"threads": 2}) as connection:
            # Every value is decoded: what is damaged in the middle would else be found by the load, in DuckDB's words.
            connection.execute("SELECT max(COLUMNS(*)) FROM read_parquet($1, hive_partitioning = false)", [str(file)])
    except duckdb.Error as error:
        raise BadFileError(f"a Parquet file that is damaged: {' '.join(str(error).split())[:300]}") from None
    return rows


def csv_rows(*columns: str) -> Callable[[Path], int]:
    """A check that a CSV file has at least these columns and a row; it returns the number of rows."""

    def count(file: Path) -> int:
        import csv

        csv.field_size_limit(1 << 24)  # a zone's shape is one field
        with file.open(encoding="utf-8-sig", newline="") as opened:
            try:
                reader = csv.reader(opened)
                header = next(reader, [])
                missing = [column for column in columns if column not in header]
                if missing:
                    raise BadFileError(f"not the expected CSV: column {', '.join(missing)} is missing from its header")
                rows = sum(1 for row in reader if row)
            except (UnicodeDecodeError, csv.Error) as error:
                raise BadFileError(f"not a CSV file: {error}") from None
        if rows == 0:
            raise BadFileError("a CSV file without rows")
        return rows

    return count


@contextmanager
def _named_faults(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.TooManyRedirects as error:
        raise SourceError(f"{url}: redirected in circles ({error})") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:  # the latter is a TransportError too
        fault = str(error).rstrip(".")
        raise SourceError(
            f"'{url}' is not an address to download from: {fault}. Check TLC_BASE_URL and TAXI_ZONES_URL."
        ) from None
    except httpx.TransportError as error:
        raise SourceUnavailableError(f"{url}: {type(error).__name__}: {error}") from None


def _check_status(response: "httpx.Response", url: str) -> None:
    status = response.status_code
    if response.is_success:
        return
    if status in (403, 404):
        # Amazon answers 403 for a file that is not there.
        raise FileNotPublishedError(f"{url}: not published (HTTP {status})")
    if status in _PASSING_STATUSES:
        wait = response.headers.get("retry-after", "")
        raise SourceUnavailableError(f"{url}: HTTP {status}", int(wait) if wait.isascii() and wait.isdigit() else None)
    raise SourceError(f"{url}: HTTP {status}")
