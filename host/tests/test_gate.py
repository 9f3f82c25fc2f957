"""What the gate makes of the requests that Docker's own client sends; on a real engine it is tested in tests/."""

import json
from typing import Any

import pytest
from codeloc.gate import AskedContainer, twin
from codeloc.labels import repository
from docker.models import containers
from docker.types import ContainerConfig
from pydantic import ValidationError

RUN = "0f5f2a3e-6a39-4d62-9d51-0b8a4d3f9a11"
LAUNCHED: dict[str, Any] = {
    "image": "taxi-ingestion:dev",
    "command": ["dagster", "api", "execute_run", "{}"],
    "detach": True,
    "environment": {"DAGSTER_RUN_JOB_NAME": "trip_update_job"},
    "network": None,
    "labels": {"dagster/run_id": RUN, "dagster/job_name": "trip_update_job"},
    "auto_remove": True,
}


def body(**asked: object) -> str:
    """What the client sends when the launcher, or somebody else, asks it to create a container."""
    # What its `containers.create` does before it sends something.
    arguments = containers._create_container_args({**LAUNCHED, **asked, "version": "1.45"})  # type: ignore[attr-defined]
    arguments.pop("name", None)
    arguments.pop("platform", None)
    return json.dumps(ContainerConfig("1.45", **arguments))


def test_what_the_launcher_asks_for_is_understood() -> None:
    asked = AskedContainer.model_validate_json(body())
    assert (asked.Image, asked.Cmd[-1]) == ("taxi-ingestion:dev", "{}")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"privileged": True}, "HostConfig.Privileged"),
        ({"volumes": ["/:/machine"]}, "HostConfig.Binds"),
        ({"volumes": ["taxi_lake-analytics:/data/lakes/analytics"]}, "HostConfig.Binds"),
        ({"mounts": [{"Type": "bind", "Source": "/", "Target": "/machine"}]}, "HostConfig.Mounts"),
        ({"volumes_from": ["taxi-gate-1"]}, "HostConfig.VolumesFrom"),
        ({"network_mode": "host"}, "HostConfig.NetworkMode"),
        ({"network_mode": "container:taxi-postgres-1"}, "HostConfig.NetworkMode"),
        ({"pid_mode": "host"}, "HostConfig.PidMode"),
        ({"ipc_mode": "host"}, "HostConfig.IpcMode"),
        ({"userns_mode": "host"}, "HostConfig.UsernsMode"),
        ({"cap_add": ["SYS_ADMIN"]}, "HostConfig.CapAdd"),
        ({"devices": ["/dev/sda:/dev/sda"]}, "HostConfig.Devices"),
        ({"device_cgroup_rules": ["a *:* rwm"]}, "HostConfig.DeviceCgroupRules"),
        ({"security_opt": ["apparmor=unconfined"]}, "HostConfig.SecurityOpt"),
        ({"ports": {"4000/tcp": 4000}}, "HostConfig.PortBindings"),
        ({"restart_policy": {"Name": "always"}, "auto_remove": False}, "HostConfig.RestartPolicy"),
        ({"auto_remove": False}, "HostConfig.AutoRemove"),
        ({"user": "root"}, "User"),
        ({"entrypoint": ["/bin/sh"]}, "Entrypoint"),
        ({"command": ["/bin/sh", "-c", "id", "x"]}, "Cmd"),
        ({"command": ["dagster", "api", "grpc", "{}"]}, "Cmd"),
        ({"environment": {"LD_PRELOAD": "/data/x.so"}}, "Env"),
        ({"labels": {"dagster/run_id": "../.."}}, "Labels"),
        ({"labels": LAUNCHED["labels"] | {"com.docker.compose.service": "postgres"}}, "Labels"),
        ({"image": "--privileged"}, "Image"),
        ({"healthcheck": {"test": ["CMD", "id"]}}, "Healthcheck"),
    ],
)
def test_what_a_run_does_not_need_is_refused_by_name(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as refused:
        AskedContainer.model_validate_json(body(**asked))
    assert named in {".".join(map(str, error["loc"])) for error in refused.value.errors()}


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("taxi-ingestion", "taxi-ingestion"),
        ("taxi-ingestion:1.4", "taxi-ingestion"),
        ("registry.example.org:5000/taxi-ingestion", "registry.example.org:5000/taxi-ingestion"),
        ("registry.example.org:5000/taxi-ingestion:1.4", "registry.example.org:5000/taxi-ingestion"),
        ("taxi-ingestion:1.4@sha256:0123", "taxi-ingestion"),
    ],
)
def test_versions_of_an_image_have_one_name(image: str, name: str) -> None:
    assert repository(image) == name


def test_a_run_has_what_its_service_has_and_no_more() -> None:
    service = {
        "Config": {
            "Env": ["PATH=/old", "DAGSTER_CURRENT_IMAGE=taxi-ingestion:next"],
            "User": "10001:10001",
            "Labels": {
                "com.docker.compose.project": "taxi",
                "com.docker.compose.service": "ingestion",
                "codeloc.run.memory": "4g",
                "codeloc.run.scratch": "/data/spill",
            },
        },
        "HostConfig": {
            "CapDrop": ["ALL"],
            "ReadonlyRootfs": True,
            "NetworkMode": "taxi_platform",
            "Memory": 1024**3,
            "Tmpfs": {"/tmp": "", "/data/spill": ""},  # noqa: S108
            "RestartPolicy": {"Name": "unless-stopped"},
            "PortBindings": {"4000/tcp": [{"HostPort": "4000"}]},
        },
        "Mounts": [
            {"Type": "volume", "Name": "taxi_lake", "Source": "/v", "Destination": "/data/lake", "RW": True},
            {"Type": "volume", "Name": "taxi_settings", "Source": "/v", "Destination": "/settings", "RW": False},
            {"Type": "bind", "Source": "/srv/tlc", "Destination": "/tlc", "RW": False},
            {"Type": "volume", "Name": "taxi_sockets", "Source": "/v", "Destination": "/run/codeserver", "RW": True},
        ],
    }
    # The service is of another version.
    made = twin(AskedContainer.model_validate_json(body()), service, ["PATH=/old"], "sha256:0123")
    host = made.pop("HostConfig")
    assert host["Binds"] == ["taxi_lake:/data/lake:rw", "taxi_settings:/settings:ro", "/srv/tlc:/tlc:ro"]
    assert (host["Memory"], host["MemorySwap"]) == (4 * 1024**3, 4 * 1024**3)
    assert (host["NetworkMode"], host["CapDrop"], host["ReadonlyRootfs"]) == ("taxi_platform", ["ALL"], True)
    assert host["AutoRemove"] is True
    assert host["Tmpfs"] == {"/tmp": ""}  # noqa: S108
    assert not {"RestartPolicy", "PortBindings", "Privileged"} & host.keys()
    assert made == {
        "Image": "taxi-ingestion:dev",
        "Cmd": LAUNCHED["command"],
        "Env": [
            "DAGSTER_CURRENT_IMAGE=taxi-ingestion:dev",
            "CODELOC_IMAGE=sha256:0123",
            "DAGSTER_RUN_JOB_NAME=trip_update_job",
        ],
        "User": "10001:10001",
        "Labels": {
            **LAUNCHED["labels"],
            "codeloc.project": "taxi",
            "codeloc.location": "ingestion",
        },
        "StopTimeout": 30,
        # Of its own, removed with it.
        "Volumes": {"/data/spill": {}},
    }
