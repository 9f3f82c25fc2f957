"""Releases of a location in containers: images, and servers of them beside each other behind one link.

Everything is done by `docker` and `docker compose` in the repository's root, as a person would do it there. What serves
is what the link in the location's volume names (`taxi_shared.server`): all else is derived from it, so that a command
that was interrupted anywhere is finished, or undone, by the next one.
"""

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codeloc.commands import Command
from codeloc.errors import CandidateError, CodelocError
from codeloc.home import ROOT, write_whole
from codeloc.labels import ONE_OFF, PROJECT, SERVICE, SOCKETS, repository
from codeloc.serving import daemon_key, version_of

if TYPE_CHECKING:
    from codeloc.sources import Source
    from codeloc.targets import Say
    from codeloc.workspace import Location

# Those that talk to the locations, and where they find the links.
_HOSTS = ("webserver", "viewer", "daemon")
_HOST_LINKS = "/app/run"

# Seconds. A server that is asked to end answers what it was asked before; a sensor may take a minute. It is asked once
# nobody is connected to it any more, or after a while.
_STOP_TIMEOUT = 65
_DRAIN_TIMEOUT = 30
# What starting and ending a container may take besides what runs in it.
_ENGINE_TIMEOUT = 60
_LOOK_SECONDS = 0.3
_LINES_OF_LOG = 25

