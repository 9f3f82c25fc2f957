"""Alerts to a real mail server and a real web server on loopback, of runs that failed in a real instance."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetMaterialization,
    AssetSpec,
    BackfillPolicy,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    Failure,
    MaterializeResult,
    MetadataValue,
    StaticPartitionsDefinition,
    asset,
    build_run_status_sensor_context,
    multi_asset,
)
from taxi_shared.alerts import CAUSE, FAILED_PARTITIONS, Alert, AlertError, addresses_of, describe, failure_alerts, send

MONTHS = StaticPartitionsDefinition([f"2023-0{month}" for month in range(1, 10)])


@asset(key_prefix="raw", partitions_def=MONTHS, owners=["team:ingestion"])
def file() -> MaterializeResult[None]:
    """Succeeds."""
    return MaterializeResult()


@asset(
    owners=["team:ingestion"],
    deps=[file],
    check_specs=[AssetCheckSpec("completeness", asset=["raw", "trips"], blocking=True)],
    key_prefix="raw",
    partitions_def=MONTHS,
)
def trips(context: AssetExecutionContext) -> Iterator[AssetCheckResult]:
    """Is refused."""
    yield AssetCheckResult(passed=False, description="days without a trip: observed 14 days, expected 0 days")
    raise Failure(f"{context.partition_key} is refused after {id(context)} attempts.", allow_retries=False)


@asset
def nobodys() -> None:
    """Breaks."""
    raise ValueError("no idea")


OF = {"cause": ""}


@asset(owners=["team:ingestion"], key_prefix="marts", partitions_def=MONTHS)
def fares() -> None:
    """Is not made, because of something else."""
    raise Failure("nothing is made of what was refused", metadata={CAUSE: OF["cause"]}, allow_retries=False)


DEFINITIONS = Definitions([file, trips, nobodys, fares], sensors=[failure_alerts("ingestion")])


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp() as found:
        yield found


def failed(instance: DagsterInstance, partition: str | None = "2023-02", *keys: list[str], **tags: str) -> DagsterRun:
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    selected = keys or (["raw", "file"], ["raw", "trips"])
    from dagster import AssetKey

    result = job.execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[AssetKey(key) for key in selected],
        tags=tags,
        raise_on_error=False,
    )
    assert not result.success
    return result.dagster_run


def told(instance: DagsterInstance, run: DagsterRun) -> Alert:
    return describe(instance, run, DEFINITIONS.get_repository_def(), "ingestion")


def test_an_alert_says_location_asset_partition_check_error_and_where_to_look(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBSERVER_URL", "http://127.0.0.1:3000/")
    run = failed(instance)
    alert = told(instance, run)
    assert alert.title == "[ingestion] raw/trips failed for 2023-02"
    lines = alert.body.splitlines()
    assert lines[:5] == [
        "Location: ingestion",
        "Job: __ASSET_JOB",
        "Asset: raw/trips",
        "Partition: 2023-02",
        "Check raw/trips.completeness: days without a trip: observed 14 days, expected 0 days",
    ]
    assert lines[5].startswith("Error: 2023-02 is refused after ")
    assert lines[6] == f"Run: http://127.0.0.1:3000/runs/{run.run_id}"
    assert alert.owners == ("ingestion",)


def test_what_nobody_owns_is_told_to_the_locations_team(instance: DagsterInstance) -> None:
    alert = told(instance, failed(instance, None, ["nobodys"]))
    assert alert.owners == ("ingestion",)
    assert "no idea" in alert.error


def test_a_run_whose_process_was_killed_is_told_too(instance: DagsterInstance) -> None:
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job)
    instance.report_run_failed(run, "its process is gone")
    assert "its process is gone" in told(instance, run).body


def test_two_failures_of_the_same_kind_are_one_to_a_person(instance: DagsterInstance) -> None:
    alerts = [told(instance, failed(instance, month)) for month in ("2023-02", "2023-02", "2023-01")]
    assert alerts[0].error != alerts[1].error or alerts[0].run_id != alerts[1].run_id
    assert alerts[0].fingerprint == alerts[1].fingerprint != alerts[2].fingerprint


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("", []),
        ("json://a", ["json://a"]),
        ("ingestion=json://a analytics=json://b", ["json://a"]),
        ("json://a?x=y  ingestion=json://b?to=c=d\njson://a?x=y", ["json://a?x=y", "json://b?to=c=d"]),
        ("analytics=json://b", []),
    ],
)
def test_each_team_has_its_addresses_and_those_for_everybody(setting: str, found: list[str]) -> None:
    assert addresses_of(setting, ("ingestion",)) == found


# -- real receivers ---------------------------------------------------------------------------------


@dataclass
class Receivers:
    """What a mail server and a web server got, and their addresses."""

    mail: str = ""
    web: str = ""
    mails: list[tuple[list[str], str, str]] = field(default_factory=list)
    posts: list[dict[str, Any]] = field(default_factory=list)
    refuse: int = 0

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: ANN401, N802
        mail = message_from_bytes(envelope.content)
        # Apprise sends text and HTML.
        text = next(part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart())
        assert isinstance(text, bytes)
        self.mails.append((envelope.rcpt_tos, str(mail["Subject"]), text.decode()))
        return "250 OK"


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    found = Receivers()

    class Web(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.refuse -= 1
            if found.refuse < 0:
                found.posts.append(json.loads(body))
            self.send_response(200 if found.refuse < 0 else 503)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    smtp = Controller(found, hostname="127.0.0.1", port=port, ready_timeout=60)
    smtp.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.mail = f"mailto://127.0.0.1:{port}/?from=dagster@example.org&to=etl@example.org&mode=insecure"
    found.web = f"json://127.0.0.1:{web.server_address[1]}/hook"
    yield found
    smtp.stop()
    web.shutdown()
    thread.join()
    web.server_close()


def tick(instance: DagsterInstance, run: DagsterRun) -> None:
    """What the daemon has the sensor do for a run that failed."""
    (event,) = instance.all_logs(run.run_id, of_type=None)[-1:]
    sensor = failure_alerts("ingestion")
    assert event.dagster_event is not None
    context = build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_event=event.dagster_event,
        dagster_instance=instance,
        dagster_run=instance.get_run_by_id(run.run_id) or run,
        repository_def=DEFINITIONS.get_repository_def(),
    ).for_run_failure()
    sensor(context)


def test_the_owner_gets_a_mail_and_a_post_once(
    instance: DagsterInstance, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERTS", f"ingestion={receivers.mail} {receivers.web} analytics=json://127.0.0.1:1/")
    for _ in range(2):
        tick(instance, failed(instance))
    ((recipients, subject, text),) = receivers.mails
    assert recipients == ["etl@example.org"]
    assert subject == "[ingestion] raw/trips failed for 2023-02"
    assert "Check raw/trips.completeness: days without a trip" in text
    (post,) = receivers.posts
    assert post["title"] == subject
    assert post["type"] == "failure"
    tick(instance, failed(instance, "2023-01"))
    assert [post["title"] for post in receivers.posts] == [subject, subject.replace("-02", "-01")]


def test_what_was_mended_and_fails_again_is_news(
    instance: DagsterInstance, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERTS", receivers.web)
    tick(instance, failed(instance))
    instance.report_runless_asset_event(AssetMaterialization(["raw", "trips"], partition="2023-01"))
    tick(instance, failed(instance))
    assert len(receivers.posts) == 1
    instance.report_runless_asset_event(AssetMaterialization(["raw", "trips"], partition="2023-02"))
    tick(instance, failed(instance))
    assert len(receivers.posts) == 2
    job = DEFINITIONS.resolve_implicit_global_asset_job_def().name
    for succeeded in (False, True):
        if succeeded:
            good = instance.add_run(DagsterRun(job, status=DagsterRunStatus.STARTED))
            instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_SUCCESS.value, job), good.run_id)
        run = instance.add_run(DagsterRun(job, status=DagsterRunStatus.STARTED))
        instance.report_run_failed(run, "its process is gone")
        tick(instance, run)
    assert len(receivers.posts) == 4


def test_what_follows_from_another_failure_is_told_once_for_all(
    instance: DagsterInstance, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERTS", receivers.web)
    for month, cause in (("2023-01", "raw/trips"), ("2023-02", "raw/trips"), ("2023-03", "raw/zones")):
        monkeypatch.setitem(OF, "cause", cause)
        tick(instance, failed(instance, month, ["marts", "fares"]))
    titles = [post["title"] for post in receivers.posts]
    assert titles == [f"[ingestion] marts/fares failed for {month}" for month in ("2023-01", "2023-03")]


def test_an_alert_names_what_failed_of_many_partitions_and_assets(instance: DagsterInstance) -> None:
    @multi_asset(
        specs=[AssetSpec(name, partitions_def=MONTHS) for name in ("a", "b", "c", "d")],
        check_specs=[AssetCheckSpec("rows", asset="c")],
        backfill_policy=BackfillPolicy.single_run(),
    )
    def many() -> Iterator[AssetCheckResult]:
        yield AssetCheckResult(passed=checked, check_name="rows", asset_key="c", severity=AssetCheckSeverity.WARN)
        raise Failure("refused", metadata={FAILED_PARTITIONS: MetadataValue.json(partitions)}, allow_retries=False)

    definitions = Definitions([many])
    span = {f"dagster/asset_partition_range_{end}": f"2023-0{month}" for end, month in (("start", 1), ("end", 9))}

    def title() -> str:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, tags=span, raise_on_error=False
        )
        return describe(instance, result.dagster_run, definitions.get_repository_def(), "etl").title

    checked, partitions = True, ["2023-02", "2023-05"]
    assert title() == "[etl] a, b, c and 1 more failed for 2023-02, 2023-05"
    checked, partitions = False, [f"2023-0{month}" for month in range(1, 6)]
    assert title() == "[etl] c failed for 2023-01, 2023-02, 2023-03 and 2 more"


def test_a_range_is_told_by_its_ends(instance: DagsterInstance) -> None:
    for last, said in (("2023-03", "2023-01 to 2023-03"), ("2023-01", "2023-01")):
        run = failed(
            instance,
            None,
            ["nobodys"],
            **{"dagster/asset_partition_range_start": "2023-01", "dagster/asset_partition_range_end": last},
        )
        assert told(instance, run).partitions == (said,)


def test_a_run_that_is_tried_again_by_itself_is_not_told(
    instance: DagsterInstance, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERTS", receivers.web)
    run = failed(instance)
    instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    tick(instance, run)
    assert receivers.posts == []


def test_a_receiver_that_fails_is_tried_again(
    instance: DagsterInstance, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERTS", receivers.web)
    monkeypatch.setattr("taxi_shared.alerts._WAITS", (0, 0))
    receivers.refuse = 2
    tick(instance, failed(instance))
    assert len(receivers.posts) == 1


def test_who_cannot_be_reached_is_named_without_the_password(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taxi_shared.alerts._WAITS", (0, 0))
    alert = told(instance, failed(instance))
    with pytest.raises(AlertError, match=r"not told: \[ingestion\] raw/trips") as error:
        send(alert, ["json://user:secret@127.0.0.1:9/path?token=secret"])
    assert "json://127.0.0.1:9 cannot be reached" in str(error.value)
    assert "secret" not in str(error.value)
    with pytest.raises(AlertError, match="nonsense://x is not an address of Apprise's"):
        send(alert, ["nonsense://x"])
