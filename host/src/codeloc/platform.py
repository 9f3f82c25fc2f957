"""The platform on this machine: what it consists of, and how it is started, stopped and looked at."""

import contextlib
import getpass
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import filelock
import psutil
import psycopg2

from codeloc import postgres, seed
from codeloc.commands import Command
from codeloc.environments import EnvironmentFailedError, is_current, make_environment
from codeloc.errors import CandidateError, CodelocError
from codeloc.graphql import LocationStatus, Webserver
from codeloc.home import ROOT, Home, Restoring, State, exports, passwords, save_reader, write_private
from codeloc.instance import prepare_storage, render_dagster_yaml, settle_runs
from codeloc.ledger import DONE, UNDONE, Ledger, ledger
from codeloc.releases import Release, current, forget_current, made, make_current, make_release
from codeloc.serving import answers
from codeloc.settings import Settings, database_passwords, inherited_environment, load_settings
from codeloc.sources import Source, working_tree
from codeloc.supervision import LONGEST_SOCKET_PATH, SOURCED, Program, Supervisor
from codeloc.variables import dagster_variables, location_variables, roles
from codeloc.workspace import Location, bi_schemas, locations, pools

# Every process of a platform carries it, run workers too, so that none can be missed or mistaken.
MARK = "CODELOC_STARTED_FOR"
TOOLS = ROOT / "var" / "tools"
HOST_PYTHON = ROOT / "host" / ".venv" / "bin" / "python"

Say = Callable[[str], None]


