"""The narrow way from the host processes to the Docker engine, whose socket is root on the machine.

Run as `python -m codeloc.gate`, beside the deployment's other services and without a network. It listens
on two Unix sockets and passes on what `dagster_docker.DockerRunLauncher` does, and nothing else: the
daemon launches runs and looks after them, the webserver stops those that it launched. When the whole
deployment is being stopped, the gate ends the runs, which Compose would leave.

A request to create a container says which image, which run and that it be removed at its end. All else is
the gate's: the container is a twin of its code location's service, as `docker compose` made that, with the
same volumes, network, user and confinement. Proxies of the engine that are configured rather than written
decide by method and path; whether a container is privileged or mounts the machine stands in the body.
"""

import asyncio
import json
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn
from docker.utils import parse_bytes
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from codeloc.labels import ONE_OFF, PROJECT, SERVICE, SOCKETS, repository
from codeloc.workspace import locations

logger = logging.getLogger("codeloc.gate")

ENGINE_SOCKET = "/var/run/docker.sock"
LAUNCH_SOCKET = Path("/run/launch/docker.sock")
STOP_SOCKET = Path("/run/stop/docker.sock")

# Ours, on runs. With Compose's they would count as their location's service, and `up` would wait for their health.
RUN_PROJECT = "codeloc.project"
RUN_LOCATION = "codeloc.location"
RUN_ID = "dagster/run_id"
JOB_NAME = "dagster/job_name"
# Of a location's service: the memory one of its runs may take, for example 4g, and where each has a disk volume of its
# own, which goes with it.
RUN_MEMORY = "codeloc.run.memory"
RUN_SCRATCH = "codeloc.run.scratch"

# Seconds a run has to clean up when it is canceled.
STOP_TIMEOUT = 30
# What a run's container has of its service's.
_CONFINEMENT = (
    "CapAdd",
    "CapDrop",
    "GroupAdd",
    "Init",
    "LogConfig",
    "NanoCpus",
    "NetworkMode",
    "PidsLimit",
    "ReadonlyRootfs",
    "SecurityOpt",
    "ShmSize",
)
_RUN_ID = re.compile("[0-9a-f-]{36}")
# The launcher never uses a name.
_CONTAINER_ID = re.compile("[0-9a-f]{64}")


class RefusedError(Exception):
    """A request that is not let through, with the reason."""


class _Asked(BaseModel):
    """Any part of a request; what it does not name may be absent or empty only."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_empty(cls, given: object) -> object:
        # The client names all fields there are, with nothing in most of them.
        return {name: value for name, value in given.items() if value} if isinstance(given, dict) else given


class AskedHostConfig(_Asked):
    """What a run's container may be, of what the engine would let it be on the machine."""

    AutoRemove: Literal[True]
    # The client's word for none; the network is the service's.
    NetworkMode: Literal["default"] = "default"


class AskedContainer(_Asked):
    """The body of the launcher's request to create a run's container."""

    Image: str = Field(pattern=r"^[a-z0-9][\w./:@-]*$")
    Cmd: list[str] = Field(min_length=4, max_length=4)
    Env: list[str] = []
    Labels: dict[str, str]
    HostConfig: AskedHostConfig

    @field_validator("Cmd")
    @classmethod
    def _executes_a_run(cls, command: list[str]) -> list[str]:
        if command[:3] not in (["dagster", "api", "execute_run"], ["dagster", "api", "resume_run"]):
            raise ValueError("the command must execute a run")
        return command

    @field_validator("Env")
    @classmethod
    def _names_the_job(cls, variables: list[str]) -> list[str]:
        if any(not variable.startswith("DAGSTER_RUN_JOB_NAME=") for variable in variables):
            raise ValueError("only DAGSTER_RUN_JOB_NAME may be set")
        return variables

    @field_validator("Labels")
    @classmethod
    def _names_the_run(cls, labels: dict[str, str]) -> dict[str, str]:
        if labels.keys() != {RUN_ID, JOB_NAME} or not _RUN_ID.fullmatch(labels[RUN_ID]):
            raise ValueError(f"must be {RUN_ID} and {JOB_NAME}")
        return labels


