from pathlib import Path

import pytest
from codeloc import settings
from codeloc.errors import CodelocError
from codeloc.settings import database_passwords, inherited_environment, load_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*(field.upper() for field in settings.Settings.model_fields), "INGESTION_DB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "ENV_FILE", tmp_path / ".env")
    monkeypatch.setitem(settings.Settings.model_config, "env_file", tmp_path / ".env")


def test_nothing_needs_to_be_set() -> None:
    found = load_settings()
    assert found.webserver_port == 3000
    assert found.postgres_host is None
    assert found.warehouse_memory_limit == "2GB"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSERVER_PORT", "")
    assert load_settings().webserver_port == 3000


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WEBSERVER_PORT=3001\nWAREHOUSE_THREADS=7\n")
    monkeypatch.setenv("WEBSERVER_PORT", "3002")
    assert (load_settings().webserver_port, load_settings().warehouse_threads) == (3002, 7)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WEBSERVER_PORT": "70000"}, ["WEBSERVER_PORT", "70000"]),
        ({"WAREHOUSE_THREADS": "0", "WAREHOUSE_MEMORY_LIMIT": "lots"}, ["WAREHOUSE_THREADS", "WAREHOUSE_MEMORY_LIMIT"]),
        ({"WAREHOUSE_DATA": "relative/folder"}, ["WAREHOUSE_DATA", "relative/folder"]),
        ({"TLC_BASE_URL": "ftp:nowhere"}, ["TLC_BASE_URL"]),
        ({"POSTGRES_HOST": "db"}, ["POSTGRES_PASSWORD"]),
        ({"WAREHOUSE_DATA": "s3://bucket/lakes"}, ["WAREHOUSE_S3_ACCESS_KEY_ID", "WAREHOUSE_S3_SECRET_ACCESS_KEY"]),
    ],
)
def test_every_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CodelocError) as caught:
        load_settings()
    for name in named:
        assert name in str(caught.value)


def test_a_wrong_password_setting_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "hunter2")
    monkeypatch.setenv("POSTGRES_PORT", "none")
    with pytest.raises(CodelocError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_processes_inherit_no_database_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("INGESTION_DB_PASSWORD=one\nTEAM_API_KEY=two\nPOSTGRES_PASSWORD=three\n")
    assert database_passwords() == {"ingestion": "one"}
    inherited = inherited_environment()
    assert inherited["TEAM_API_KEY"] == "two"
    assert not {"INGESTION_DB_PASSWORD", "POSTGRES_PASSWORD", "PYTHONDONTWRITEBYTECODE"} & inherited.keys()


def test_each_team_gets_its_own_alert_addresses_and_those_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERTS", "ingestion=mailto://a?to=b analytics=json://c  slack://d?x=y")
    found = load_settings()
    assert found.alerts_of("ingestion") == ["ingestion=mailto://a?to=b", "slack://d?x=y"]
    assert found.alerts_of("other") == ["slack://d?x=y"]
    # They hold passwords.
    assert "slack" not in repr(found)
    assert "ALERTS" not in inherited_environment()


def test_alerts_that_are_no_addresses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERTS", "json://a etl@example.org")
    with pytest.raises(CodelocError, match="ALERTS: must be addresses") as error:
        load_settings()
    assert "example.org" not in str(error.value)
