"""The platform in containers: what `docker-compose.yml` runs before and beside the servers.

`prepare` runs to its end before everything else, at each `docker compose up`; `seed` and `people`
when a person asks for it.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import psycopg2

from codeloc import postgres, seed
from codeloc.errors import CodelocError
from codeloc.graphql import Webserver
from codeloc.home import ROOT, Home, Restoring, State, exports, passwords, write_whole
from codeloc.instance import prepare_storage
from codeloc.people import ADMIN, People, Role, SetBy, require_password
from codeloc.platform import wait_until
from codeloc.seeding import fill
from codeloc.settings import Settings, database_passwords, load_settings
from codeloc.variables import dagster_variables, location_variables, roles
from codeloc.workspace import bi_schemas, locations, pools

# In every container at the same place, as far as it is mounted there.
HOME = Home(Path("/data"))
# Below it a volume per location, and one for webserver and daemon, which alone mount it: at MOUNTED, for reading.
SETTINGS = HOME.path / "settings"
MOUNTED = Path("/settings")
HOST = "host"
# The servers, as the containers reach them: past the proxy and its login.
POSTGRES_HOST = "postgres"
FILES_URL = "http://files:3001"
WEBSERVER_HOST = "webserver"
WEBSERVER_PORT = 3000
# Mounted by init, which writes it, and by the proxy.
PEOPLE = People(HOME.path / "people" / "people.cfg")


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
    if settings.admin_password is None:
        raise CodelocError("ADMIN_PASSWORD is not set: docker-compose.yml has it from .env")
    admin_password = settings.admin_password.get_secret_value()
    if (settings.warehouse_data or "").startswith("/"):
        raise CodelocError(
            f"WAREHOUSE_DATA={settings.warehouse_data}: a folder of this machine is none of the containers'."
            " Unset it, and the files lie in volumes; or set an s3:// address"
        )
    given = {"postgres": settings.postgres_password.get_secret_value()} if settings.postgres_password else {}
    secrets = passwords(HOME, roles(found), database_passwords() | given)
    server = postgres.Server(POSTGRES_HOST, settings.postgres_port, settings.postgres_user, secrets["postgres"])
    source = _source(settings)
    state = State.load(HOME)
    _wait_for(server, first_password=None if given else admin_password)
    # After Postgres has a password of its own: until then it has this one, and whoever mends .env would be refused.
    _let_admin_in(admin_password)
    postgres.provision(server, [location.name for location in found], secrets, bi_schemas(), owner=None)
    dagster = dagster_variables(HOME, server, secrets, instance=MOUNTED)
    _tell(HOST, dagster)
    url = _public_url(settings)
    for location in found:
        urls = (url, f"{url}/{HOME.reports.name}")
        own = location_variables(HOME, settings, location, server, secrets, urls, source)
        _tell(location.name, dagster | own)
    prepare_storage(dagster | {"DAGSTER_HOME": str(SETTINGS / HOST)}, pools(), state, _say)
    state.save(HOME)
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


def load_seed() -> None:
    """Load the months of the seed that are not there yet, and wait for what follows from them."""
    settings = load_settings()
    public_url = _public_url(settings)
    webserver = Webserver(WEBSERVER_PORT, WEBSERVER_HOST, public_url)

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
    _say(f"UI {public_url}   report {public_url}/{HOME.reports.name}/{seed.REPORT}")


def change_people(arguments: argparse.Namespace) -> None:
    """Do what `codeloc users` asks for; a password comes as the first line of standard input."""
    if not PEOPLE.file.exists():
        raise CodelocError("nobody was ever let in: `docker compose up -d --wait` makes the first login")
    if arguments.action == "list":
        for person in PEOPLE.all():
            _say(f"{person.name}\t{person.role}")
        return
    if arguments.action == "remove":
        PEOPLE.remove(arguments.name)
        return
    password = sys.stdin.readline().rstrip("\r\n")
    if arguments.action == "add":
        PEOPLE.add(arguments.name, Role(arguments.role), password)
    else:
        PEOPLE.change_password(arguments.name, password)


def _public_url(settings: Settings) -> str:
    """Where people open the deployment."""
    given = str(settings.public_url).rstrip("/") if settings.public_url else None
    return given or f"http://127.0.0.1:{settings.webserver_port}"


def _let_admin_in(password: str) -> None:
    require_password(password, "ADMIN_PASSWORD in .env")
    done = PEOPLE.follow_admin(password)
    if done is SetBy.PERSON:
        _say(f"{ADMIN}'s login is as `codeloc users` set it: ADMIN_PASSWORD is not used for it")
    elif done is SetBy.NOBODY:
        _say(f"{ADMIN} was removed by `codeloc users`: ADMIN_PASSWORD is not used for a login")


def _source(settings: Settings) -> dict[str, str]:
    base = str(settings.tlc_base_url or seed.SAMPLE)
    zones = str(settings.taxi_zones_url) if settings.taxi_zones_url else None
    return seed.source_environment(base, f"{FILES_URL}/{seed.SAMPLE}", zones)


def _wait_for(server: postgres.Server, first_password: str | None) -> None:
    """Wait for Postgres, and give it this server's password where it still has the one it was started with."""

    def reachable() -> str | None:
        try:
            with server.administer("postgres"):
                return None
        except psycopg2.OperationalError as error:
            if "password authentication failed" not in str(error):
                return str(error).strip()
        if first_password is None or not postgres.replace_password(server, first_password):
            refused = "POSTGRES_PASSWORD" if first_password is None else "the password that init keeps"
            raise CodelocError(
                f"Postgres refuses {refused}: its volume was made with another one."
                " Set that one as POSTGRES_PASSWORD in .env; or choose one, set it there, and have Postgres take it:"
                f" docker compose exec postgres psql -U {server.user} -c '\\password'"
            )
        return None

    wait_until(reachable, 60, f"Postgres at {server.host}:{server.port} does not answer")


def _tell(service: str, variables: dict[str, str]) -> None:
    folder = SETTINGS / service
    if not folder.is_dir():
        raise CodelocError(
            f"'{service}' has no volume for its settings: give init one at {folder} in docker-compose.yml"
        )
    # The instance is not in a volume that code of the locations can write: webserver and daemon do what it says.
    write_whole(folder / "dagster.yaml", (ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    write_whole(folder / "service.env", exports(variables))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m codeloc.deployment", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    alone = {
        "prepare": prepare,
        "seed": load_seed,
        # `codeloc restore --compose` runs these.
        "restoring": tell_restoring,
        "begin-restore": begin_restore,
        "end-restore": end_restore,
    }
    for command in alone:
        commands.add_parser(command)
    actions = commands.add_parser("people").add_subparsers(dest="action", required=True)
    actions.add_parser("list")
    for action in ("add", "password", "remove"):
        actions.add_parser(action).add_argument("name")
    actions.choices["add"].add_argument("--role", choices=[*Role], required=True)
    arguments = parser.parse_args()
    try:
        if arguments.command == "people":
            change_people(arguments)
        else:
            alone[arguments.command]()
    except (CodelocError, psycopg2.Error, OSError) as error:
        sys.exit(f"codeloc: {str(error).strip()}")


if __name__ == "__main__":
    main()
