"""Backup and restore: databases, lakes and other files of one moment, and the proof that all of it is there.

A backup is a folder: two dumps, the files as they lie below a platform's home, and a manifest that knows the size and
SHA-256 of each file and the rows of each table. Runs go on while it is taken. Both databases are looked at first, the
history a moment before the warehouse (see `dumps.moment`), and then the files that the lakes' catalogs named at that
moment are copied: a lake never changes a file, it only adds and, long after, removes some.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

import filelock
from pydantic import BaseModel, ValidationError

from codeloc import archive, dumps, postgres
from codeloc.commands import Command
from codeloc.errors import CodelocError
from codeloc.home import Restoring, State
from codeloc.psql import session
from codeloc.targets import Say, Target
from codeloc.variables import roles as platform_roles
from codeloc.workspace import locations

# Told a text, bytes done, and bytes in all.
Progress = Callable[[str, int, int], None]

MANIFEST = "manifest.json"
# As sha256sum writes and checks it.
MANIFEST_CHECKSUM = "manifest.json.sha256"
# Below it the files lie as below a platform's home.
_HOME = "home"
_DATABASES = (postgres.DAGSTER, postgres.WAREHOUSE)
_FOLDERS = (archive.OWN_FILES, archive.REPORTS, archive.OUTPUT)
_DRAFT = ".codeloc-backup-"
_LOCK = ".codeloc-backup.lock"


class KeptFile(BaseModel):
    """A file of a backup: its path in it, size in bytes, when it was changed, SHA-256."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


class KeptTable(BaseModel):
    """What a table of a database held."""

    rows: int
    hash: str


class KeptLake(BaseModel):
    """What a lake held: its newest snapshot, and the size in bytes of its files together."""

    snapshot: int
    files: int
    size: int


class Manifest(BaseModel):
    """What is in a backup.

    Attributes
    ----------
    made
        When, in UTC: of runs and tables it holds what was committed then.
    roles
        Database roles that must be there when it is restored.
    lakes_on_s3
        Where the lakes' files were, if they are not in the backup.
    not_copied
        Those files, with their sizes in bytes.
    folders
        Folders below the home, which may be empty.
    """

    format: Literal[1] = 1
    made: datetime
    target: str
    dagster_version: str
    postgres_version: str
    source: str
    ports: dict[str, int]
    roles: list[str]
    databases: dict[str, dict[str, KeptTable]]
    lakes: dict[str, KeptLake]
    lakes_on_s3: str | None
    not_copied: dict[str, int]
    folders: list[str]
    files: list[KeptFile]

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def rows(self) -> int:
        """Of all tables of both databases; the lakes' rows are in files."""
        return sum(table.rows for tables in self.databases.values() for table in tables.values())

    def in_words(self) -> str:
        """Its size in words."""
        tables = sum(map(len, self.databases.values()))
        return (
            f"{tables} tables with {self.rows:,} rows in two databases, {len(self.files):,} files, {_size(self.size)}"
        )


# -- backup ---------------------------------------------------------------------------------------


