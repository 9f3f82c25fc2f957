"""The processes, under supervisord: restarted when they die, stopped together, one log each.

Supervisor was chosen over circus and honcho: it is the most used and longest kept, signals a
process rather than its group (a signal to the group would fail the runs a code server started),
and needs no further library.
"""

import os
import shlex
import socket
import subprocess
import sys
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeloc.errors import CodelocError
from codeloc.home import ROOT, Home, exports, write_private, write_whole

# sun_path of the smallest system this runs on, less the ending zero.
LONGEST_SOCKET_PATH = 103
# Supervisor first binds `NAME.PID` and then renames it.
_SOCKET_SUFFIX = ".4194304"
# In a traceback, below the one that says why; and in a line that Dagster logs.
_CAUSE_ABOVE = "The above exception was the direct cause of the following exception:"
_LOGGED = " - dagster"
_STARTING = "Starting Dagster code server"
# A command after this and a file to source.
SOURCED = ("/bin/sh", "-c", '. "$0" && exec "$@"')


@dataclass(frozen=True)
class Program:
    """A process of the platform.

    Attributes
    ----------
    folder
        Where it runs.
    stop_seconds
        How long it may take to end on SIGTERM before it is killed.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    stop_seconds: int = 15
    stop_signal: str = "TERM"
    user: str | None = None


@dataclass(frozen=True)
class ProcessState:
    """What the supervisor says of a process; `state` is one of its words: RUNNING, BACKOFF, FATAL ..."""

    name: str
    state: str
    pid: int
    description: str


class Supervisor:
    """The supervisor of one platform, running or not."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._started: dict[str, int] = {}
        if len(os.fsencode(home.supervisor_socket)) > LONGEST_SOCKET_PATH - len(_SOCKET_SUFFIX):
            longest = LONGEST_SOCKET_PATH - len(_SOCKET_SUFFIX) - len("/supervisor.sock")
            raise CodelocError(
                f"{home.path} is too long a path for a socket in it: choose a shorter one with --home, at most"
                f" {longest} characters"
            )
        for path in (home.path, ROOT):
            if " #" in str(path) or " ;" in str(path):
                raise CodelocError(f"{path}: the supervisor cannot work in a folder with ' #' or ' ;' in its path")

    def is_running(self) -> bool:
        """Whether it answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(str(self._home.supervisor_socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

    def start(self, programs: list[Program], environment: dict[str, str]) -> None:
        """Start the supervisor with none of the programs started yet.

        Parameters
        ----------
        environment
            What every program inherits; each adds its own.
        """
        self._write(programs)
        finished = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._home.supervisor_config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            # Until it is a daemon, a terminal's Ctrl-C would reach it too: it would end while it is told to.
            start_new_session=True,
        )
        if finished.returncode != 0:
            raise CodelocError(f"the supervisor did not start:\n{finished.stderr.strip() or finished.stdout.strip()}")

    def change(self, programs: list[Program]) -> None:
        """Have these programs and no others, as `start` does; those that stay are not touched."""
        self._write(programs)
        rpc = self._rpc()
        ((added, _changed, removed),) = rpc.reloadConfig()
        for name in removed:
            self.stop_program(name, wait=True)
            rpc.removeProcessGroup(name)
        for name in added:
            rpc.addProcessGroup(name)

    def processes(self) -> list[ProcessState]:
        """Every process and how it is."""
        infos: Any = self._rpc().getAllProcessInfo()
        return [ProcessState(i["name"], i["statename"], i["pid"], i["description"]) for i in infos]

    def start_program(self, name: str) -> None:
        """Start one program, without waiting for it; nothing if it is running."""
        rpc = self._rpc()
        try:
            rpc.startProcess(name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise
        info: Any = rpc.getProcessInfo(name)
        self._started[name] = info["pid"]

    def ended(self, names: list[str]) -> str | None:
        """The first of the programs that is no longer the process that `start_program` left.

        Its state alone does not tell: one that lasts for more than `startsecs` is started again in the moment it ends.
        """
        for process in self.processes():
            if process.name in names:
                replaced = process.pid != self._started.get(process.name, process.pid)
                if replaced or process.state in ("BACKOFF", "FATAL", "EXITED"):
                    return process.name
        return None

    def require(self, names: list[str]) -> None:
        """See that none of the programs died since it was started.

        Raises
        ------
        CodelocError
            One did; with the end of its log.
        """
        if ended := self.ended(names):
            raise CodelocError(f"{ended} does not start; the end of its log:\n{self.log_end(ended)}")

    def require_all(self) -> None:
        """See that every program runs or is being restarted.

        Raises
        ------
        CodelocError
            One was given up, or the supervisor itself is gone.
        """
        if not self.is_running():
            raise CodelocError("the platform was stopped meanwhile")
        for process in self.processes():
            if process.state == "FATAL":
                raise CodelocError(
                    f"{process.name} does not stay up; the end of its log:\n{self.log_end(process.name)}"
                )

    def stop_program(self, name: str, *, wait: bool = False) -> None:
        """Stop one program and do not restart it; nothing if it is not running."""
        try:
            self._rpc().stopProcess(name, wait)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise

    def shut_down(self) -> int:
        """Ask the supervisor to stop whatever still runs and end; returns its pid."""
        rpc = self._rpc()
        pid: Any = rpc.getPID()
        rpc.shutdown()
        return int(pid)

    def log_end(self, name: str, lines: int = 25) -> str:
        """The last lines of a process's log; where it ended with an exception that has a cause, those of the cause."""
        try:
            text = log_file(self._home, name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "(no log)"
        found = text.splitlines()
        while found and _STARTING in found[-1]:
            # Of the process that the supervisor has put in its place.
            found.pop()
        # What Dagster makes of an error in a location's code comes after it, with more lines than are shown.
        cause = max((number for number, line in enumerate(found) if line == _CAUSE_ABOVE), default=0)
        if cause and not any(_LOGGED in line for line in found[cause:]):
            return "\n".join([*found[max(0, cause - lines) : cause + 1], *found[cause + 1 :][-3:]])
        return "\n".join(found[-lines:])

    def _write(self, programs: list[Program]) -> None:
        for program in programs:
            write_private(_environment_file(self._home, program), exports(program.environment))
        write_whole(self._home.supervisor_config, _config(self._home, programs))
        needed = {_environment_file(self._home, program) for program in programs}
        for file in (self._home.path / "tmp").glob(_environment_name("*")):
            if file not in needed:
                file.unlink()

    def _rpc(self) -> Any:  # noqa: ANN401  (the proxy makes its methods up)
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._home.supervisor_socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor


def log_file(home: Home, name: str) -> Path:
    """The log of one process."""
    return home.logs / f"{name}.log"


def _config(home: Home, programs: list[Program]) -> str:
    user = "user=root\n" if os.geteuid() == 0 else ""
    parts = [
        "[unix_http_server]",
        f"file={_plain(str(home.supervisor_socket))}",
        "chmod=0700",
        "[supervisord]",
        f"logfile={_plain(str(home.logs / 'supervisor.log'))}",
        f"pidfile={_plain(str(home.path / 'supervisor.pid'))}",
        f"childlogdir={_plain(str(home.logs))}",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        user,
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        # For whoever wants to stop one process by hand: supervisorctl -c var/supervisor.conf
        "[supervisorctl]",
        f"serverurl=unix://{_plain(str(home.supervisor_socket))}",
    ]
    for program in programs:
        command = program.command
        if program.environment:
            # Not the supervisor's own `environment=`: it takes quotes off both ends of a value.
            command = [*SOURCED, str(_environment_file(home, program)), *command]
        parts += [
            f"[program:{program.name}]",
            f"command={_plain(shlex.join(command))}",
            f"directory={_plain(str(program.folder))}",
            # Supervisor expands this one twice.
            f"stdout_logfile={_plain(_plain(str(log_file(home, program.name))))}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
            "redirect_stderr=true",
            "autostart=false",
            "autorestart=true",
            "startsecs=1",
            "startretries=20",
            f"stopsignal={program.stop_signal}",
            f"stopwaitsecs={program.stop_seconds}",
            f"user={program.user}" if program.user else "",
        ]
    return "\n".join(parts) + "\n"


def _plain(value: str) -> str:
    return value.replace("%", "%%")


def _environment_file(home: Home, program: Program) -> Path:
    return home.path / "tmp" / _environment_name(program.name)


def _environment_name(program: str) -> str:
    return f"{program}.program.env"
