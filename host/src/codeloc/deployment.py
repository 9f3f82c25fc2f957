"""The platform in containers: what `docker-compose.yml` runs before and beside the servers.

`prepare` runs to its end before everything else, at each `docker compose up`; `settle` before the
daemon; `seed` when a person asks for it.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import psycopg2

from codeloc import postgres, seed
from codeloc.errors import CodelocError
from codeloc.graphql import Webserver
from codeloc.home import Home, Restoring, State, exports, passwords, write_whole
from codeloc.instance import prepare_storage, render_dagster_yaml, runs_in_its_server, settle_runs
from codeloc.platform import wait_until
from codeloc.seeding import fill
from codeloc.settings import Settings, database_passwords, load_settings
from codeloc.variables import dagster_variables, host_variables, location_variables, roles, storage_url
from codeloc.workspace import bi_schemas, locations, pools

# In every container at the same place, as far as it is mounted there.
HOME = Home(Path("/data"))
# Below it a volume per location, and one for webserver and daemon, which alone mount it.
SETTINGS = HOME.path / "settings"
SETTINGS_FILE = "service.env"
HOST = "host"
CODE_SERVER_PORT = 4000
# The file server, as the containers reach it.
FILES_URL = "http://files:3001"


def prepare() -> None:
    """Bring roles, databases, storage and each service's settings to what they should be; safe to repeat.

    Raises
    ------
    CodelocError
        A setting is wrong, Postgres does not let us in, or a restore did not come to its end.
    """
    if restoring := Restoring.load(HOME):
        raise restoring.error("./codeloc restore --compose")
    _prepare()


def _prepare() -> None:
    settings, found = load_settings(), locations()
    if settings.postgres_host is None or settings.postgres_password is None:
        raise CodelocError("POSTGRES_HOST and POSTGRES_PASSWORD are not set: docker-compose.yml sets them")
    if (settings.warehouse_data or "").startswith("/"):
        raise CodelocError(
            f"WAREHOUSE_DATA={settings.warehouse_data}: a folder of this machine is none of the containers'."
            " Unset it, and the files lie in volumes; or set an s3:// address"
        )
    password = settings.postgres_password.get_secret_value()
    server = postgres.Server(settings.postgres_host, settings.postgres_port, settings.postgres_user, password)
    secrets = passwords(HOME, roles(found), database_passwords() | {"postgres": password})
    source = _source(settings)
    state = State.load(HOME)
    _wait_for(server)
    postgres.provision(server, [location.name for location in found], secrets, bi_schemas(), owner=None)
    render_dagster_yaml(HOME)
    prepare_storage(HOME, storage_url(server, secrets), pools(), state, _say)
    state.save(HOME)
    dagster = dagster_variables(HOME, server, secrets)
    addresses = {location: (location.name, CODE_SERVER_PORT) for location in found}
    _tell(HOST, dagster | host_variables(addresses))
    reports_url = f"http://127.0.0.1:{settings.files_port}/{HOME.reports.name}"
    for location in found:
        own = location_variables(HOME, settings, location, server, secrets, reports_url, source)
        _tell(location.name, dagster | own)
    _say("roles, databases, storage and settings are as they should be")


def tell_restoring() -> None:
    """Print which restore was interrupted, as JSON; null: none."""
    restoring = Restoring.load(HOME)
    _say(json.dumps(asdict(restoring) if restoring else None))


def begin_restore() -> None:
    """Mark the platform as half of one, and make its roles and databases; the backup is told as JSON."""
    Restoring(**json.loads(sys.stdin.readline())).begin(HOME)
    _prepare()


def end_restore() -> None:
    """Take the mark off."""
    restoring = Restoring.load(HOME)
    if restoring is None:
        raise CodelocError("no restore is under way")
    restoring.end(HOME, State.load(HOME))


def settle() -> None:
    """Have runs tried again that were under way when their location's container ended."""
    settle_runs(HOME, os.environ["DAGSTER_POSTGRES_URL"], runs_in_its_server, _say)


def load_seed() -> None:
    """Load the months of the seed that are not there yet, and wait for what follows from them."""
    settings = load_settings()
    webserver = Webserver(settings.webserver_port)

    def require_daemon() -> None:
        unwell = webserver.unhealthy_daemons()
        if unwell:
            raise CodelocError(f"the daemon is not well ({', '.join(unwell)}): see docker compose logs daemon")

    told: list[str] = []

    def progress(text: str, done: int, total: int) -> None:
        line = f"{text}: {done} of {total}"
        if told != [line]:
            told[:] = [line]
            _say(line)

    loaded = fill(webserver, _source(settings)["TLC_BASE_URL"], require_daemon, progress)
    _say(f"{sum(loaded.rows.values()):,} trips, {loaded.runs} runs in {loaded.seconds:.0f} s")
    _say(f"UI {webserver.url}   report http://127.0.0.1:{settings.files_port}")


def _source(settings: Settings) -> dict[str, str]:
    base = str(settings.tlc_base_url or seed.SAMPLE)
    zones = str(settings.taxi_zones_url) if settings.taxi_zones_url else None
    return seed.source_environment(base, f"{FILES_URL}/{seed.SAMPLE}", zones)


def _wait_for(server: postgres.Server) -> None:
    def reachable() -> str | None:
        try:
            with server.administer("postgres"):
                return None
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                raise CodelocError(
                    f"Postgres refuses POSTGRES_PASSWORD: its volume was made with another one. Set that one in .env;"
                    f" or change it: docker compose exec postgres psql -U {server.user} -c '\\password'"
                ) from None
            return str(error).strip()

    wait_until(reachable, 60, f"Postgres at {server.host}:{server.port} does not answer")


def _tell(service: str, variables: dict[str, str]) -> None:
    folder = SETTINGS / service
    if not folder.is_dir():
        raise CodelocError(
            f"'{service}' has no volume for its settings: give init one at {folder} in docker-compose.yml"
        )
    write_whole(folder / SETTINGS_FILE, exports(variables))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    """Run one of the commands."""
    commands = {
        "prepare": prepare,
        "settle": settle,
        "seed": load_seed,
        # `codeloc restore --compose` runs these.
        "restoring": tell_restoring,
        "begin-restore": begin_restore,
        "end-restore": end_restore,
    }
    parser = argparse.ArgumentParser(prog="python -m codeloc.deployment", description=__doc__)
    parser.add_argument("command", choices=commands)
    chosen = commands[parser.parse_args().command]
    try:
        chosen()
    except (CodelocError, psycopg2.Error, OSError) as error:
        sys.exit(f"codeloc: {str(error).strip()}")


if __name__ == "__main__":
    main()
