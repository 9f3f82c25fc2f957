"""A file server on loopback whose answers a test decides, and the location's resources on a temporary folder."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from taxi_shared.warehouse import Warehouse

from ingestion.defs.resources import TlcServer
from ingestion.landing import LandingStore

Answer = Callable[[BaseHTTPRequestHandler], None]


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

        do_GET = do_HEAD = answer

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


@pytest.fixture
def landing(tmp_path: Path) -> LandingStore:
    return LandingStore(folder=str(tmp_path / "landing"))


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(lake="ingestion", catalog=f"sqlite:{tmp_path}/catalog", data_root=f"{tmp_path}/lakes")


@pytest.fixture
def tlc(source: Source) -> TlcServer:
    return TlcServer(base_url=source.url, zones_url=f"{source.url}/misc/taxi_zones.csv")
