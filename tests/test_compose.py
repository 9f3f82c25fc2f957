"""The deployment with Docker Compose: what its files promise, and, where there is an engine, the whole of it."""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from counting import count_file, month_of, trips_per_week

from conftest import CODELOC, LOCATIONS, ROOT, Platform, environment, free_port, wait_for

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ["postgres", "files", "webserver", "daemon", *LOCATIONS]
ONE_SHOT = ["init", "sample"]

_WAREHOUSE_QUERY = """
import json, os, sys
from taxi_shared.warehouse import Warehouse
warehouse = Warehouse(
    lake="analytics", reads=["ingestion"], catalog=os.environ["WAREHOUSE_CATALOG"],
    data_root=os.environ["WAREHOUSE_DATA"],
)
with warehouse.read() as connection:
    # On a slow machine it would be printed among the rows.
    connection.execute("SET enable_progress_bar = false")
    print(json.dumps(connection.execute(sys.stdin.read()).fetchall(), default=str))
"""


# -- what the files promise -----------------------------------------------------------------------


def volumes(service: str) -> dict[str, str]:
    """Where a service mounts each named volume, with its mode."""
    mounts: list[list[str]] = [
        mount.split(":", 1) for mount in SERVICES[service].get("volumes", []) if not mount.startswith("/")
    ]
    return dict(mounts)


@pytest.mark.parametrize("location", LOCATIONS)
def test_every_location_has_a_service_an_image_and_settings_of_its_own(location: str) -> None:
    service = SERVICES[location]
    assert service["build"]["dockerfile"] == f"locations/{location}/Dockerfile"
    assert f"-{location}:" in service["image"]
    assert ["-m", f"{location}.definitions"] == service["command"][-4:-2]
    assert volumes(location)[f"settings-{location}"] == "/settings:ro"
    assert volumes("init")[f"settings-{location}"] == f"/data/settings/{location}"


def test_a_services_settings_are_mounted_by_nobody_else() -> None:
    readers = {
        volume: {service for service in SERVICES if volume in volumes(service)} - {"init"}
        for volume in COMPOSE["volumes"]
        if volume.startswith("settings-")
    }
    assert readers == {
        "settings-host": {"webserver", "daemon"},
        **{f"settings-{location}": {location} for location in LOCATIONS},
    }
    assert [service for service in SERVICES if "platform" in volumes(service)] == ["init"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_lake_is_written_by_its_own_location_only(location: str) -> None:
    lake = f"lake-{location}"
    mounts = {service: volumes(service)[lake] for service in SERVICES if lake in volumes(service)}
    del mounts["archive"]
    assert mounts.pop(location) == f"/data/lakes/{location}"
    assert all(target == f"/data/lakes/{location}:ro" for target in mounts.values())


def test_archive_has_every_volume_that_a_backup_is_made_of_and_nothing_else() -> None:
    kept = {volume for volume in COMPOSE["volumes"] if volume.startswith(("lake-", "files-")) or volume == "reports"}
    assert volumes("archive").keys() == kept | {"dagster"}
    assert SERVICES["archive"]["network_mode"] == "none"
    assert SERVICES["archive"]["profiles"] == ["tools"]
    for location in LOCATIONS:
        for volume in (f"lake-{location}", f"files-{location}"):
            assert volumes("archive")[volume] == volumes(location)[volume]


def test_only_postgres_and_init_are_given_the_administrators_password() -> None:
    given = {name for name, service in SERVICES.items() if "POSTGRES_PASSWORD" in json.dumps(service)}
    assert given == {"postgres", "init"}


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.bi.yml"])
def test_ports_are_published_on_loopback_only(file: str) -> None:
    services = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)