class Platform:
    """One platform: one home folder, one supervisor, one Postgres, every location of the workspace."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.supervisor = Supervisor(home)
        self.state = State.load(home)

    # Read when they are needed: a mistake in .env or workspace.yaml must not keep `down` from stopping.

    @cached_property
    def settings(self) -> Settings:
        """The settings, checked."""
        return load_settings()

    @cached_property
    def locations(self) -> list[Location]:
        """The locations of workspace.yaml."""
        return locations()

    @cached_property
    def webserver(self) -> Webserver:
        """The webserver, at the port this platform was given."""
        return Webserver(self.state.ports["webserver"])

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held while the platform is started, stopped or deployed to, so that two commands don't do it at once."""
        self.home.make()
        lock, note = filelock.FileLock(self.home.path / "codeloc.lock"), self.home.path / "codeloc.pid"
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise CodelocError(
                f"another codeloc command (pid {_content(note)}) is at work on the platform in {self.home.path}"
            ) from None
        try:
            note.write_text(str(os.getpid()), encoding="ascii")
            yield
        finally:
            lock.release()

    # -- starting ---------------------------------------------------------------------------------

    def start(self, source: str | None, port: int | None, say: Say) -> list[str]:
        """Start everything and return once webserver, daemon and locations are ready.

        Parameters
        ----------
        source
            As `--source`; None: the one of the last start, or the sample.
        port
            The webserver's port; None: the setting's, or a free one if that is taken.

        Returns
        -------
        list of str
            What is wrong with each location that did not load; the others work without it.

        Raises
        ------
        CodelocError
            Something else did not come up; whatever had been started is stopped again.
        """
        # A mistake in these is told before anything is written.
        self.settings  # noqa: B018
        bi_schemas()
        with self.exclusive():
            if restoring := Restoring.load(self.home):
                raise restoring.error(f"./codeloc restore --home {self.home.path}")
            try:
                return self._start(source, port, say)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    say("interrupted: stopping what was started")
                self._stop(say)
                raise

    def _start(self, source: str | None, port: int | None, say: Say) -> list[str]:
        self._end_leftovers(say)
        for location in self.locations:
            sync(location.folder, say)
        self.state.source = source or str(self.settings.tlc_base_url or "") or self.state.source or seed.SAMPLE
        self._choose_ports(port, say)
        secrets = passwords(self.home, roles(self.locations), self._given_passwords())
        server = self._server(secrets)
        self.base_url  # noqa: B018  (refuses a wrong source before anything starts)
        for location in self.locations:
            self._require_short_path(location)
        self.state.save(self.home)
        render_dagster_yaml(self.home)
        if self._embedded:
            postgres.initialize(self.home, secrets["postgres"], say)
        self._make_sample(say)

        self.supervisor.start(self.programs([]), inherited_environment() | {MARK: str(self.home.path)})
        if self._embedded:
            say("starting Postgres")
            self.supervisor.start_program("postgres")
        self._wait_for_postgres(server)
        self.provision(server)
        dagster = self._dagster(server, secrets)
        prepare_storage(dagster, pools(), self.state, say)
        settle_runs(dagster, say)
        self.state.save(self.home)
        self._tell_locations()
        with ledger(self.psql) as history:
            serving, broken = self._start_servers(history, say)
        # Last: what it looks at first is there.
        started = time.time()
        self.supervisor.start_program("daemon")
        self._wait_for_webserver(["webserver", "files"])
        broken += self._wait_for_locations(serving)
        self._wait_for_daemon(started)
        return broken

    def _start_servers(self, history: Ledger, say: Say) -> tuple[list[Release], list[str]]:
        """Start a code server per location, and the servers that need none; tells what serves and what does not load.

        A location gets the code as it is now. It gets the one that it had before where the last thing done to it was a
        rollback, and where the code as it is now does not load.
        """
        self.settle_interrupted(history)
        before = {location.name: current(self.home, location.name) for location in self.locations}
        sources = {location.name: working_tree(location.name) for location in self.locations}
        wanted = [
            Release(self.home, name, self._wanted(name, source, history, say)) for name, source in sources.items()
        ]
        say("starting the code servers, the webserver, the daemon")
        self.supervisor.change(self.programs(wanted))
        for name in ("files", "webserver"):
            self.supervisor.start_program(name)
        for release in wanted:
            make_current(self.home, release.location, release.version)
            self.supervisor.start_program(release.program)
        serving, broken = [], []
        for release in wanted:
            former = before[release.location]
            try:
                self.wait_for_server(release, 120)
            except CodelocError as error:
                broken.append(f"location '{release.location}' did not load: {error}")
                if former in (None, release.version) or former not in made(self.home, release.location):
                    forget_current(self.home, release.location)
                    continue
                broken.append(f"{release.location} goes on with the code it had before, {former}")
                release = Release(self.home, release.location, former)
                make_current(self.home, release.location, former)
            serving.append(release)
            if release.version != former:
                source = sources[release.location]
                row = history.begin(
                    release.location, "up", former, release.version, source.commit, whoami(), files=source.files
                )
                history.end(row, DONE)
        self.supervisor.change(self.programs(serving))
        for release in serving:
            self.supervisor.start_program(release.program)
            self.wait_for_server(release, 120)
        return serving, broken

    def _wanted(self, location: str, source: Source, history: Ledger, say: Say) -> str:
        last = next((found for found in history.history(location) if found.outcome == DONE), None)
        kept = current(self.home, location)
        if kept is not None and last is not None and last.action == "rollback":
            ends = self.home.command(f"deploy {location}")
            say(f"{location} stays at {kept}, since it was rolled back: {ends} ends that")
            return kept
        return make_release(self.home, location, source, say)

    def settle_interrupted(self, history: Ledger) -> None:
        """Write down how what was cut off ended: the link says which version serves."""
        for found in history.unfinished():
            history.end(found.id, DONE if current(self.home, found.location) == found.to_version else UNDONE)

    def wait_for_server(self, release: Release, seconds: float) -> None:
        """Wait until a code server answers.

        Raises
        ------
        CandidateError
            It ended instead, or takes longer; with the end of its log.
        """

        def problem() -> str | None:
            if self.supervisor.ended([release.program]):
                raise CandidateError(f"the end of its log:\n{self.supervisor.log_end(release.program)}")
            return None if answers(release.socket) else "it does not answer"

        try:
            wait_until(problem, seconds, f"{release.location} {release.version} did not load")
        except CandidateError:
            raise
        except CodelocError as error:
            raise CandidateError(f"{error}. The end of its log:\n{self.supervisor.log_end(release.program)}") from None

    def _require_short_path(self, location: Location) -> None:
        socket = Release(self.home, location.name, "0" * 8).socket
        if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
            raise CodelocError(f"{socket} is too long a path for a socket: choose a shorter folder with --home")

    def provision(self, server: postgres.Server) -> None:
        """Bring roles, databases and schemas to what they should be; safe to repeat."""
        owner = None if self._embedded else f"{socket.gethostname()}:{self.home.path}"
        secrets = passwords(self.home, roles(self.locations), self._given_passwords())
        postgres.provision(server, [location.name for location in self.locations], secrets, bi_schemas(), owner)

    @contextmanager
    def database(self, say: Say) -> Iterator[postgres.Server]:
        """Postgres without the rest of the platform, which is down; the embedded one is stopped again afterwards.

        Raises
        ------
        CodelocError
            The platform is up, or Postgres does not come up.
        """
        with self.exclusive():
            if self.supervisor.is_running() and self._is_complete():
                raise CodelocError(f"the platform in {self.home.path} is up: {self.home.command('down')} first")
            # A backup or restore that was killed may have left its Postgres: one at work would hold the lock.
            self._stop(say)
            kept = self.state.ports.get("postgres", 0)
            self.state.ports["postgres"] = kept if kept and is_free(kept) else _free_port(set())
            secrets = passwords(self.home, roles(self.locations), self._given_passwords())
            server = self._server(secrets)
            try:
                if self._embedded:
                    postgres.initialize(self.home, secrets["postgres"], say)
                    say("starting Postgres")
                    environment = inherited_environment() | {MARK: str(self.home.path)}
                    self.supervisor.start([self._postgres_program()], environment)
                    self.supervisor.start_program("postgres")
                self._wait_for_postgres(server)
                yield server
            finally:
                self._stop(say)

    @property
    def running_server(self) -> postgres.Server:
        """The Postgres of the platform that is up."""
        return self._server(passwords(self.home, roles(self.locations), self._given_passwords()))

    def require_complete(self) -> None:
        """See that what runs is the platform, not Postgres alone.

        Raises
        ------
        CodelocError
            It is Postgres alone: a backup or restore is under way, or was killed.
        """
        if not self._is_complete():
            raise CodelocError(
                f"a backup or restore of the platform in {self.home.path} is under way: wait for its end; or, if it"
                f" was killed, {self.home.command('down')} first"
            )

    def _is_complete(self) -> bool:
        return "webserver" in (process.name for process in self.supervisor.processes())

    def _choose_ports(self, port: int | None, say: Say) -> None:
        wanted = port or self.wanted_port()
        if port is not None and not is_free(port):
            raise CodelocError(f"port {port} is taken{taken_by(port)}: choose another with --port")
        kept = self.state.ports
        taken: set[int] = set()

        def choose(name: str, preferred: int) -> None:
            chosen = preferred if preferred and preferred not in taken and is_free(preferred) else _free_port(taken)
            taken.add(chosen)
            self.state.ports[name] = chosen

        choose("webserver", wanted)
        if self.state.ports["webserver"] != wanted:
            say(f"port {wanted} is taken{taken_by(wanted)}: the UI gets {self.state.ports['webserver']}")
        choose("files", self.wanted_port("files"))
        choose("postgres", kept.get("postgres", 0))

    def wanted_port(self, name: str = "webserver") -> int:
        """The port of the UI or the files: the same from start to start unless the setting asks for another."""
        setting = f"{name}_port"
        kept = None if setting in self.settings.model_fields_set else self.state.ports.get(name)
        return kept or int(getattr(self.settings, setting))

    @property
    def _embedded(self) -> bool:
        """Whether Postgres is one of this platform's processes."""
        return self.settings.postgres_host is None

    def _reader(self, server: postgres.Server) -> dict[str, str | int | list[str]]:
        """How a person reads every lake, and writes none."""
        return {
            "lakes": [location.name for location in self.locations],
            "catalog": server.connection_string(
                postgres.WAREHOUSE, postgres.READER, password_file=self.home.reader_password
            ),
            "data_root": self.settings.warehouse_data or str(self.home.lakes),
            "threads": self.settings.warehouse_threads,
            "memory_limit": self.settings.warehouse_memory_limit,
            "temp_directory": str(self.home.spill),
            "s3_endpoint": self.settings.warehouse_s3_endpoint,
            "s3_region": self.settings.warehouse_s3_region,
            "s3_access_key_id": self.settings.warehouse_s3_access_key_id,
            "s3_secret_access_key": self.settings.warehouse_s3_secret_access_key.get_secret_value(),
        }

    def bi_connection(self) -> dict[str, str]:
        """What a BI tool asks for to read the tables that are published for it, the password too.

        Raises
        ------
        CodelocError
            The platform is down.
        """
        if not self.supervisor.is_running():
            raise CodelocError(f"the platform in {self.home.path} is down: {self.home.command('up')} starts it")
        secrets = passwords(self.home, roles(self.locations), self._given_passwords())
        server = self._server(secrets)
        return {
            "host": server.host,
            "port": str(server.port),
            "database": postgres.WAREHOUSE,
            "schema": ", ".join(bi_schemas()),
            "user": postgres.BI,
            "password": secrets[postgres.BI],
        }

    def _given_passwords(self) -> dict[str, str]:
        given = database_passwords()
        if self.settings.postgres_host and self.settings.postgres_password:
            given["postgres"] = self.settings.postgres_password.get_secret_value()
        return given

    def _server(self, secrets: dict[str, str]) -> postgres.Server:
        if self.settings.postgres_host:
            return postgres.Server(
                self.settings.postgres_host,
                self.settings.postgres_port,
                self.settings.postgres_user,
                secrets["postgres"],
            )
        return postgres.Server("127.0.0.1", self.state.ports["postgres"], "postgres", secrets["postgres"])

    def _dagster(self, server: postgres.Server, secrets: dict[str, str]) -> dict[str, str]:
        return dagster_variables(self.home, server, secrets, instance=self.home.dagster)

    def programs(self, servers: list[Release]) -> list[Program]:
        """Every process, with these code servers."""
        secrets = passwords(self.home, roles(self.locations), self._given_passwords())
        server = self._server(secrets)
        host = self._dagster(server, secrets)
        python, workspace = str(HOST_PYTHON), str(ROOT / "workspace.yaml")
        ports = self.state.ports
        programs = []
        if self._embedded:
            programs.append(self._postgres_program())
        serve = f"-m uvicorn codeloc.files:app --host 127.0.0.1 --port {ports['files']} --log-level warning"
        served = {"CODELOC_SERVED": str(self.home.served)}
        programs.append(Program("files", [python, *serve.split()], served, self.home.path))
        # They find the sockets of workspace.yaml from the folder they are in.
        serve = f"-m dagster_webserver -h 127.0.0.1 -p {ports['webserver']}"
        programs.append(Program("webserver", [python, *serve.split(), "-w", workspace], host, self.home.path))
        daemon = [python, "-m", "codeloc.daemon", "run", "-w", workspace]
        programs.append(Program("daemon", daemon, host, self.home.path))
        return programs + [self._server_program(release) for release in servers]

    def _server_program(self, release: Release) -> Program:
        release.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        serve = f"-m dagster api grpc -m {release.location}.definitions --location-name {release.location} --socket"
        return Program(
            release.program,
            # What the location is told is in a file, which its runs read too.
            [
                *SOURCED,
                str(self.home.settings_of(release.location)),
                str(release.python),
                *serve.split(),
                str(release.socket),
            ],
            release.variables,
            release.package,
            # It answers what it was asked before it was told to end: a sensor may take its time.
            stop_seconds=70,
        )

    def _tell_locations(self) -> None:
        """Write down what the processes of each location are told, and what a person needs to read every lake."""
        secrets = passwords(self.home, roles(self.locations), self._given_passwords())
        server = self._server(secrets)
        dagster = self._dagster(server, secrets)
        for location in self.locations:
            variables = dagster | self.location_environment(location, server, secrets)
            write_private(self.home.settings_of(location.name), exports(variables))
        save_reader(self.home, self._reader(server), postgres.password_line(postgres.READER, secrets[postgres.READER]))

    def admit_locations(self) -> None:
        """Give the locations that were added to workspace.yaml while the platform is up all that they need to start."""
        for location in self.locations:
            self._require_short_path(location)
        self.provision(self.running_server)
        self._tell_locations()

    @property
    def psql(self) -> Command:
        """Postgres' own psql, as its administrator, while the platform is up."""
        return Command([str(postgres.programs() / "psql")], self.running_server.client_environment)

    def _postgres_program(self) -> Program:
        command = postgres.command(self.home, self.state.ports["postgres"])
        # INT is Postgres's fast shutdown; TERM would wait for every client to leave.
        return Program(
            "postgres", command, {}, Path("/"), stop_seconds=60, stop_signal="INT", user=postgres.system_user()
        )

    def location_environment(
        self, location: Location, server: postgres.Server, secrets: dict[str, str]
    ) -> dict[str, str]:
        """What a location's processes get besides: its own lake's role, its own files, the source."""
        self.home.requests(location.name).mkdir(parents=True, exist_ok=True)
        self.home.reports.mkdir(parents=True, exist_ok=True)
        source = self._source_environment()
        urls = (self.webserver.url, self.reports_url)
        return location_variables(self.home, self.settings, location, server, secrets, urls, source)

    def _make_sample(self, say: Say) -> None:
        if self.state.source != seed.SAMPLE:
            return
        location = next(found for found in self.locations if found.name == seed.SAMPLE_LOCATION)
        target = self.home.served / seed.SAMPLE
        program = working_tree(location.name).digest
        if self.state.sample == _digest(program, target):
            return
        say("making the sample months")
        target.mkdir(parents=True, exist_ok=True)
        finished = subprocess.run(
            [str(location.python), "-m", seed.SAMPLE_MODULE, str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise CodelocError(f"the sample months could not be made:\n{finished.stderr.strip()}")
        self.state.sample = _digest(program, target)

    # -- waiting ----------------------------------------------------------------------------------

    def _wait_for_postgres(self, server: postgres.Server) -> None:
        def reachable() -> str | None:
            if self._embedded:
                self.supervisor.require(["postgres"])
            try:
                with server.administer("postgres"):
                    return None
            except psycopg2.OperationalError as error:
                if "password authentication failed" in str(error):
                    setting = "POSTGRES_PASSWORD" if self.settings.postgres_host else f"{self.home.path}/secrets.json"
                    raise CodelocError(f"Postgres refuses the password of {server.user}: check {setting}") from None
                return str(error).strip()

        wait_until(reachable, 60 if self._embedded else 15, f"Postgres at {server.host}:{server.port} does not answer")

    def _wait_for_webserver(self, names: list[str]) -> None:
        def answers() -> str | None:
            self.supervisor.require(names)
            return None if self.webserver.answers() else f"end of its log:\n{self.supervisor.log_end('webserver')}"

        wait_until(answers, 120, "the webserver does not answer")

    def _wait_for_daemon(self, started: float) -> None:
        def heard_of() -> str | None:
            self.supervisor.require(["daemon"])
            return ", ".join(self.webserver.unhealthy_daemons(started)) or None

        wait_until(heard_of, 90, "the daemon is not well")

    def _wait_for_locations(self, serving: list[Release]) -> list[str]:
        """What is wrong with the locations that the webserver does not load, once each has loaded or failed."""
        expected = {release.location for release in serving}

        def waiting() -> str | None:
            statuses = self.webserver.locations()
            settled = {status.name for status in statuses if status.loaded or status.failed}
            return ", ".join(expected - settled) or None

        with contextlib.suppress(CodelocError):
            wait_until(waiting, 90, "not every location was loaded")
        statuses = {status.name: status for status in self.webserver.locations()}
        missing = LocationStatus("", loaded=False, error=None, version=None)
        return [
            self._explain(replace(statuses.get(name, missing), name=name))
            for name in sorted(expected)
            if not statuses.get(name, missing).loaded
        ]

    def broken_locations(self) -> list[str]:
        """What is wrong with each location that does not load now."""
        return [self._explain(status) for status in self.webserver.locations() if not status.loaded]

    @property
    def base_url(self) -> str:
        """Address that ingestion's files come from."""
        return self._source_environment()["TLC_BASE_URL"]

    @property
    def files_url(self) -> str:
        """Address of the file server."""
        return f"http://127.0.0.1:{self.state.ports['files']}"

    @property
    def reports_url(self) -> str:
        """Address that the locations' pages and pictures lie under."""
        return f"{self.files_url}/{self.home.reports.name}"

    @property
    def report_url(self) -> str:
        """Address of the page that a person is shown first."""
        return f"{self.reports_url}/{seed.REPORT}"

    def _source_environment(self) -> dict[str, str]:
        zones = str(self.settings.taxi_zones_url) if self.settings.taxi_zones_url else None
        sample = f"{self.files_url}/{seed.SAMPLE}"
        return seed.source_environment(self.state.source, sample, zones)

    def _explain(self, status: LocationStatus) -> str:
        version = current(self.home, status.name)
        program = Release(self.home, status.name, version).program if version else ""
        reason = status.error or f"end of its log:\n{self.supervisor.log_end(program)}"
        return f"location '{status.name}' did not load: {reason.strip()}"

    # -- stopping ---------------------------------------------------------------------------------

    def stop(self, say: Say) -> bool:
        """Stop everything and leave nothing behind; a run under way is cut off and tried again at the next start.

        Returns
        -------
        bool
            Whether there was anything to stop.
        """
        with self.exclusive():
            if not self.supervisor.is_running() and not marked(self.home):
                return False
            say("stopping")
            self._stop(say)
        return True

    def _stop(self, say: Say) -> None:
        if self.supervisor.is_running():
            # The daemon first, so that it starts no further run.
            self._stop_programs(["daemon", "webserver"])
            workers = run_workers(self.home)
            if workers:
                say(f"cutting off {len(workers)} run process(es): their runs are tried again at the next start")
                # Killed, not terminated: a run that is told to end counts as failed for good, one
                # whose process died is tried again. The warehouse is safe either way.
                end(workers, patience=0)
            self._stop_programs([found.name for found in self.supervisor.processes() if found.name != "postgres"])
            # Postgres last, so that all others could say goodbye.
            pid = self.supervisor.shut_down()
            wait_until(lambda: str(pid) if is_alive(pid) else None, 120, "the supervisor does not end")
        self._end_leftovers(say)

    def _stop_programs(self, names: list[str]) -> None:
        running = [process for process in self.supervisor.processes() if process.name in names and process.pid]
        for process in running:
            self.supervisor.stop_program(process.name)

        def still_running() -> str | None:
            left = [process.name for process in running if is_alive(process.pid)]
            return ", ".join(left) or None

        wait_until(still_running, 90, "not every process stopped")

    def _end_leftovers(self, say: Say) -> None:
        """End what a supervisor that was killed could not stop, found by the mark every process carries."""
        left = marked(self.home)
        if left:
            say(f"ending {len(left)} process(es) that an earlier stop left behind")
            end(left, patience=20)
        # Of runs that were cut off while DuckDB had put something there.
        for spilled in self.home.spill.glob("duckdb*"):
            shutil.rmtree(spilled, ignore_errors=True)


def _digest(program: str, folder: Path) -> str:
    """Of a program, and of the files that it made as far as size and time tell."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return hashlib.sha256("\n".join([program, *listed]).encode()).hexdigest()


def sync(package: Path, say: Say) -> None:
    """Bring a package's environment to its lock, if it is not there."""
    if is_current(package):
        return
    try:
        make_environment(package, TOOLS, say)
    except EnvironmentFailedError as error:
        raise CodelocError(str(error)) from None


def marked(home: Home) -> list[psutil.Process]:
    """Every process that was started for the platform in `home`, other than this one's ancestors."""
    own = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(MARK) == str(home.path):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def run_workers(home: Home) -> list[psutil.Process]:
    """Processes that execute runs, and those that such a process started for its steps."""
    found = []
    for process in marked(home):
        with _gone_is_fine():
            command = " ".join(process.cmdline())
            if any(word in command for word in ("execute_run", "multiprocessing.spawn", "multiprocessing.forkserver")):
                found.append(process)
    return found


def end(processes: list[psutil.Process], patience: float) -> None:
    """End processes: SIGTERM, and SIGKILL for those still there after `patience` seconds (0: SIGKILL at once)."""
    if patience:
        for process in processes:
            with _gone_is_fine():
                process.terminate()
        with contextlib.suppress(CodelocError):
            wait_until(lambda: "alive" if any(is_alive(found.pid) for found in processes) else None, patience, "")
    for process in processes:
        with _gone_is_fine():
            process.kill()
    wait_until(
        lambda: "alive" if any(is_alive(found.pid) for found in processes) else None,
        20,
        "a process cannot be killed",
    )


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not collected by its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    with contextlib.suppress(psutil.NoSuchProcess):
        yield


def wait_until(problem: Callable[[], str | None], seconds: float, otherwise: str) -> None:
    """Ask `problem` until it returns None; an error with its last answer after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := problem()) is not None:
        if time.monotonic() > deadline:
            raise CodelocError(f"{otherwise} after {seconds:.0f} s: {found}")
        time.sleep(0.2)


def default_signals() -> None:
    """Undo what a shell may have set for a background job.

    Started with `&` from a script, SIGINT is ignored in this process and in all it starts, and
    Dagster's servers then ignore SIGTERM as well.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A terminal that closes, or a `kill`, stops a half-started platform as Ctrl-C does.
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _as_interrupt)


def _as_interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def whoami() -> str:
    """Who does something, for the history."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return "unknown"


def is_free(port: int) -> bool:
    """Whether nothing on this machine listens on the port."""
    # Connecting, not only binding: gRPC servers share a port without an error (SO_REUSEPORT).
    with socket.socket() as client:
        client.settimeout(1)
        if client.connect_ex(("127.0.0.1", port)) == 0:
            return False
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def taken_by(port: int) -> str:
    """Who listens on the port, to be put behind "taken"; empty where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        pass
    return ""
