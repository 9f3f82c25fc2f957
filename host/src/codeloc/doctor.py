"""`codeloc doctor`: what is missing, taken or unreachable on this machine, and the fix."""

import shutil
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import psycopg2

from codeloc import postgres, seed
from codeloc.environments import UV_HELP, EnvironmentFailedError, find_uv, is_current, uv_wheel
from codeloc.errors import CodelocError
from codeloc.home import Home
from codeloc.platform import TOOLS, Platform, is_free, marked, taken_by
from codeloc.settings import load_settings
from codeloc.workspace import locations

_NEEDED_BYTES = 5 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `fix` is empty when all is well."""

    subject: str
    state: str
    fix: str = ""
    fatal: bool = True


def examine(home: Home) -> Iterator[Finding]:
    """Look at everything `up` needs; each finding as it is made."""
    yield Finding("Python", f"{sys.version.split()[0]} at {sys.executable}")
    yield _attempt("uv", lambda: str(find_uv(TOOLS, lambda _: None)), UV_HELP)
    existing = next(folder for folder in (home.path, *home.path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    yield Finding(
        "disk",
        f"{free / 1024**3:.0f} GiB free",
        "" if free > _NEEDED_BYTES else "free some: at least 5 GiB are needed",
    )
    looks: tuple[tuple[str, Callable[[], object]], ...] = (
        ("settings", load_settings),
        ("workspace.yaml", locations),
        (f"home folder {home.path}", lambda: Platform(home)),
    )
    for subject, look in looks:
        finding = _attempt(subject, lambda look=look: "right" if look() else "", "")  # type: ignore[misc]
        yield finding
        if finding.fix:
            return
    platform = Platform(home)
    for location in platform.locations:
        current = is_current(location.folder)
        yield Finding(
            f"environment of {location.name}",
            "made from its lock" if current else "not made from its lock as it is now",
            "" if current else f"{home.command('up')} makes it",
            fatal=False,
        )
    yield _registry()
    running = platform.supervisor.is_running()
    yield Finding("platform", "up" if running else "down")
    if not running:
        left = marked(home)
        yield Finding(
            "processes left behind",
            str(len(left)) if left else "none",
            f"{home.command('down')} ends them" if left else "",
            fatal=False,
        )
        port = platform.wanted_port()
        free_port = is_free(port)
        yield Finding(
            f"port {port}",
            "free" if free_port else f"taken{taken_by(port)}",
            ""
            if free_port
            else f"{home.command('up')} takes a free one instead; or choose with --port or WEBSERVER_PORT",
            fatal=False,
        )
    yield _postgres(platform)
    yield _source(platform)


def _registry() -> Finding:
    wheel = uv_wheel()
    if wheel is None:
        return Finding("package registry", "not asked: the lock has no uv for this machine", UV_HELP, fatal=False)
    host = urllib.parse.urlsplit(wheel["url"]).hostname
    try:
        status = httpx.head(wheel["url"], timeout=10, follow_redirects=True).status_code
    except httpx.HTTPError as error:
        fix = "environments that are made already work without it; behind a proxy set HTTPS_PROXY"
        return Finding("package registry", f"{host} is unreachable ({type(error).__name__})", fix, fatal=False)
    return Finding("package registry", f"{host} answers HTTP {status}")


def _postgres(platform: Platform) -> Finding:
    settings = platform.settings
    if settings.postgres_host is None:
        return _attempt("Postgres", lambda: f"embedded, {postgres.programs()}", "run ./codeloc from the repository")
    password = settings.postgres_password.get_secret_value() if settings.postgres_password else ""
    server = postgres.Server(settings.postgres_host, settings.postgres_port, settings.postgres_user, password)
    try:
        with server.administer("postgres"):
            return Finding("Postgres", f"reachable at {server.host}:{server.port}")
    except psycopg2.OperationalError as error:
        return Finding(
            "Postgres",
            f"unreachable at {server.host}:{server.port}",
            f"{str(error).strip()}: check POSTGRES_HOST, POSTGRES_PORT, POSTGRES_USER and POSTGRES_PASSWORD",
        )


def _source(platform: Platform) -> Finding:
    source = str(platform.settings.tlc_base_url or "") or platform.state.source or seed.SAMPLE
    if source == seed.SAMPLE:
        return Finding("source", "the sample: no internet needed")
    url = seed.source_environment(source, "", None)["TLC_BASE_URL"]
    try:
        status = httpx.head(f"{url}/misc/taxi_zone_lookup.csv", timeout=10, follow_redirects=True).status_code
    except httpx.HTTPError as error:
        fix = f"{type(error).__name__}: no way to {urllib.parse.urlsplit(url).hostname}; or use --source sample"
        return Finding("source", f"{url} is unreachable", fix)
    return Finding("source", f"{url} answers HTTP {status}", "" if status == httpx.codes.OK else "check TLC_BASE_URL")


def _attempt(subject: str, look: Callable[[], str], fix: str) -> Finding:
    try:
        return Finding(subject, look())
    except (CodelocError, EnvironmentFailedError) as error:
        return Finding(subject, "wrong" if not fix else str(error), fix or str(error))
