import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from codeloc import archive, backup, dumps
from codeloc.archive import Places
from codeloc.commands import Command
from codeloc.errors import CodelocError
from codeloc.home import Home, Restoring, State
from codeloc.platform import Platform
from codeloc.targets import ComposeTarget, LocalTarget


def places(folder: Path) -> Places:
    return Places(Home(folder), folder / "lakes")


def quiet(_text: str, _done: int, _total: int) -> None:
    pass


def program(folder: Path, command: str) -> Command:
    return Command([sys.executable, "-m", "codeloc.archive", "--home", str(folder), command])


# -- the stream of files --------------------------------------------------------------------------


def test_files_arrive_as_they_were_sent_with_their_times_to_the_nanosecond(tmp_path: Path) -> None:
    contents = {"lakes/ingestion/a b.parquet": os.urandom(3_000_000), "files/ingestion/empty": b"", "files/é\n": b"x"}
    for path, content in contents.items():
        file = tmp_path / "from" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, ns=(5, 1_700_000_000_123_456_789))
    with program(tmp_path / "from", "send").piped() as (given_to, printed):
        given_to.write(json.dumps(list(contents)).encode() + b"\n")
        given_to.flush()
        stream = printed.read()
    with program(tmp_path / "to", "put").piped() as (given_to, _):
        given_to.write(stream)
    for path, content in contents.items():
        assert (tmp_path / "to" / path).read_bytes() == content
        assert (tmp_path / "to" / path).stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_a_stream_that_is_cut_off_is_an_error_wherever_it_is_cut(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_bytes(b"12345")
    whole = io.BytesIO()
    archive.send(places(tmp_path), ["files/one", "files/gone"], whole)
    for length in range(len(whole.getvalue())):
        with pytest.raises(EOFError):
            archive.put(places(tmp_path / "to"), io.BytesIO(whole.getvalue()[:length]))
    archive.put(places(tmp_path / "to"), io.BytesIO(whole.getvalue()))
    assert [path.name for path in (tmp_path / "to" / "files").iterdir()] == ["one"]


@pytest.mark.parametrize("path", ["../out", "/etc/out", "lakes/../../out", ""])
def test_a_path_that_leads_out_of_the_home_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(archive.ArchiveError):
        places(tmp_path).at(path)


def test_lakes_may_lie_elsewhere(tmp_path: Path) -> None:
    elsewhere = Places(Home(tmp_path), Path("/mnt/big"))
    assert elsewhere.at("lakes/ingestion/a.parquet") == Path("/mnt/big/ingestion/a.parquet")
    assert elsewhere.at("files/ingestion/a.parquet") == tmp_path / "files/ingestion/a.parquet"


def test_what_is_being_written_is_left_out_and_empty_folders_are_kept(tmp_path: Path) -> None:
    requests = tmp_path / "files" / "analytics" / "requests"
    requests.mkdir(parents=True)
    landing = tmp_path / "files" / "ingestion"
    landing.mkdir()
    (landing / "month.parquet").write_bytes(b"123")
    (landing / ".month.parquet.1f.part").write_bytes(b"12")
    (landing / "link").symlink_to("month.parquet")
    found = archive.find(places(tmp_path), ["files", "served/reports"])
    assert found.files == {"files/ingestion/month.parquet": 3}
    assert found.folders == ["files", "files/analytics", "files/analytics/requests", "files/ingestion"]


# -- programs through pipes -----------------------------------------------------------------------


def test_what_a_program_complains_of_is_the_error() -> None:
    failing = Command(["sh", "-c", "echo the cause >&2; exit 3"])
    with pytest.raises(CodelocError, match="the cause"):
        failing.run()
    with pytest.raises(CodelocError, match="the cause"), failing.piped() as (given_to, _):
        for _ in range(100_000):  # it stops reading: that pipe breaks is not what the user is told
            given_to.write(b"more than any pipe holds\n")


def test_a_program_that_ends_too_early_is_an_error_and_one_that_does_not_end_is_ended() -> None:
    with pytest.raises(CodelocError, match="cut off"), Command(["true"]).piped() as (_, printed):
        list(archive.received(printed))
    endless = Command(["sleep", "600"])
    with pytest.raises(KeyboardInterrupt), endless.piped():
        raise KeyboardInterrupt


# -- scripts --------------------------------------------------------------------------------------


def test_a_setting_that_older_servers_lack_is_left_out_of_a_script_and_nothing_else() -> None:
    front = b"SET statement_timeout = 0;\nSET transaction_timeout = 0;\nCREATE TABLE t (a text);\n"
    rows = b"COPY t (a) FROM stdin;\nSET transaction_timeout = 0;\n\\.\n"
    copied = io.BytesIO()
    dumps.copy_script(io.BytesIO(front + rows), copied)
    assert copied.getvalue() == front.replace(b"SET transaction_timeout = 0;\n", b"") + rows


# -- whole or not ---------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A backup, as far as reading it goes."""
    folder = tmp_path / "20260101T000000Z"
    files = []
    for path in ("dagster.dump", "warehouse.dump", "home/lakes/ingestion/a.parquet"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode() * 100)
        size, sha256 = archive.checksum(folder / path)
        files.append(backup.KeptFile(path=path, size=size, mtime_ns=1, sha256=sha256))
    manifest = backup.Manifest(
        made=datetime.now(UTC),
        target="local",
        dagster_version="1.13.27",
        postgres_version="18.4",
        source="sample",
        ports={},
        roles=[],
        databases={},
        lakes={},
        lakes_on_s3=None,
        not_copied={},
        folders=[],
        files=files,
    )
    text = manifest.model_dump_json().encode()
    (folder / backup.MANIFEST).write_bytes(text)
    (folder / backup.MANIFEST_CHECKSUM).write_text(f"{hashlib.sha256(text).hexdigest()}  {backup.MANIFEST}\n")
    return folder


def test_a_whole_backup_is_read_and_its_manifest_is_one_that_sha256sum_checks(whole: Path) -> None:
    assert len(backup.read_backup(whole, quiet).files) == 3
    sha256sum = shutil.which("sha256sum")
    if sha256sum is not None:
        subprocess.run([sha256sum, "--check", "--status", backup.MANIFEST_CHECKSUM], cwd=whole, check=True)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "has"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\0"), "is not what it was"),
        (lambda file: file.unlink(), "missing|there is no"),
    ],
)
@pytest.mark.parametrize("file", ["dagster.dump", "home/lakes/ingestion/a.parquet", backup.MANIFEST])
def test_a_damaged_backup_is_refused_by_the_files_name(whole: Path, file: str, damage: object, told: str) -> None:
    damage(whole / file)  # type: ignore[operator]
    with pytest.raises(CodelocError, match=Path(file).name) as refused:
        backup.read_backup(whole, quiet)
    if file != backup.MANIFEST:
        assert any(word in str(refused.value) for word in told.split("|"))