def twin(
    asked: AskedContainer, service: dict[str, Any], image_variables: list[str], image_id: str | None
) -> dict[str, Any]:
    """The body that the engine gets.

    Parameters
    ----------
    service
        The container of the location's service, as the engine describes it.
    image_variables
        What the service's image sets. The run's image, which may be another version, sets its own.
    image_id
        Of the run's image; None: the engine has no such image, and will say so.
    """
    config, host = service["Config"], service["HostConfig"]
    # Of its own version, not of the service's.
    own = {"DAGSTER_CURRENT_IMAGE": asked.Image} | ({"CODELOC_IMAGE": image_id} if image_id else {})
    kept = [
        variable
        for variable in config["Env"] or ()
        if variable not in image_variables and variable.split("=", 1)[0] not in own
    ]
    memory, scratch = parse_bytes(config["Labels"][RUN_MEMORY]), config["Labels"][RUN_SCRATCH]
    return {
        "Image": asked.Image,
        "Cmd": asked.Cmd,
        "Env": [*kept, *(f"{name}={value}" for name, value in own.items()), *asked.Env],
        "User": config["User"],
        "Labels": {
            **asked.Labels,
            RUN_PROJECT: config["Labels"][PROJECT],
            RUN_LOCATION: config["Labels"][SERVICE],
        },
        "StopTimeout": STOP_TIMEOUT,
        "Volumes": {scratch: {}},
        "HostConfig": {
            **{name: host.get(name) for name in _CONFINEMENT},
            "AutoRemove": True,
            # Not the sockets: a run could pass itself off as a server.
            "Binds": [
                f"{mount.get('Name') or mount['Source']}:{mount['Destination']}:{'rw' if mount['RW'] else 'ro'}"
                for mount in service["Mounts"]
                if mount["Type"] in ("volume", "bind") and mount["Destination"] != SOCKETS
            ],
            "Memory": memory,
            "MemorySwap": memory,
            "Tmpfs": {place: options for place, options in (host["Tmpfs"] or {}).items() if place != scratch},
        },
    }


class Engine:
    """The engine's API, as far as the gate uses it.

    Parameters
    ----------
    project
        The Compose project that is the deployment.
    """

    def __init__(self, socket: str, project: str) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://engine", timeout=120
        )
        self._project = project

    async def passed(self, request: Request, content: bytes = b"", **parameters: str) -> Response:
        """The engine's answer to a request that was found harmless."""
        answer = await self._client.request(
            request.method,
            request.scope["path"],
            params={**request.query_params, **parameters},
            content=content,
            headers={"Content-Type": "application/json"} if content else None,
        )
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("Content-Type"))

    async def service_of(self, image: str) -> tuple[dict[str, Any], list[str]]:
        """The container of the location that an image is of, and the variables which its image sets.

        Raises
        ------
        RefusedError
            The image is no location's, or the location is not up: then the deployment is being stopped.
        """
        wanted = repository(image)
        # During a deploy there are two: one of the very version, if there is one.
        running = sorted(await self._running_locations(), key=lambda found: bool(found["Config"]["Image"] != image))
        for found in running:
            labels = found["Config"]["Labels"]
            if repository(found["Config"]["Image"]) == wanted:
                if not labels.keys() >= {RUN_MEMORY, RUN_SCRATCH}:
                    raise RefusedError(f"service '{labels[SERVICE]}' in docker-compose.yml is not made with *location")
                made_from = (await self._ask(f"/images/{found['Image']}/json")).json()
                return found, made_from["Config"]["Env"] or []
        raise RefusedError(f"'{image}' is not the image of a code location that is up in the project '{self._project}'")

    async def image_id(self, image: str) -> str | None:
        """Which image a name stands for now; None: there is none."""
        found = await self._client.get(f"/images/{image}/json")
        if found.status_code == httpx.codes.NOT_FOUND:
            return None
        return str(found.raise_for_status().json()["Id"])

    async def end_runs_of_a_stopped_deployment(self) -> None:
        """End every run, if no location is up any more: then it is not the gate alone that is being stopped."""
        if await self._running_locations():
            return
        runs = await self._list([f"{RUN_PROJECT}={self._project}"])
        logger.info("the deployment is being stopped: ending %s runs, which will be tried again", len(runs))
        await asyncio.gather(*(self._end(run["Id"]) for run in runs))

    async def _end(self, container: str) -> None:
        removed = self._client.post(f"/containers/{container}/wait", params={"condition": "removed"})
        await asyncio.gather(removed, self._client.post(f"/containers/{container}/stop"))

    async def _running_locations(self) -> list[dict[str, Any]]:
        """The containers of the locations' services, as the engine describes them."""
        known = {location.name for location in locations()}
        listed = await self._list([f"{PROJECT}={self._project}", f"{ONE_OFF}=False"])
        ours = [container["Id"] for container in listed if container["Labels"][SERVICE] in known]
        described = [await self._client.get(f"/containers/{container}/json") for container in ours]
        # One that was replaced may be gone since it was listed.
        return [answer.raise_for_status().json() for answer in described if answer.status_code != httpx.codes.NOT_FOUND]

    async def _list(self, labels: list[str]) -> list[dict[str, Any]]:
        """The containers that run and have these labels."""
        filters = json.dumps({"label": labels, "status": ["running"]})
        found: list[dict[str, Any]] = (await self._ask("/containers/json", filters=filters)).json()
        return found

    async def require_run(self, container: str) -> None:
        """See that a container is a run of this deployment.

        Raises
        ------
        RefusedError
            It is another container.
        """
        found = await self._client.get(f"/containers/{container}/json")
        # The engine says itself that there is none.
        if found.status_code == httpx.codes.NOT_FOUND:
            return
        labels = found.raise_for_status().json()["Config"]["Labels"]
        if labels.get(RUN_PROJECT) != self._project:
            raise RefusedError(f"container {container[:12]} is not a run of the project '{self._project}'")

    async def _ask(self, path: str, **parameters: str) -> httpx.Response:
        return (await self._client.get(path, params=parameters)).raise_for_status()