def make_backup(target: Target, folder: Path, say: Say, progress: Progress) -> tuple[Path, Manifest]:
    """Take a backup while the platform goes on.

    Parameters
    ----------
    folder
        Holds the backups: this one becomes a folder in it, named by its time in UTC, once it is whole.

    Raises
    ------
    CodelocError
        Postgres does not answer, a file that a lake needs is not there, or the disk is full. No
        half of a backup is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder), target.reachable(say):
        for left in folder.glob(f"{_DRAFT}*.part"):
            say(f"removing {left.name}, which an interrupted backup left")
            shutil.rmtree(left)
        draft = folder / f"{_DRAFT}{os.getpid()}.part"
        try:
            draft.mkdir(mode=0o700)
            manifest = _fill(target, draft, say, progress)
            text = manifest.model_dump_json(indent=1).encode()
            (draft / MANIFEST).write_bytes(text)
            (draft / MANIFEST_CHECKSUM).write_text(
                f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n", encoding="ascii"
            )
            # Before the name says that all is there.
            os.sync()
            whole = draft.rename(folder / manifest.made.strftime("%Y%m%dT%H%M%SZ"))
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CodelocError(
                    f"the disk that {folder} is on is full: nothing of this backup was left on it"
                ) from None
            raise
    return whole, manifest


def _fill(target: Target, draft: Path, say: Say, progress: Progress) -> Manifest:
    psql = target.program("psql")
    with dumps.moment(psql) as seen:
        made = datetime.now(UTC)
        say("dumping the databases")
        kept = [_dump(target, database, snapshot, draft) for database, (_, snapshot) in seen.items()]
        databases = {
            database: {
                name: KeptTable(rows=rows, hash=hashed) for name, (rows, hashed) in dumps.content(opened).items()
            }
            for database, (opened, _) in seen.items()
        }
        sessions = [opened for opened, _ in seen.values()]
        roles = sorted({role for opened in sessions for role in dumps.roles(opened)})
        warehouse = seen[postgres.WAREHOUSE][0]
        version = warehouse.value("current_setting('server_version')")
        lakes = dumps.lakes(warehouse)
        for opened in sessions:
            # Holds neither tables nor old rows any longer; the lock that keeps the lakes' files, it does.
            opened.run("COMMIT")
        needed = {path: size for lake in lakes.values() for path, size in lake.files.items()}
        on_s3 = target.lakes_on_s3
        if on_s3:
            say(f"the lakes' {len(needed):,} files are at {on_s3} and not copied: have the bucket keep versions")
        wanted = {} if on_s3 else needed
        found = json.loads(target.archive.with_words("find").run(json.dumps(_FOLDERS) + "\n"))
        total = sum(wanted.values()) + sum(found["files"].values())
        _require_space(draft, total)
        own = _copy(target.archive, [*wanted, *found["files"]], wanted, draft, total, progress)
    return Manifest(
        made=made,
        target=target.name,
        dagster_version=found["dagster"],
        postgres_version=version,
        source=target.state.source,
        ports=target.state.ports,
        roles=roles,
        databases=databases,
        lakes={
            name: KeptLake(snapshot=lake.snapshot, files=len(lake.files), size=sum(lake.files.values()))
            for name, lake in lakes.items()
        },
        lakes_on_s3=on_s3,
        not_copied=needed if on_s3 else {},
        folders=found["folders"],
        files=[*kept, *own],
    )


def _dump(target: Target, database: str, snapshot: str, draft: Path) -> KeptFile:
    path = _dump_name(database)
    with dumps.dump(target.program("pg_dump"), database, snapshot).piped() as (_, printed):
        return _keep(draft, path, iter(lambda: printed.read(1 << 20), b""), mtime_ns=0)


def _copy(
    program: Command, paths: list[str], needed: dict[str, int], draft: Path, total: int, progress: Progress
) -> list[KeptFile]:
    """Copy files out of the platform; of those in `needed` each must be there, in its size."""
    text = f"copying {len(paths):,} files, {_size(total)}"
    done = 0
    kept = []
    with program.with_words("send").piped() as (given_to, printed):
        given_to.write(json.dumps(paths).encode() + b"\n")
        given_to.flush()
        for sent, content in archive.received(printed):
            if sent.path in needed and sent.size != needed[sent.path]:
                raise CodelocError(
                    f"{sent.path}, which its lake needs, "
                    + ("is not there" if sent.size is None else f"has {sent.size:,} bytes of {needed[sent.path]:,}")
                    + ": the lake is damaged. Restore an earlier backup, or load anew what that table holds"
                )
            if sent.size is None:
                continue
            kept.append(
                _keep(draft, f"{_HOME}/{sent.path}", _counted(content, text, done, total, progress), sent.mtime_ns)
            )
            done += sent.size
    progress(text, total, total)
    return kept


def _keep(draft: Path, path: str, content: Iterable[bytes], mtime_ns: int) -> KeptFile:
    place = draft / path
    place.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with place.open("wb") as file:
        for block in content:
            file.write(block)
            digest.update(block)
            size += len(block)
    return KeptFile(path=path, size=size, mtime_ns=mtime_ns, sha256=digest.hexdigest())


def _counted(content: Iterable[bytes], text: str, done: int, total: int, progress: Progress) -> Iterator[bytes]:
    for block in content:
        progress(text, done, total)
        done += len(block)
        yield block


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CodelocError(
            f"the backup needs {_size(needed)}, and the disk that {folder.parent} is on has {_size(free)}"
        )


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    try:
        with filelock.FileLock(folder / _LOCK).acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise CodelocError(f"another backup is being made in {folder}: wait for its end") from None


# -- restore --------------------------------------------------------------------------------------


def read_backup(backup: Path, progress: Progress) -> Manifest:
    """The manifest of a backup of which every byte is as it was.

    Raises
    ------
    CodelocError
        A file of it is missing or damaged; by name.
    """
    manifest = _read_manifest(backup)
    text, done = f"checking the backup, {len(manifest.files):,} files, {_size(manifest.size)}", 0
    for file in manifest.files:
        progress(text, done, manifest.size)
        try:
            size, sha256 = archive.checksum(backup / file.path)
        except FileNotFoundError:
            raise CodelocError(f"{backup} is damaged: {file.path} is missing. {_NOTHING_WRITTEN}") from None
        if size != file.size:
            raise CodelocError(
                f"{backup} is damaged: {file.path} has {size:,} bytes and had {file.size:,}. {_NOTHING_WRITTEN}"
            )
        if sha256 != file.sha256:
            raise CodelocError(
                f"{backup} is damaged: the content of {file.path} is not what it was. {_NOTHING_WRITTEN}"
            )
        done += size
    progress(text, manifest.size, manifest.size)
    return manifest


_NOTHING_WRITTEN = "Nothing was restored: take another backup"


def _read_manifest(backup: Path) -> Manifest:
    try:
        text = (backup / MANIFEST).read_bytes()
        told = (backup / MANIFEST_CHECKSUM).read_text(encoding="ascii", errors="replace").split()
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = sorted(found.parent.name for found in backup.glob(f"*/{MANIFEST}")) if backup.is_dir() else []
        hint = f"; it holds backups, the newest is {backup / inside[-1]}" if inside else ""
        raise CodelocError(f"{backup} is not a backup: there is no {Path(error.filename).name} in it{hint}") from None
    if told[:1] != [hashlib.sha256(text).hexdigest()]:
        raise CodelocError(f"{backup} is damaged: the content of {MANIFEST} is not what it was. {_NOTHING_WRITTEN}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise CodelocError(f"{backup / MANIFEST} was made by another version of codeloc: {error}") from None


def restore(target: Target, backup: Path, say: Say, progress: Progress) -> Manifest:
    """Restore a backup into an empty platform, and compare every table and file that is there then with it.

    Raises
    ------
    CodelocError
        The backup is damaged, the platform is not empty, or what was restored is not what was
        backed up. Until the end the platform counts as half of one and does not start.
    """
    manifest = read_backup(backup, progress)
    _require_same_kind_of_lakes(manifest, target.lakes_on_s3)
    with target.still(say) as interrupted, dumps.alone(target.program("psql")):
        psql = target.program("psql")
        program = target.archive
        if interrupted is None:
            _require_empty(target, psql)
        else:
            say(f"an earlier restore, of {interrupted.backup}, did not come to its end: beginning anew")
        _require_not_newer(manifest, json.loads(program.with_words("find").run("[]\n"))["dagster"])
        own = platform_roles(locations())
        _require_roles(manifest, psql, own)
        restoring = Restoring(str(backup), manifest.dagster_version)
        target.begin(restoring, say)
        if interrupted is not None:
            program.with_words("clear").run()
        say("restoring the databases")
        for database in _DATABASES:
            dumps.empty(psql, database, own[1:])
            dump = Command([str(postgres.programs() / "pg_restore"), str(backup / _dump_name(database))])
            dumps.load(psql, dump, database)
        _put(program, backup, manifest, progress)
        _compare(psql, program, manifest, say, progress)
        target.end(restoring, State(manifest.source, manifest.ports))
    return manifest


def _require_same_kind_of_lakes(manifest: Manifest, on_s3: str | None) -> None:
    if manifest.lakes_on_s3 and not on_s3:
        raise CodelocError(
            f"the lakes of this backup have their files at {manifest.lakes_on_s3}, and they are not in it: set"
            " WAREHOUSE_DATA to that address, or to one that they were copied to"
        )
    if on_s3 and any(lake.files for lake in manifest.lakes.values()) and not manifest.lakes_on_s3:
        raise CodelocError(
            f"the lakes' files are in this backup, and WAREHOUSE_DATA={on_s3} is no folder to put them into: unset it"
        )


def _require_empty(target: Target, psql: Command) -> None:
    tops = json.dumps([archive.LAKES, archive.OWN_FILES, archive.REPORTS])
    files = json.loads(target.archive.with_words("find").run(tops + "\n"))["files"]
    there = dumps.what_is_there(psql) or (f"{len(files):,} files, {min(files)} among them" if files else None)
    if there:
        raise CodelocError(
            f"a backup is restored into an empty platform only, and in this one there are {there}. Nothing was changed."
            f" For an empty one: {target.how_to_empty}"
        )


def _require_not_newer(manifest: Manifest, dagster_version: str) -> None:
    def as_numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")[:3] if part.isdigit()]

    if as_numbers(manifest.dagster_version) > as_numbers(dagster_version):
        raise CodelocError(
            f"the backup is of Dagster {manifest.dagster_version}, and this is {dagster_version}, which cannot read its"
            " storage: check out the version of this repository that it was made with, or a later one"
        )


def _require_roles(manifest: Manifest, psql: Command, own: list[str]) -> None:
    with session(psql, "postgres") as server:
        there = {row["rolname"] for row in server.rows("SELECT rolname FROM pg_roles")}
    missing = sorted(set(manifest.roles) - there - set(own))
    if missing:
        raise CodelocError(
            f"something in the backup belongs to, or is open to, the database role {', '.join(missing)}, and there is"
            " none: a location of that name is missing in workspace.yaml; or make it (CREATE ROLE) and restore again"
        )


def _put(program: Command, backup: Path, manifest: Manifest, progress: Progress) -> None:
    files = _home_files(manifest)
    total = sum(file.size for file in files.values())
    text, done = f"restoring {len(files):,} files, {_size(total)}", 0
    with program.with_words("put").piped() as (given_to, _):
        for folder in manifest.folders:
            archive.send_folder(given_to, folder)
        for path, file in files.items():
            progress(text, done, total)
            with (backup / file.path).open("rb") as opened:
                archive.send_file(given_to, path, opened, file.mtime_ns)
            done += file.size
        archive.end_stream(given_to)
    progress(text, total, total)


def _compare(psql: Command, program: Command, manifest: Manifest, say: Say, progress: Progress) -> None:
    say("comparing every table")
    for database, tables in manifest.databases.items():
        with session(psql, database) as opened:
            restored = dumps.content(opened)
        for name in sorted(tables.keys() | restored.keys()):
            kept = (tables[name].rows, tables[name].hash) if name in tables else None
            if restored.get(name) != kept:
                raise CodelocError(
                    f"table {name} of the database {database} is not as in the backup:"
                    f" {_rows(restored.get(name))}, and it was {_rows(kept)}"
                )
    files = _home_files(manifest)
    total = sum(file.size for file in files.values())
    text, done = f"comparing {len(files):,} files, {_size(total)}", 0
    with program.with_words("check").piped() as (given_to, printed):
        given_to.write(json.dumps(list(files)).encode() + b"\n")
        given_to.flush()
        for path, file in files.items():
            progress(text, done, total)
            if json.loads(_line(printed)) != [path, file.size, file.sha256]:
                raise CodelocError(f"{path} is not as in the backup")
            done += file.size
    progress(text, total, total)


def _line(printed: BinaryIO) -> bytes:
    line = printed.readline()
    if not line:
        raise EOFError("not every file was compared")
    return line


def _rows(content: tuple[int, str] | None) -> str:
    return "missing" if content is None else f"{content[0]:,} rows with hash {content[1]}"


def _home_files(manifest: Manifest) -> dict[str, KeptFile]:
    """The backup's files by their path below a platform's home."""
    prefix = f"{_HOME}/"
    return {file.path.removeprefix(prefix): file for file in manifest.files if file.path.startswith(prefix)}


def _dump_name(database: str) -> str:
    return f"{database}.dump"


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