def test_postgres_is_not_published_unless_asked_for() -> None:
    assert "ports" not in SERVICES["postgres"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined_and_its_image_has_a_tag(service: str) -> None:
    found = SERVICES[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["logging"]["options"].keys() == {"max-size", "max-file"}
    assert re.search(r":(\$\{\w+:-)?[\w.]+\}?$", found["image"])
    assert "latest" not in found["image"]
    assert "privileged" not in found
    assert "docker.sock" not in json.dumps(found)


@pytest.mark.parametrize("service", SERVERS)
def test_a_server_is_watched_limited_and_started_again(service: str) -> None:
    found = SERVICES[service]
    assert found["restart"] == "unless-stopped"
    assert found["healthcheck"]["test"][0] == "CMD"
    assert found["deploy"]["resources"]["limits"]["memory"]


def test_webserver_and_daemon_start_without_the_locations() -> None:
    for service in ("webserver", "daemon", "files", *LOCATIONS):
        assert set(SERVICES[service]["depends_on"]) <= set(ONE_SHOT)


@pytest.mark.parametrize("package", ["host", *(f"locations/{name}" for name in LOCATIONS)])
def test_an_image_runs_as_a_user_without_rights_and_names_its_base(package: str) -> None:
    text = (ROOT / package / "Dockerfile").read_text(encoding="utf-8")
    final = text.rsplit("\nFROM ", 1)[1]
    assert re.findall("^USER (.*)$", final, re.MULTILINE) == ["10001:10001"]
    assert text.count("\nFROM ${BASE_IMAGE}") == text.count("\nFROM ") == 2
    assert re.search("^ARG BASE_IMAGE=.+:.+$", text, re.MULTILINE)


def test_every_variable_of_the_compose_files_is_in_env_example() -> None:
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in ("docker-compose.yml", "docker-compose.bi.yml")]
    used = {name for text in texts for name in re.findall(r"\$\{([A-Z0-9_]+)", text)}
    passed_on = {
        name for service in SERVICES.values() for name, value in service.get("environment", {}).items() if value is None
    }
    assert documented >= used | passed_on
    assert passed_on >= {f"{location.upper()}_DB_PASSWORD" for location in LOCATIONS}


# -- the whole of it, on an engine ----------------------------------------------------------------


class Deployment(Platform):
    """The platform in containers, under a project and on ports of its own."""

    def __init__(self, folder: Path, name: str = "test") -> None:
        super().__init__(folder, free_port())
        self.project = f"taxi-{name}-{os.getpid()}"
        self.files_port = free_port()
        self.password = secrets.token_urlsafe(12)
        self.settings = folder / "deployment.env"
        self.settings.write_text(
            f"POSTGRES_PASSWORD={self.password}\nWEBSERVER_PORT={self.port}\nFILES_PORT={self.files_port}\n"
            "IMAGE_PREFIX=taxi-test\n"
        )

    @property
    def files_url(self) -> str:
        return f"http://127.0.0.1:{self.files_port}"

    def compose(
        self, *arguments: str, given: str | None = None, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, "--env-file", str(self.settings), *arguments],
            cwd=ROOT,
            env=environment() | variables,
            input=given,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{done.stdout}\n{done.stderr}"
        return done

    def codeloc_compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `codeloc` command for this deployment."""
        variables = {"COMPOSE_PROJECT_NAME": self.project, "COMPOSE_ENV_FILES": str(self.settings)}
        return subprocess.run(
            [CODELOC, *arguments, "--compose"],
            cwd=self.home,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )

    def history(self) -> dict[str, str]:
        """Status and number of events of each run that has ended, and of each other run its status."""
        query = (
            "SELECT run_id, status || ' ' || (SELECT count(*) FROM event_logs WHERE event_logs.run_id = runs.run_id)"
            " FROM runs WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED')"
        )
        rows = self.compose("exec", "-T", "postgres", "psql", "-U", "postgres", "-At", "-d", "dagster", "-c", query)
        return dict(row.split("|") for row in rows.stdout.splitlines())

    def ended(self, run: str) -> bool:
        """Whether a run, or the retry that took its place, has succeeded."""
        found = self.run(run)
        retry = found["tags"].get("dagster/auto_retry_run_id")
        return found["status"] == "SUCCESS" or (retry is not None and self.ended(retry))

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container."""
        listed = self.compose("ps", "--all", "--quiet").stdout.split()
        inspected = subprocess.run(["docker", "inspect", *listed], capture_output=True, text=True, check=True).stdout
        return {found["Config"]["Labels"]["com.docker.compose.service"]: found for found in json.loads(inspected)}

    def warehouse(self, query: str) -> list[list[Any]]:
        source_and_ask = '. /settings/service.env && exec python -c "$0"'
        command = ["exec", "-T", "analytics", "/bin/sh", "-c", source_and_ask, _WAREHOUSE_QUERY]
        rows: list[list[Any]] = json.loads(self.compose(*command, given=query).stdout)
        return rows

    def source_files(self, folder: Path, service: str) -> list[Path]:
        """The sample months of a service, as they are served."""
        folder.mkdir(exist_ok=True)
        files = []
        for month in ("2023-01", "2023-02", "2023-03"):
            file = folder / f"{service}_tripdata_{month}.parquet"
            address = f"{self.files_url}/sample/trip-data/{file.name}"
            file.write_bytes(httpx.get(address, trust_env=False, timeout=30).raise_for_status().content)
            files.append(file)
        return files

    def assert_up(self) -> None:
        found = self.containers()
        assert {name: found[name]["State"]["Health"]["Status"] for name in SERVERS} == dict.fromkeys(SERVERS, "healthy")
        assert {name: found[name]["State"]["ExitCode"] for name in ONE_SHOT} == dict.fromkeys(ONE_SHOT, 0)
        # The webserver is healthy without them: it may have looked for one a moment before that one listened.
        wait_for(lambda: self.loaded_locations() == dict.fromkeys(LOCATIONS, True), "the locations to be loaded")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The deployment as README starts it, with the sample loaded."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker")
    for needed in (["compose", "version"], ["info"]):
        asked = subprocess.run(["docker", *needed], capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            pytest.skip(f"`docker {' '.join(needed)}` fails: {asked.stderr.strip()}")
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        deployment.compose("up", "--detach", "--build", "--wait")
        deployment.assert_up()
        deployment.compose("run", "--rm", "seed")
        yield deployment
    except BaseException:
        print(deployment.compose("logs", "--no-color", "--tail", "40", check=False).stdout)  # noqa: T201
        raise
    finally:
        deployment.compose("--profile", "seed", "down", "--volumes", "--remove-orphans")
        labelled = ["--filter", f"label=com.docker.compose.project={deployment.project}", "--quiet"]
        for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
            left = subprocess.run(["docker", *kind, *labelled], capture_output=True, text=True, check=True).stdout
            assert left == ""


@pytest.mark.docker
def test_the_sample_is_loaded_and_the_marts_followed(deployed: Deployment, tmp_path: Path) -> None:
    found: dict[tuple[str, str], Any] = {
        (service, month): (kept, quarantined, pytest.approx(total))
        for service, month, kept, quarantined, total in deployed.warehouse(
            """SELECT service, file_month, kept, quarantined, total
            FROM (SELECT service, file_month, count(*) AS kept, sum(total_amount) AS total
                FROM ingestion.raw.taxi_trips GROUP BY ALL)
            JOIN (SELECT service, file_month, count(*) AS quarantined
                FROM ingestion.raw.taxi_trips_quarantine GROUP BY ALL) USING (service, file_month)"""
        )
    }
    expected = {}
    for service in ("green", "yellow"):
        files = deployed.source_files(tmp_path, service)
        for file in files:
            counted = count_file(file)
            expected[service, month_of(file)] = (counted.kept, counted.quarantined, counted.total_amount)
        assert deployed.weeks(service) == trips_per_week(files)
    assert found == expected


@pytest.mark.docker
def test_the_report_is_served_and_linked_as_a_browser_finds_it(deployed: Deployment) -> None:
    report = httpx.get(deployed.files_url, follow_redirects=True, trust_env=False, timeout=30)
    assert report.status_code == 200
    assert "<html" in report.text
    entries = deployed.graphql(
        """{ assetNodeOrError(assetKey: {path: ["reports", "report"]}) { ... on AssetNode {
            assetMaterializations(limit: 1) { metadataEntries { ... on UrlMetadataEntry { url } } } } } }"""
    )["assetNodeOrError"]["assetMaterializations"][0]["metadataEntries"]
    assert str(report.url) in [entry.get("url") for entry in entries]


@pytest.mark.docker
def test_no_process_is_roots(deployed: Deployment) -> None:
    for service, container in deployed.containers().items():
        if service in SERVERS:
            listed = subprocess.run(
                ["docker", "top", container["Id"], "-eo", "pid,uid,args"], capture_output=True, text=True, check=True
            ).stdout.splitlines()[1:]
            owners = {line.split()[1] for line in listed}
            assert listed
            assert "0" not in owners, listed


@pytest.mark.docker
def test_a_service_knows_its_own_password_only(deployed: Deployment) -> None:
    kept = json.loads(
        deployed.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "init", "/data/secrets.json").stdout
    )
    kept["postgres"] = deployed.password
    assert set(kept) == {"postgres", "dagster", "reader", "bi", *LOCATIONS}
    for service in ("webserver", "daemon", *LOCATIONS):
        told = deployed.compose("exec", "-T", service, "cat", "/settings/service.env").stdout
        known = {role for role, password in kept.items() if password in told}
        assert known == {"dagster", service} & set(kept)
    for service, container in deployed.containers().items():
        in_plain = {role for role, password in kept.items() if password in json.dumps(container)}
        assert in_plain == ({"postgres"} if service in ("postgres", "init") else set())