def gate(engine: Engine, *, launches: bool) -> Starlette:
    """What listens on one socket.

    Parameters
    ----------
    launches
        Whether runs can be started through it; otherwise they can be looked at and stopped.
    """

    async def harmless(request: Request) -> Response:
        return await engine.passed(request)

    async def of_a_run(request: Request) -> Response:
        container = request.path_params["container"]
        if not _CONTAINER_ID.fullmatch(container):
            raise RefusedError("a run's container is named by its id")
        await engine.require_run(container)
        return await engine.passed(request)

    async def create(request: Request) -> Response:
        if request.query_params:
            raise RefusedError(f"a run's container is created without {', '.join(request.query_params)}")
        asked = AskedContainer.model_validate_json(await request.body())
        service, image_variables = await engine.service_of(asked.Image)
        body = twin(asked, service, image_variables, await engine.image_id(asked.Image))
        # As Compose names what it makes. A run that is resumed may meet its first container.
        labels, part = body["Labels"], secrets.token_hex(2)
        name = f"{labels[RUN_PROJECT]}-{labels[RUN_LOCATION]}-run-{labels[RUN_ID][:8]}-{part}"
        logger.info("%s for run %s, of %s", name, labels[RUN_ID], asked.Image)
        return await engine.passed(request, json.dumps(body).encode(), name=name)

    async def pull(request: Request) -> Response:
        image = ":".join(request.query_params.getlist("fromImage") + request.query_params.getlist("tag"))
        raise RefusedError(f"there is no image '{image}' on this machine: docker compose build, or docker compose pull")

    async def refuse(_request: Request) -> Response:
        raise RefusedError("this is no part of what a run needs")

    async def refused(request: Request, error: Exception) -> Response:
        reason = (
            "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False)
            )
            if isinstance(error, ValidationError)
            else str(error)
        )
        path = request.scope["path"]
        logger.warning("refused %s %s: %s", request.method, path, reason)
        return JSONResponse({"message": f"codeloc's gate refuses {request.method} {path}: {reason}"}, 403)

    async def unreachable(_request: Request, error: Exception) -> Response:
        logger.error("the engine does not answer: %s", error)
        return JSONResponse({"message": f"the Docker engine does not answer at {ENGINE_SOCKET}: {error}"}, 502)

    routes = [
        Route("/_ping", harmless),
        Route("/version", harmless),
        Route("/containers/{container:str}/json", of_a_run),
        Route("/containers/{container:str}/stop", of_a_run, methods=["POST"]),
    ]
    if launches:
        routes += [
            Route("/containers/create", create, methods=["POST"]),
            Route("/containers/{container:str}/start", of_a_run, methods=["POST"]),
            Route("/images/create", pull, methods=["POST"]),
        ]
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
    everything_else = Route("/{path:path}", refuse, methods=methods)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        if launches:
            await engine.end_runs_of_a_stopped_deployment()

    return Starlette(
        lifespan=lifespan,
        routes=[Mount("/v{version:float}", routes=[*routes, everything_else]), *routes, everything_else],
        exception_handlers={RefusedError: refused, ValidationError: refused, httpx.HTTPError: unreachable},
    )


async def serve() -> None:
    """Listen until told to stop."""
    engine = Engine(ENGINE_SOCKET, os.environ["COMPOSE_PROJECT_NAME"])
    servers = []
    for socket, launches in ((LAUNCH_SOCKET, True), (STOP_SOCKET, False)):
        # Who may connect is who mounts the volume that it lies in.
        app = gate(engine, launches=launches)
        servers.append(uvicorn.Server(uvicorn.Config(app, uds=str(socket), log_level="warning", lifespan="on")))
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logger.setLevel(logging.INFO)
    asyncio.run(serve())
