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
from codeloc.home import ROOT, Home, exports, write_private

# sun_path of the smallest system this runs on, less the ending zero.
_LONGEST_SOCKET_PATH = 103
# Supervisor first binds `NAME.PID` and then renames it.
_SOCKET_SUFFIX = ".4194304"


@dataclass(frozen=True)
class Program:
    """A process of the platform.

    Attributes
    ----------
    stop_seconds
        How long it may take to end on SIGTERM before it is killed.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
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
        if len(os.fsencode(home.supervisor_socket)) > _LONGEST_SOCKET_PATH - len(_SOCKET_SUFFIX):
            longest = _LONGEST_SOCKET_PATH - len(_SOCKET_SUFFIX) - len("/supervisor.sock")
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
        for program in programs:
            write_private(_environment_file(self._home, program), exports(program.environment))
        write_private(self._home.supervisor_config, _config(self._home, programs))
        finished = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._home.supervisor_config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise CodelocError(f"the supervisor did not start:\n{finished.stderr.strip() or finished.stdout.strip()}")

    def processes(self) -> list[ProcessState]:
        """Every process and how it is."""
        infos: Any = self._rpc().getAllProcessInfo()
        return [ProcessState(i["name"], i["statename"], i["pid"], i["description"]) for i in infos]

    def start_program(self, name: str) -> None:
        """Start one program, without waiting for it."""
        self._rpc().startProcess(name, False)

    def require(self, names: list[str]) -> None:
        """See that none of the programs died as soon as it was started.

        Raises
        ------
        CodelocError
            One did; with the end of its log.
        """
        for process in self.processes():
            if process.name in names and process.state in ("BACKOFF", "FATAL", "EXITED"):
                raise CodelocError(f"{process.name} does not start; the end of its log:\n{self.log_end(process.name)}")

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

    def stop_program(self, name: str) -> None:
        """Stop one program and do not restart it, without waiting for it; nothing if it is not running."""
        try:
            self._rpc().stopProcess(name, False)
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
        """The last lines of a process's log."""
        try:
            text = log_file(self._home, name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

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
            command = ["/bin/sh", "-c", '. "$0" && exec "$@"', str(_environment_file(home, program)), *command]
        parts += [
            f"[program:{program.name}]",
            f"command={_plain(shlex.join(command))}",
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
    return home.path / "tmp" / f"{program.name}.env"