@pytest.mark.docker
def test_another_password_than_the_volumes_is_refused_with_the_way_out(deployed: Deployment) -> None:
    refused = deployed.compose("run", "--rm", "--no-deps", "-T", "init", check=False, POSTGRES_PASSWORD="another")
    assert refused.returncode == 1
    assert "its volume was made with another one" in refused.stdout + refused.stderr
    missing = deployed.compose("config", "--quiet", check=False, POSTGRES_PASSWORD="")
    assert missing.returncode != 0
    assert "POSTGRES_PASSWORD" in missing.stderr
    assert ".env" in missing.stderr


@pytest.mark.docker
def test_one_location_is_replaced_and_the_others_notice_nothing(deployed: Deployment) -> None:
    before = deployed.containers()
    deployed.compose("up", "--detach", "--build", "--wait", "analytics", ANALYTICS_TAG="next")
    after = deployed.containers()
    assert after["analytics"]["Config"]["Image"] == "taxi-test-analytics:next"
    assert after["analytics"]["Config"]["Labels"]["org.opencontainers.image.version"] == "next"
    for service in set(SERVERS) - {"analytics"}:
        assert after[service]["State"]["StartedAt"] == before[service]["State"]["StartedAt"]


@pytest.mark.docker
def test_nothing_is_lost_when_everything_is_restarted_or_made_anew(deployed: Deployment) -> None:
    tables = ("ingestion.raw.taxi_trips", "marts.trips_by_week")
    before = [deployed.fingerprint(table) for table in tables]
    for steps in ((["restart"], ["up", "--detach", "--wait"]), (["down"], ["up", "--detach", "--wait"])):
        for step in steps:
            deployed.compose(*step)
        deployed.assert_up()
        assert [deployed.fingerprint(table) for table in tables] == before
        again = deployed.compose("run", "--rm", "seed").stdout
        assert " 0 runs " in again
        assert httpx.get(f"{deployed.files_url}/reports/report.html", trust_env=False).status_code == 200