def test_a_folder_that_holds_backups_is_refused_with_the_newest_of_them(whole: Path) -> None:
    with pytest.raises(CodelocError, match=f"not a backup: .*the newest is {whole}"):
        backup.read_backup(whole.parent, quiet)


def test_lakes_on_s3_are_not_restored_into_a_folder(whole: Path) -> None:
    manifest = backup.read_backup(whole, quiet)
    on_s3 = manifest.model_copy(update={"lakes_on_s3": "s3://bucket/lakes"})
    in_files = manifest.model_copy(update={"lakes": {"ingestion": backup.KeptLake(snapshot=1, files=1, size=1)}})
    with pytest.raises(CodelocError, match="set WAREHOUSE_DATA"):
        backup._require_same_kind_of_lakes(on_s3, None)
    with pytest.raises(CodelocError, match="unset it"):
        backup._require_same_kind_of_lakes(in_files, "s3://bucket/lakes")
    backup._require_same_kind_of_lakes(on_s3, "s3://other/lakes")
    backup._require_same_kind_of_lakes(in_files, None)


def test_a_backup_of_a_newer_dagster_is_refused(whole: Path) -> None:
    manifest = backup.read_backup(whole, quiet)
    for newer in ("1.13.28", "1.14.0", "2.0.0"):
        with pytest.raises(CodelocError, match=newer):
            backup._require_not_newer(manifest.model_copy(update={"dagster_version": newer}), "1.13.27")
    for older in ("1.13.27", "1.13.9", "1.9.30"):
        backup._require_not_newer(manifest.model_copy(update={"dagster_version": older}), "1.13.27")


def test_more_than_the_disk_holds_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    with pytest.raises(CodelocError, match=r"needs 1000\.0 TB, and the disk"):
        backup._require_space(tmp_path, 10**15)


def test_a_backup_of_a_folder_without_a_platform_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    home = tmp_path / "nothing"
    with pytest.raises(CodelocError, match="there is no platform in"):
        backup.make_backup(LocalTarget(Platform(Home(home))), tmp_path / "backups", lambda _line: None, quiet)
    assert not home.exists()


def test_half_a_platform_does_not_start_and_says_which_restore_to_repeat(tmp_path: Path) -> None:
    home = Home(tmp_path)
    Restoring("/mnt/backups/one of them", "1.13.27").begin(home)
    with pytest.raises(CodelocError, match=r"restore --home .* '/mnt/backups/one of them'"):
        Platform(home).start(None, None, lambda _line: None)
    Restoring("/mnt/backups/one of them", "1.13.27").end(home, State(source="tlc"))
    assert Restoring.load(home) is None
    assert State.load(home) == State(source="tlc", dagster_version="1.13.27 (restored)")


def test_compose_without_docker_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CodelocError, match="no `docker` on PATH"):
        ComposeTarget()
