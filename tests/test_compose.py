"""The deployment with Docker Compose: what its files promise, and, where there is an engine, the whole of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from counting import count_file, month_of, trips_per_week
from deployment import COMPOSE, ONE_SHOT, SERVERS, SERVICES, Deployment, docker

from conftest import LOCATIONS, ROOT, wait_for

# -- what the files promise -----------------------------------------------------------------------


def volumes(service: str) -> dict[str, str]:
    """Where a service mounts each named volume, with its mode."""
    mounts: list[list[str]] = [
        mount.split(":", 1) for mount in SERVICES[service].get("volumes", []) if mount[0] not in "/$"
    ]
    return dict(mounts)


@pytest.mark.parametrize("location", LOCATIONS)
def test_every_location_has_a_service_an_image_and_settings_of_its_own(location: str) -> None:
    service = SERVICES[location]
    assert service["build"]["dockerfile"] == f"locations/{location}/Dockerfile"
    assert f"-{location}:" in service["image"]
    assert service["command"] == ["python", "-m", "taxi_shared.server", location]
    assert volumes(location)[f"settings-{location}"] == "/settings:ro"
    assert volumes("init")[f"settings-{location}"] == f"/data/settings/{location}"


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_deploy_of_a_location_makes_nothing_else_anew(location: str) -> None:
    tagged = {name for name, service in SERVICES.items() if f"{location.upper()}_TAG" in json.dumps(service)}
    # Compose makes anew whatever depends on what it makes anew.
    depending = {name for name, service in SERVICES.items() if location in service.get("depends_on", {})}
    assert tagged == {location}
    # One that `codeloc new` made has no example months to load.
    assert depending <= {"seed"}


def test_a_services_settings_are_mounted_by_nobody_else() -> None:
    readers = {
        volume: {service for service in SERVICES if volume in volumes(service)} - {"init"}
        for volume in COMPOSE["volumes"]
        if volume.startswith("settings-")
    }
    assert readers == {
        "settings-host": {"webserver", "viewer", "daemon"},
        **{f"settings-{location}": {location} for location in LOCATIONS},
    }
    assert [service for service in SERVICES if "platform" in volumes(service)] == ["init"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_locations_servers_listen_where_only_the_host_can_connect(location: str) -> None:
    mounts = {service: volumes(service).get(f"sockets-{location}") for service in SERVICES}
    assert {service: mount for service, mount in mounts.items() if mount} == {
        location: "/run/codeserver",
        **dict.fromkeys(("webserver", "viewer", "daemon"), f"/app/run/{location}:ro"),
    }


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


@pytest.mark.parametrize("variable", ["POSTGRES_PASSWORD", "ADMIN_PASSWORD"])
def test_only_postgres_and_init_are_given_an_administrators_password(variable: str) -> None:
    given = {name for name, service in SERVICES.items() if variable in json.dumps(service)}
    assert given == {"postgres", "init"}


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.bi.yml"])
def test_ports_are_published_on_loopback_only(file: str) -> None:
    services = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)


def test_only_the_proxy_is_published_and_it_reaches_only_what_it_serves() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert SERVICES["proxy"]["networks"] == ["front"]
    reached = {name for name, service in SERVICES.items() if "front" in service.get("networks", [])}
    assert reached == {"proxy", "webserver", "viewer", "files"}


def test_logins_are_mounted_by_init_and_read_by_the_proxy() -> None:
    mounts = {name: volumes(name)["people"] for name in SERVICES if "people" in volumes(name)}
    assert mounts == {"init": "/data/people", "proxy": "/people:ro"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined_and_its_image_has_a_tag(service: str) -> None:
    found = SERVICES[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["logging"]["options"].keys() == {"max-size", "max-file"}
    assert found["deploy"]["resources"]["limits"]["memory"]
    assert re.search(r":(\$\{\w+:-)?[\w.]+\}?$", found["image"])
    assert "latest" not in found["image"]
    assert "privileged" not in found


def test_only_the_gate_has_the_engines_socket_and_it_has_no_network() -> None:
    mounts = {name: mount for name, found in SERVICES.items() for mount in found.get("volumes", []) if "$" in mount}
    assert mounts == {"gate": "${DOCKER_SOCKET:-/var/run/docker.sock}:/var/run/docker.sock"}
    assert not [
        name for name in SERVICES if "/docker.sock" in json.dumps(SERVICES[name].get("volumes")) and name != "gate"
    ]
    assert SERVICES["gate"]["network_mode"] == "none"
    assert {name for name in SERVICES if "gate-launch" in volumes(name)} == {"gate", "daemon"}
    assert {name for name in SERVICES if "gate-stop" in volumes(name)} == {"gate", "webserver"}


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_locations_runs_have_its_image_and_a_limit(location: str) -> None:
    assert SERVICES[location]["environment"]["DAGSTER_CURRENT_IMAGE"] == SERVICES[location]["image"]
    assert SERVICES[location]["labels"]["codeloc.run.memory"]
    assert SERVICES[location]["labels"]["codeloc.run.scratch"] in SERVICES[location]["tmpfs"]


@pytest.mark.parametrize("service", SERVERS)
def test_a_server_is_watched_and_started_again(service: str) -> None:
    found = SERVICES[service]
    assert found["restart"] == "unless-stopped"
    assert found["healthcheck"]["test"][0] == "CMD"


def test_webserver_and_daemon_start_without_the_locations() -> None:
    for service in ("webserver", "daemon", "files", *LOCATIONS):
        assert set(SERVICES[service]["depends_on"]) <= {*ONE_SHOT, "gate"}


@pytest.mark.parametrize("package", ["host", *(f"locations/{name}" for name in LOCATIONS)])
def test_an_image_runs_as_a_user_without_rights_and_names_its_base(package: str) -> None:
    text = (ROOT / package / "Dockerfile").read_text(encoding="utf-8")
    final = text.rsplit("\nFROM ", 1)[1]
    assert re.findall("^USER (.*)$", final, re.MULTILINE) == ["10001:10001"]
    assert text.count("\nFROM ${BASE_IMAGE}") == text.count("\nFROM ") == 2
    assert re.search("^ARG BASE_IMAGE=.+:.+$", text, re.MULTILINE)


def test_every_variable_of_the_compose_files_is_in_env_example() -> None:
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    files = ("docker-compose.yml", "docker-compose.bi.yml", "docker-compose.tls.yml")
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in files]
    # Compose itself sets the project's name.
    used = {name for text in texts for name in re.findall(r"\$\{([A-Z0-9_]+)", text)} - {"COMPOSE_PROJECT_NAME"}
    passed_on = {
        name for service in SERVICES.values() for name, value in service.get("environment", {}).items() if value is None
    }
    assert documented >= used | passed_on
    assert passed_on >= {f"{location.upper()}_DB_PASSWORD" for location in LOCATIONS}


# -- the whole of it, on an engine ----------------------------------------------------------------


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
    address = f"{deployed.url}/reports"
    report = httpx.get(address, auth=deployed.login, follow_redirects=True, trust_env=False, timeout=30)
    assert report.status_code == 200
    assert "<html" in report.text
    entries = deployed.graphql(
        """{ assetNodeOrError(assetKey: {path: ["reports", "report"]}) { ... on AssetNode {
            assetMaterializations(limit: 1) { metadataEntries { ... on UrlMetadataEntry { url } } } } } }"""
    )["assetNodeOrError"]["assetMaterializations"][0]["metadataEntries"]
    assert str(report.url) in [entry.get("url") for entry in entries]


@pytest.mark.docker
def test_only_the_gates_process_is_roots(deployed: Deployment) -> None:
    for service, container in deployed.containers().items():
        if service in SERVERS:
            listed = docker("top", container["Id"], "-eo", "pid,uid,args").splitlines()[1:]
            owners = {line.split()[1] for line in listed}
            assert listed
            # The engine's socket is root's.
            assert ("0" in owners) is (service == "gate"), listed


@pytest.mark.docker
def test_a_service_knows_its_own_password_only(deployed: Deployment) -> None:
    kept = json.loads(
        deployed.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "init", "/data/secrets.json").stdout
    )
    assert set(kept) == {"postgres", "dagster", "reader", "bi", *LOCATIONS}
    for service in ("webserver", "viewer", "daemon", *LOCATIONS):
        told = deployed.compose("exec", "-T", service, "cat", "/settings/service.env").stdout
        known = {role for role, password in kept.items() if password in told}
        assert known == {"dagster", service} & set(kept)
    for service, container in deployed.containers().items():
        described = json.dumps(container)
        assert [role for role, password in kept.items() if password in described] == []
        assert (deployed.password in described) is (service in ("postgres", "init"))


RIGHTS = [
    ("ingestion", "warehouse", "CREATE TABLE lake_ingestion.mine (n int); DROP TABLE lake_ingestion.mine", True),
    ("ingestion", "warehouse", "CREATE TABLE lake_analytics.mine (n int)", False),
    ("ingestion", "warehouse", "SELECT * FROM marts.trips_by_week LIMIT 1", False),
    ("ingestion", "dagster", "SELECT 1", False),
    ("analytics", "warehouse", "CREATE TABLE marts.mine (n int); DROP TABLE marts.mine", True),
    ("analytics", "warehouse", "SELECT count(*) FROM lake_ingestion.ducklake_table", True),
    ("analytics", "warehouse", "DELETE FROM lake_ingestion.ducklake_data_file", False),
    ("reader", "warehouse", "SELECT count(*) FROM lake_analytics.ducklake_table", True),
    ("reader", "warehouse", "DELETE FROM lake_analytics.ducklake_data_file", False),
    ("reader", "warehouse", "CREATE TABLE lake_analytics.mine (n int)", False),
    ("bi", "warehouse", "SELECT count(*) FROM marts.trips_by_week", True),
    ("bi", "warehouse", "DELETE FROM marts.trips_by_week", False),
    ("bi", "warehouse", "SELECT count(*) FROM lake_analytics.ducklake_table", False),
    ("dagster", "dagster", "SELECT count(*) FROM runs", True),
    ("dagster", "warehouse", "SELECT 1", False),
]


@pytest.mark.docker
def test_each_role_can_do_its_job_and_nothing_else(deployed: Deployment) -> None:
    for role, database, statement, allowed in RIGHTS:
        command = ["psql", "--username", role, "--dbname", database, "--command", statement]
        done = deployed.compose("exec", "-T", "postgres", *command, check=False)
        assert (done.returncode == 0) is allowed, f"{role}: {statement}: {done.stdout}{done.stderr}"
        assert allowed or "permission denied" in done.stderr
    written = deployed.compose("exec", "-T", "analytics", "touch", "/data/lakes/ingestion/mine", check=False)
    assert "Read-only file system" in written.stderr


@pytest.mark.docker
def test_another_password_than_the_volumes_is_refused_with_the_way_out(deployed: Deployment) -> None:
    refused = deployed.compose("run", "--rm", "--no-deps", "-T", "init", check=False, POSTGRES_PASSWORD="another")
    assert refused.returncode == 1
    assert "its volume was made with another one" in refused.stdout + refused.stderr
    missing = deployed.compose("config", "--quiet", check=False, ADMIN_PASSWORD="")
    assert missing.returncode != 0
    assert "ADMIN_PASSWORD" in missing.stderr
    assert ".env" in missing.stderr


@pytest.mark.docker
def test_a_change_of_code_makes_its_own_image_anew_and_installs_nothing(deployed: Deployment, tmp_path: Path) -> None:
    packages = ("host", *(f"locations/{name}" for name in LOCATIONS))
    context = tmp_path / "repository"
    for file in subprocess.run(
        ["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if (ROOT / file).is_file():
            (context / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, context / file)

    def layers(package: str, version: str = "1") -> list[str]:
        words = ["--build-arg", f"VERSION={version}", "--file", str(context / package / "Dockerfile")]
        image = docker("build", "--quiet", *words, str(context)).strip()
        found: list[str] = json.loads(docker("inspect", image))[0]["RootFS"]["Layers"]
        return found

    before = {package: layers(package) for package in packages}
    assert {package: layers(package, "2") for package in packages} == before
    changed = context / "locations" / "analytics" / "src" / "analytics" / "definitions.py"
    changed.write_text(changed.read_text(encoding="utf-8") + "\n# A change.\n", encoding="utf-8")
    after = {package: layers(package) for package in packages}
    assert {package for package in packages if after[package] != before[package]} == {"locations/analytics"}
    # Its sources, and the two small ones that come after them.
    assert after["locations/analytics"][:-3] == before["locations/analytics"][:-3]


@pytest.mark.docker
def test_one_location_is_replaced_and_the_others_notice_nothing(deployed: Deployment) -> None:
    before = deployed.containers()
    deployed.compose("up", "--detach", "--build", "--wait", "analytics", ANALYTICS_TAG="next")
    after = deployed.containers()
    assert after["analytics"]["Config"]["Image"] == "taxi-test-analytics:next"
    assert after["analytics"]["Config"]["Labels"]["org.opencontainers.image.version"] == "next"
    for service in set(SERVERS) - {"analytics"}:
        assert after[service]["State"]["StartedAt"] == before[service]["State"]["StartedAt"]
    # Nobody turned the link: the new server found that nothing answers behind it.
    wait_for(lambda: deployed.served("analytics") == "next", "the new server to be talked to")


@pytest.mark.docker
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
        assert [other.fingerprint(table) for table in tables] == before
        assert runs.items() <= other.history().items()
        report = httpx.get(f"{other.url}/reports/report.html", auth=other.login, trust_env=False)
        assert report.status_code == 200
        owners = other.compose("exec", "-T", "analytics", "stat", "-c", "%u", "/data/files/analytics/requests").stdout
        assert owners.split() == ["10001"]
    finally:
        other.compose("--profile", "tools", "down", "--volumes", "--remove-orphans")