@pytest.mark.docker
@pytest.mark.timeout(1200)  # a second deployment is started for it
def test_a_backup_of_containers_is_restored_into_others_while_the_first_go_on(
    deployed: Deployment, tmp_path: Path
) -> None:
    tables = ("ingestion.raw.taxi_trips", "ingestion.raw.taxi_zones", "marts.trips_by_week")
    before = [deployed.fingerprint(table) for table in tables]
    runs = deployed.history()
    run = deployed.launch_month("2023-01-01|green")
    made = deployed.codeloc_compose("backup", str(tmp_path))
    assert made.returncode == 0, made.stderr
    refused = deployed.codeloc_compose("restore", str(next(tmp_path.glob("2*"))))
    assert refused.returncode == 1
    assert "empty platform only" in refused.stderr
    assert "docker compose down --volumes" in refused.stderr
    assert deployed.finished(run) == "SUCCESS"

    folder = tmp_path / "other"
    folder.mkdir()
    other = Deployment(folder, "restored")
    try:
        restored = other.codeloc_compose("restore", str(next(tmp_path.glob("2*"))))
        assert restored.returncode == 0, restored.stderr
        assert "Restored and compared" in restored.stdout
        other.compose("up", "--detach", "--wait")
        other.assert_up()
        wait_for(lambda: other.ended(run), "the run that the backup was taken in, or its retry")
        assert [other.fingerprint(table) for table in tables[1:]] == before[1:]
        (trips,) = other.fingerprint(tables[0])
        assert trips[0] == before[0][0][0]  # one month was loaded anew, with another time of loading
        assert runs.items() <= other.history().items()
        assert httpx.get(f"{other.files_url}/reports/report.html", trust_env=False).status_code == 200
        owners = other.compose("exec", "-T", "analytics", "stat", "-c", "%u", "/data/files/analytics/requests").stdout
        assert owners.split() == ["10001"]
    finally:
        other.compose("--profile", "tools", "down", "--volumes", "--remove-orphans")