# The arguments are a server's socket, and what the others say to each other stays as it was.
_TURN_LINK = f"""
cd {SOCKETS} || exit 1
before=$(readlink current)
ln -sfn "$0" ".$0" && mv -fT ".$0" current || exit 1
rm -f "reserve.$0"
[ -z "$before" ] || [ "$before" = "$0" ] || : > "reserve.$before"
"""
_TIDY_UP = f"""
cd {SOCKETS} || exit 1
for file in * .[!.]*; do
  case " $0 " in *" $file "*) ;; *) rm -f "$file" ;; esac
done
"""
# Connections that are open: the kernel lists those that were accepted under the path that is listened on.
_WAIT_UNTIL_ALONE = f"""
last=$(($(date +%s) + {_DRAIN_TIMEOUT}))
while [ "$(date +%s)" -lt "$last" ]; do
  grep -q " 03 *[0-9]* {SOCKETS}/$0$" /proc/net/unix || exit 0
  sleep 0.2
done
"""
_ASK_WEBSERVERS = """
import json, sys, urllib.request
query = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus displayMetadata { key value }" \\
    " locationOrLoadError { __typename } } } } }"
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
answers = {}
for host in sys.argv[1:]:
    asked = urllib.request.Request(
        f"http://{host}:3000/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with opener.open(asked, timeout=10) as answer:
            answers[host] = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    except Exception as error:
        answers[host] = []
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Server:
    """A code server of a location: a container of its service, whatever its state.

    Attributes
    ----------
    state
        As the engine says it, for example running, restarting, exited; with what its health check says.
    current
        Whether the link names it.
    alive
        Whether it runs, and never ended since it was started.
    """

    version: str
    container: str
    state: str
    current: bool
    alive: bool
    healthy: bool
    socket: str
    created: str

    @property
    def running(self) -> bool:
        """Whether something can be run in it."""
        return self.state.startswith("running")


class ComposeReleases:
    """The releases of the platform in containers, as `docker compose` in the repository's root knows it."""

    name = "compose"

    def __init__(self) -> None:
        if shutil.which("docker") is None:
            raise CodelocError("there is no `docker` on PATH: --compose is for the platform in containers")
        self._docker = Command(["docker"], folder=ROOT)
        self._compose = Command(["docker", "compose"], folder=ROOT)
        self.psql = self._compose.with_words("exec", "-T", "postgres", "psql", "-U", "postgres")

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is held: Compose itself starts and stops the platform."""
        return contextlib.nullcontext()

    # -- what there is ----------------------------------------------------------------------------

    def current(self, location: str) -> str | None:
        """The version that the link names; None: no server of that name is there."""
        return next((server.version for server in self.servers(location) if server.current), None)

    def servers(self, location: str) -> list[Server]:
        """Every code server of a location, the newest first; more than one during a deploy, or after half of one."""
        containers = self._containers(location)
        link = self._link(location, containers)
        found = [_server(container, link) for container in containers]
        return sorted(found, key=lambda server: server.created, reverse=True)

    def known(self, location: str) -> list[str]:
        """The versions there are images of, those that were made last first."""
        name = self._repository(location)
        listed = self._docker.with_words("image", "ls", "--format", "{{.Tag}}", name).run().split()
        tags = [tag for tag in listed if tag != "<none>"]
        if not tags:
            return []
        described = json.loads(self._docker.with_words("image", "inspect", *(f"{name}:{tag}" for tag in tags)).run())
        # In the order of the names that were asked for.
        tagged = {tag: image["Metadata"]["LastTagTime"] for tag, image in zip(tags, described, strict=True)}
        return sorted(tags, key=lambda tag: str(tagged[tag]), reverse=True)

    def served(self, location: str) -> dict[str, str | None]:
        """The version that each of those who talk to the location has loaded now; None: in error, or not up."""
        found: dict[str, str | None] = dict.fromkeys(_HOSTS)
        # Nobody has to have one: it is left out where there is none.
        running = self._compose.with_words("ps", "--status", "running", "--services").run().split()
        if "viewer" not in running:
            del found["viewer"]
        if "webserver" in running:
            asked = [host for host in ("webserver", "viewer") if host in running]
            ask = self._compose.with_words("exec", "-T", "webserver", "python", "-c", _ASK_WEBSERVERS, *asked)
            # What ends just now has nothing loaded: it is asked again.
            with contextlib.suppress(CodelocError):
                for host, entries in json.loads(ask.run()).items():
                    found[host] = next((_loaded(entry) for entry in entries if entry["name"] == location), None)
        if "daemon" in running:
            query = f"SELECT value FROM kvs WHERE key = '{daemon_key(location)}'"
            with contextlib.suppress(CodelocError):
                found["daemon"] = self.psql.with_words("-d", "dagster", "-At", "-c", query).run().strip() or None
        return found

    # -- what a deploy does -----------------------------------------------------------------------

    def admit(self, location: "Location", say: "Say") -> None:
        """Have webserver, daemon and gate know a location that came into workspace.yaml and docker-compose.yml."""
        self._repository(location.name)
        mounted = {mount["Destination"] for container in self._containers("daemon") for mount in container["Mounts"]}
        if f"{_HOST_LINKS}/{location.name}" not in mounted:
            say(f"starting webserver, daemon and gate anew, which do not know {location.name} yet")
            self._renew_hosts()

    def dismiss(self, location: "Location") -> None:
        """Have the platform forget a location that was taken out: its servers and images go, its data stays."""
        servers = self._containers(location.name)
        images = {container["Config"]["Image"] for container in servers}
        self._renew_hosts()
        self._remove(location.name, [_server(container, None) for container in servers], seconds=_STOP_TIMEOUT)
        for name in {repository(image) for image in images}:
            for image in (
                self._docker.with_words("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", name).run().split()
            ):
                # One that a container is of stays.
                with contextlib.suppress(CodelocError):
                    self._docker.with_words("image", "rm", image).run()

    def build(self, location: "Location", source: "Source", say: "Say") -> str:
        """Build the image of the working tree, unless there is one of the same sources.

        Returns
        -------
        str
            Its version, which is its tag.
        """
        digest = source.version.rpartition("-")[2]
        for version in self.known(location.name):
            if version.endswith(f"-{digest}"):
                return version
        say(f"building {self._repository(location.name)}:{source.version}")
        told = {_tag_variable(location.name): source.version, "REVISION": source.commit or "unknown"}
        self._with(told).with_words("build", location.name).run()
        return source.version

    def describe(self, location: "Location", version: str, seconds: float) -> dict[str, Any]:
        """The definitions of a version, loaded in a container of its image; the same image says the same.

        Raises
        ------
        CandidateError
            They do not load, or not in time.
        """
        self._require_image(location.name, version)
        kept = self._description(location.name, version)
        if kept.exists():
            known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            return known
        # The bound is within the container: it holds too where this process is killed.
        bounded = ["timeout", "--kill-after=5", f"{seconds:g}", "python", "-m", "taxi_shared.description"]
        once = self._of(location.name, version).with_words("run", "--rm", "--no-deps", "-T", location.name, *bounded)
        try:
            done = subprocess.run(
                [*once.words, location.name],
                cwd=ROOT,
                env=os.environ | once.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds + _ENGINE_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CodelocError(f"the Docker engine did not run a container of {location.name} in time") from None
        # 124 when it ended at once, 137 when it had to be killed.
        if done.returncode in (124, 137):
            raise CandidateError(f"{location.name} {version} did not load within {seconds:g} s")
        if done.returncode != 0:
            raise CandidateError(f"{location.name} {version} does not load:\n{_end(done.stderr)}")
        described: dict[str, Any] = json.loads(done.stdout)
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(kept, done.stdout)
        return described

    def begin(self, location: "Location", version: str) -> None:
        """Nothing: see `codeloc.deploying.Releases`."""

    def start(self, location: "Location", version: str, seconds: float) -> None:
        """Start a server of a version beside the one that serves, and wait until it is well.

        The container's own start and its health check take time too: they have a minute more.

        Raises
        ------
        CandidateError
            It ended, or was not well in time; it is gone then.
        """
        name = location.name
        self._require_unset(name)
        self._require_image(name, version)
        before = self.servers(name)
        if any(server.current for server in before):
            # Of a deploy that did not come to its end.
            self._remove(name, [server for server in before if not server.current], seconds=0)
            before = [server for server in before if server.current]
        # Not `up --no-deps`: what Compose leaves out counts as a change at its next `up`, which would make it anew.
        words = ["create", "--no-recreate", "--no-build", "--scale", f"{name}={len(before) + 1}", name]
        known = {server.container for server in before}
        try:
            self._of(name, version).with_words(*words).run()
            made = [server for server in self.servers(name) if server.container not in known]
            if not made:
                raise CodelocError(f"`docker compose create` made no container of {name}: see docker compose ps -a")
            self._put_in_reserve(name, made[0].socket)
            self._docker.with_words("start", made[0].container).run()
            self._wait_until_well(name, made[0], seconds + _ENGINE_TIMEOUT)
        except BaseException:
            with contextlib.suppress(CodelocError):
                left = [server for server in self.servers(name) if server.container not in known]
                self._remove(name, left, seconds=0)
            raise

    def require_alive(self, location: "Location", version: str) -> None:
        """See that the server of a version, once started, is still the same process, and well.

        Raises
        ------
        CandidateError
            It ended, even if it was started again.
        """
        server = self._newest(location.name, version)
        if not server.alive or not server.healthy:
            raise CandidateError(
                f"the server of {location.name} {version} did not stay up ({server.state}). It said last:\n"
                f"{self._said(server)}"
            )

    def switch(self, location: "Location", version: str) -> None:
        """Have the link name the server of a version, at once and whole."""
        server = self._newest(location.name, version)
        if not server.running:
            raise CandidateError(f"the server of {location.name} {version} is not up ({server.state})")
        self._in(server, _TURN_LINK, server.socket)

    def settle(self, location: "Location") -> None:
        """Remember what the link names for the next start, and end every other server; safe to repeat."""
        name = location.name
        found = self.servers(name)
        current = next((server for server in found if server.current), None)
        if current is None or not current.running:
            return
        if self._image(name) != f"{self._repository(name)}:{current.version}":
            self._require_unset(name)
            _set(_settings_file(), _tag_variable(name), current.version)
        others = [server for server in found if not server.current]
        for server in others:
            if server.running:
                # An end of its own accord meanwhile is as good.
                with contextlib.suppress(CodelocError):
                    self._in(server, _WAIT_UNTIL_ALONE, server.socket)
        self._remove(name, others, seconds=_STOP_TIMEOUT)
        self._in(current, _TIDY_UP, f"current {current.socket}")

    def prune(self, location: "Location", keep: set[str]) -> list[str]:
        """Remove the images of other versions than these, the current one and those of containers; returns them."""
        name = self._repository(location.name)
        kept = keep | {server.version for server in self.servers(location.name)}
        removed = []
        for version in self.known(location.name):
            if version not in kept:
                # The engine refuses where a container is of it: the next time, then.
                with contextlib.suppress(CodelocError):
                    description = self._description(location.name, version)
                    self._docker.with_words("image", "rm", f"{name}:{version}").run()
                    description.unlink(missing_ok=True)
                    removed.append(version)
        return removed

    # -- containers -------------------------------------------------------------------------------

    def _containers(self, location: str) -> list[dict[str, Any]]:
        labels = {PROJECT: self._project, SERVICE: location, ONE_OFF: "False"}
        filters = [word for label, value in labels.items() for word in ("--filter", f"label={label}={value}")]
        listed = self._docker.with_words("ps", "--all", "--quiet", "--no-trunc", *filters).run().split()
        if not listed:
            return []
        # It fails where one is gone since it was listed, and describes the others.
        asked = subprocess.run(["docker", "inspect", *listed], capture_output=True, text=True, check=False)
        found: list[dict[str, Any]] = json.loads(asked.stdout or "[]")
        return found

    def _link(self, location: str, servers: list[dict[str, Any]]) -> str | None:
        """The server that the link names; None: there is no link, or nothing is up that could look."""
        looks = [(container, f"{SOCKETS}/current") for container in servers]
        if not any(_runs(container) for container in servers):
            looks = [
                (container, f"{_HOST_LINKS}/{location}/current")
                for host in _HOSTS
                for container in self._containers(host)
            ]
        for container, link in looks:
            if _runs(container):
                with contextlib.suppress(CodelocError):
                    return self._docker.with_words("exec", container["Id"], "readlink", link).run().strip()
        return None

    def _newest(self, location: str, version: str) -> Server:
        found = [server for server in self.servers(location) if server.version == version]
        if not found:
            raise CandidateError(f"there is no server of {location} {version} any more")
        return found[0]

    def _put_in_reserve(self, location: str, socket: str) -> None:
        # Where none is up, the first that is serves.
        running = next((server for server in self.servers(location) if server.running), None)
        if running is not None:
            self._in(running, f': > "{SOCKETS}/reserve.$0"', socket)

    def _wait_until_well(self, location: str, server: Server, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            now = next((found for found in self.servers(location) if found.container == server.container), None)
            if now is None or not now.alive:
                raise CandidateError(
                    f"the server of {location} {server.version} ended while it started. It said last:\n"
                    f"{self._said(server)}"
                )
            if now.healthy:
                return
            if time.monotonic() > deadline:
                raise CandidateError(
                    f"the server of {location} {server.version} was not well within {seconds:g} s. It said last:\n"
                    f"{self._said(server)}"
                )
            time.sleep(_LOOK_SECONDS)

    def _said(self, server: Server) -> str:
        words = ["docker", "logs", "--tail", str(_LINES_OF_LOG), server.container]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return _end(done.stdout)

    def _remove(self, location: str, servers: list[Server], seconds: int) -> None:
        if not servers:
            return
        ids = [server.container for server in servers]
        running = [server.container for server in servers if server.running]
        if running:
            self._docker.with_words("stop", "--time", str(seconds), *running).run()
        self._docker.with_words("rm", "--force", *ids).run()
        left = next((server for server in self.servers(location) if server.running), None)
        if left is not None:
            for server in servers:
                self._in(left, f'rm -f "{SOCKETS}/reserve.$0" "{SOCKETS}/$0"', server.socket)

    def _in(self, server: Server, script: str, argument: str) -> None:
        self._docker.with_words("exec", server.container, "/bin/sh", "-c", script, argument).run()

    def _renew_hosts(self) -> None:
        self.__dict__.pop("_configuration", None)
        self._compose.with_words("build", "init").run()
        self._compose.with_words("up", "--detach", "--wait", "--no-build", "gate", *_HOSTS).run()

    # -- images and settings ----------------------------------------------------------------------

    @property
    def _project(self) -> str:
        return str(self._configuration["name"])

    @cached_property
    def _configuration(self) -> dict[str, Any]:
        return self._configured()

    def _configured(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._compose.with_words("config", "--format", "json").run())
        return found

    def _repository(self, location: str) -> str:
        service = self._configuration["services"].get(location)
        if service is None:
            raise CodelocError(f"{ROOT / 'docker-compose.yml'} has no service '{location}'")
        return repository(str(service["image"]))

    def _image(self, location: str) -> str:
        """The image of a location's next start."""
        return str(self._configured()["services"][location]["image"])

    def _description(self, location: str, version: str) -> Path:
        """Where the definitions of an image are written down: loading them takes seconds."""
        image = f"{self._repository(location)}:{version}"
        identity = self._docker.with_words("image", "inspect", "--format", "{{.Id}}", image).run().strip()
        return ROOT / "var" / "descriptions" / f"{location}-{identity.rpartition(':')[2][:16]}.json"

    def _of(self, location: str, version: str) -> Command:
        """`docker compose` with a location at a version."""
        return self._with({_tag_variable(location): version})

    def _with(self, variables: dict[str, str]) -> Command:
        return Command(self._compose.words, self._compose.environment | variables, self._compose.folder)

    def _require_image(self, location: str, version: str) -> None:
        # Otherwise Compose builds the working tree under this name.
        if version not in self.known(location):
            raise CodelocError(
                f"there is no image {self._repository(location)}:{version} any more:"
                f" ./codeloc deploy {location} --compose"
            )

    def _require_unset(self, location: str) -> None:
        variable = _tag_variable(location)
        if os.environ.get(variable):
            raise CodelocError(
                f"{variable} is set in the environment and wins over {_settings_file()}, which remembers what was"
                f" deployed: unset {variable}"
            )


