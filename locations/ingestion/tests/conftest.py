"""A file server on loopback whose answers a test decides, and the location's resources in a folder."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import AssetKey, AssetsDefinition, ExecuteInProcessResult, materialize
from ingestion import sample
from ingestion.defs import trips
from ingestion.defs.resources import TlcServer
from ingestion.landing import LandingStore
from ingestion.source import TripFile, open_client
from taxi_shared.quality import Finding, measure
from taxi_shared.warehouse import Warehouse

Answer = Callable[[BaseHTTPRequestHandler], None]
Values = dict[str, Any]


@dataclass
class Source:
    """A real HTTP server. `answers` maps a path to what answers it; any other path is a 404."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def serve(self, path: str, body: bytes, etag: str | None = None) -> None:
        """Answer `path` as a file server does: 304 for the ETag it has, a body otherwise."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if etag is not None and handler.headers.get("If-None-Match") == etag:
                handler.send_response(304)
                handler.end_headers()
                return
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            if etag is not None:
                handler.send_header("ETag", etag)
            handler.end_headers()
            if handler.command == "GET":
                handler.wfile.write(body)

        self.answers[path] = answer

    def publish(self, file: TripFile, table: pa.Table) -> None:
        """Serve `table` as the file of a month, with an ETag that changes with its content."""
        body = parquet(table)
        self.serve(f"/{file.url_path}", body, etag=f'"{hashlib.sha256(body).hexdigest()[:12]}"')

    def status(self, path: str, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Answer `path` with a status and nothing of use."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in (headers or {}).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer

    def serve_half(self, path: str, body: bytes, then: Answer) -> None:
        """Announce the whole `body`, send its first half, and leave the connection to `then`."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            then(handler)

        self.answers[path] = answer


@pytest.fixture
def source() -> Iterator[Source]:
    found = Source()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            answer = found.answers.get(self.path)
            if answer is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                answer(self)

        do_GET = do_HEAD = answer  # noqa: N815  (http.server's names)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            found.requests.append((self.command, self.path, int(code)))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    with open_client() as opened:
        yield opened


@pytest.fixture
def landing(tmp_path: Path) -> LandingStore:
    return LandingStore(folder=str(tmp_path / "landing"))


def lake_in(folder: Path) -> Warehouse:
    """The location's warehouse, below `folder`."""
    return Warehouse(
        lake="ingestion",
        catalog=f"sqlite:{folder}/catalog",
        data_root=f"{folder}/lakes",
        # Verifying the extensions' signatures is most of what a connection costs; shared/tests do it.
        connection_config={"allow_unsigned_extensions": True},
    )


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return lake_in(tmp_path)


@pytest.fixture
def tlc(source: Source) -> TlcServer:
    return TlcServer(base_url=source.url, zones_url=f"{source.url}/misc/taxi_zones.csv")


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the whole sample, laid out like TLC's file server. Nobody may change it."""
    folder = tmp_path_factory.mktemp("sample")
    sample.main([str(folder)])
    return folder


@pytest.fixture(autouse=True)
def months_of_few_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The months of most tests have some rows, many of them odd: only those marked `whole_months` are held to that."""
    if request.node.get_closest_marker("whole_months"):
        return

    def none_missing(*arguments: Any, **named: Any) -> list[Finding]:  # noqa: ANN401  (as measure)
        found = measure(*arguments, **named)
        return [finding for finding in found if finding.rule != "days of the month without a trip"]

    monkeypatch.setattr(trips, "measure", none_missing)
    monkeypatch.setattr(trips, "MOST_QUARANTINED", 100)


class Run(Protocol):
    """Materializes `assets` in one run; one that fails is returned too."""

    def __call__(
        self, *assets: AssetsDefinition, key: str | None = None, last_key: str | None = None
    ) -> ExecuteInProcessResult: ...


@pytest.fixture
def run(tlc: TlcServer, landing: LandingStore, warehouse: Warehouse) -> Run:
    def run_assets(
        *assets: AssetsDefinition, key: str | None = None, last_key: str | None = None
    ) -> ExecuteInProcessResult:
        tags = {}
        if key is not None and last_key is not None:
            tags = {"dagster/asset_partition_range_start": key, "dagster/asset_partition_range_end": last_key}
        return materialize(
            assets,
            partition_key=None if tags else key,
            tags=tags,
            resources={"tlc": tlc, "landing": landing, "warehouse": warehouse},
            raise_on_error=False,
        )

    return run_assets


def failure(result: ExecuteInProcessResult) -> str:
    """What the UI says of the step that failed."""
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    if failed.user_failure_data is not None:
        return str(failed.user_failure_data.description)
    assert failed.error is not None
    assert failed.error.cause is not None
    return failed.error.cause.message


def metadata(result: ExecuteInProcessResult, asset: str) -> dict[str | None, Values]:
    """The metadata of each partition of `asset` that the run materialized, by partition key."""
    found: dict[str | None, Values] = {}
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key == AssetKey(asset.split("/")):
            values = event.step_materialization_data.materialization.metadata
            assert event.partition not in found
            found[event.partition] = {name: entry.value for name, entry in values.items()}
    return found


def content(warehouse: Warehouse, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of each of `tables`, in order."""
    with warehouse.read() as connection:
        return {table: connection.execute(f"FROM {table} ORDER BY ALL").fetchall() for table in tables}


def parquet(table: pa.Table) -> bytes:
    """`table` as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def of_month(service: sample.Service, month: str, rows: Sequence[Values]) -> pa.Table:
    """Ordinary trips but for the values in `rows`, in the physical schema of TLC's file of a month of 2023.

    The names `pickup` and `dropoff` stand for either service's.
    """
    schema = sample.month_schema(service, month)
    names = {"pickup": "tpep_pickup_datetime", "dropoff": "tpep_dropoff_datetime"}
    if service == "green":
        names = {short: name.replace("tpep", "lpep") for short, name in names.items()}
    ordinary: Values = {
        "VendorID": 2,
        "pickup": datetime.fromisoformat(f"{month}-10 12:00:00"),
        "dropoff": datetime.fromisoformat(f"{month}-10 12:15:00"),
        "passenger_count": 1,
        "trip_distance": 2.5,
        "RatecodeID": 1,
        "store_and_fwd_flag": "N",
        "PULocationID": 236,
        "DOLocationID": 237,
        "payment_type": 1,
        "fare_amount": 14.2,
        "total_amount": 18.5,
    }
    return pa.Table.from_pylist(
        [{names.get(name, name): value for name, value in (ordinary | row).items()} for row in rows], schema
    )
