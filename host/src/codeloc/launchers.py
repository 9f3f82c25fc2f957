"""How runs are started: each on the code that it was submitted with, in a process or container of its own.

Dagster's DefaultRunLauncher has the code server start runs: they die with it, are dropped while it is away, stand as
started for ever when both died, and cannot be canceled once it was replaced. It ships no launcher of processes that
outlive the server; this is one. Imported by webserver and daemon alone: locations never launch anything.
"""

import contextlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil
from dagster import DagsterInstance, DagsterRun, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_docker import DockerRunLauncher

from codeloc.errors import CodelocError
from codeloc.home import Home
from codeloc.releases import Release, current
from codeloc.serving import version_of
from codeloc.supervision import SOURCED

VERSION_TAG = "codeloc/version"
IMAGE_TAG = "codeloc/image_id"
# The process that a run is in: its pid, and when it began, since pids are used again.
PROCESS_TAG = "codeloc/process"

_LOG_LINES = 25
# As `python -m dagster`. None of what is imported is garbage, but by default Python looks for some after every 700
# objects, which takes a sixth of the CPU time of a run that does little.
_DAGSTER = (
    "import gc, runpy; gc.set_threshold(100_000); runpy.run_module('dagster', run_name='__main__', alter_sys=True)"
)


def _version(run: DagsterRun) -> str:
    """The version of the code that a run was submitted with."""
    origin = run.job_code_origin
    version = version_of(origin.repository_origin.container_image if origin else None)
    if version is None:
        raise CodelocError(f"run {run.run_id} does not say which version of its code it was submitted with")
    return version


class ProcessRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Starts each run as a process of its release, which outlives daemon, webserver and code server."""

    def __init__(self, home: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._home = Home(Path(home))
        self._inst_data = inst_data
        # Those that this process started, by run: its children, and somebody must ask how they ended.
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """How the instance was told of this class."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The platform's home folder."""
        return {"home": StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Made by the instance."""
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's process.

        Raises
        ------
        CodelocError
            There is no code of its location.
        """
        run, origin = context.dagster_run, context.job_code_origin
        location = run.remote_job_origin.location_name if run.remote_job_origin else ""
        version = self._version_there_is(run, location)
        release = Release(self._home, location, version)
        if origin is None:
            raise CodelocError(f"run {run.run_id} does not say where its code is")
        told = ExecuteRunArgs(origin, run.run_id, self._instance.get_ref(), set_exit_code_on_failure=True)
        words = told.get_command_args()
        command = [str(release.python), "-c", _DAGSTER, *words[words.index("api") :]]
        log = self._log(run.run_id)
        log.parent.mkdir(mode=0o700, exist_ok=True)
        self._collect()
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*SOURCED, str(self._home.settings_of(location)), *command],
                env=os.environ | release.variables,
                cwd=release.package,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # What ends the daemon's group, or a terminal's, is no business of the run.
                start_new_session=True,
            )
        self._children[run.run_id] = child
        began = psutil.Process(child.pid).create_time()
        tags = {PROCESS_TAG: f"{child.pid} {began}", VERSION_TAG: version}
        self._instance.add_run_tags(run.run_id, tags)
        self._instance.report_engine_event(f"Runs in process {child.pid}, on {version} of {location}.", run)

    def _version_there_is(self, run: DagsterRun, location: str) -> str:
        """The version that a run was submitted with; where that is gone, the one that serves."""
        version = _version(run)
        if Release(self._home, location, version).is_there:
            return version
        # Releases that runs need are kept. But a backup has no code: a run that waited when it was taken comes without.
        serving = current(self._home, location)
        if serving is None:
            raise CodelocError(f"{location} has no code here: ./codeloc deploy {location}, then run it again")
        message = f"The code that the run was submitted with, {version}, is not here. It runs on {serving}."
        self._instance.report_engine_event(message, run)
        return serving

    def terminate(self, run_id: str) -> bool:
        """Tell the run's process to end; False where there is none any more."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        process = self._process(run)
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            return True
        return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for it."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is there."""
        self._collect()
        if self._process(run) is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process is gone. {self.get_run_worker_debug_info(run)}")

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """The end of what the process itself printed."""
        try:
            lines = self._log(run.run_id).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return None
        return "\n".join(["The end of what it printed:", *lines[-_LOG_LINES:]])

    def _process(self, run: DagsterRun) -> psutil.Process | None:
        tag = run.tags.get(PROCESS_TAG)
        if tag is None:
            return None
        pid, began = tag.split()
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.create_time() == float(began) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _log(self, run_id: str) -> Path:
        return self._home.logs / "runs" / f"{run_id}.log"

    def _collect(self) -> None:
        """Let go of children that have ended; what one printed is of use only where it did not end well."""
        for run_id, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                # Runs are started by several threads: another one may have found it as well.
                self._children.pop(run_id, None)
            if code == 0:
                self._log(run_id).unlink(missing_ok=True)


class ContainerRunLauncher(DockerRunLauncher):
    """Dagster's launcher of containers, which says in the run's tags which version and image it runs."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's container."""
        super().launch_run(context)
        run = self._instance.get_run_by_id(context.dagster_run.run_id)
        container = self._get_container(run)  # type: ignore[no-untyped-call]
        image = {IMAGE_TAG: str(container.attrs["Image"])} if container else {}
        self._instance.add_run_tags(context.dagster_run.run_id, {VERSION_TAG: _version(context.dagster_run)} | image)