def _server(container: dict[str, Any], link: str | None) -> Server:
    state, config = container["State"], container["Config"]
    version = config["Image"].rpartition(":")[2]
    # As `taxi_shared.server` names it.
    socket = f"{version}.{config['Hostname']}"
    health = state.get("Health", {}).get("Status", "")
    return Server(
        version=version,
        container=container["Id"][:12],
        state=" ".join(filter(None, (state["Status"], health and f"({health})"))),
        current=socket == link,
        alive=state["Status"] == "running" and container["RestartCount"] == 0,
        healthy=health == "healthy",
        socket=socket,
        created=container["Created"],
    )


def _runs(container: dict[str, Any]) -> bool:
    return bool(container["State"]["Status"] == "running")


def _loaded(entry: dict[str, Any]) -> str | None:
    """The version that a webserver shows of a location."""
    found = entry["locationOrLoadError"] or {}
    if entry["loadStatus"] != "LOADED" or found.get("__typename") != "RepositoryLocation":
        return None
    shown = {line["key"]: line["value"] for line in entry["displayMetadata"]}
    return version_of(shown.get("image"))


def _tag_variable(location: str) -> str:
    """What docker-compose.yml takes the tag of a location's image from."""
    return f"{location.upper()}_TAG"


def _settings_file() -> Path:
    """The file that Compose reads its settings from; of several, the one that wins."""
    named = os.environ.get("COMPOSE_ENV_FILES")
    return (ROOT / named.split(",")[-1].strip() if named else ROOT / ".env").resolve()


def _set(file: Path, variable: str, value: str) -> None:
    """Set a variable in a file of settings, whole or not at all; all else, and who may read it, stays."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    line, assignment = f"{variable}={value}", re.compile(rf"^[ \t]*(export[ \t]+)?{variable}[ \t]*=.*$", re.MULTILINE)
    text = text if text.endswith("\n") or not text else f"{text}\n"
    changed = assignment.sub(line, text) if assignment.search(text) else f"{text}{line}\n"
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o600
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as opened:
        opened.write(changed)
        opened.flush()
        os.fsync(opened.fileno())
    draft.chmod(mode)
    if file.exists():
        with contextlib.suppress(PermissionError):
            os.chown(draft, file.stat().st_uid, file.stat().st_gid)
    draft.replace(file)


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_LINES_OF_LOG:]) or "(nothing)"
