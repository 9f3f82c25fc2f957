"""Where things are: the repository, and the folder that holds everything the platform writes."""

import json
import os
import secrets
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

from codeloc.errors import CodelocError

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Home:
    """The folder that holds everything one platform writes; two platforms need two of them."""

    path: Path

    def command(self, words: str) -> str:
        """What a person types for a command on this platform."""
        return f"./codeloc {words}" + ("" if self.path == ROOT / "var" else f" --home {shlex.quote(str(self.path))}")

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.path / "logs"

    @property
    def postgres(self) -> Path:
        """Data of the embedded Postgres."""
        return self.path / "postgres"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME: the rendered dagster.yaml, and the runs' own output."""
        return self.path / "dagster"

    @property
    def lakes(self) -> Path:
        """Parquet files of the locations' lakes."""
        return self.path / "lakes"

    @property
    def served(self) -> Path:
        """What the file server serves."""
        return self.path / "served"

    @property
    def reports(self) -> Path:
        """Pages and pictures that locations make for people; served."""
        return self.served / "reports"

    @property
    def supervisor_config(self) -> Path:
        """What the supervisor runs."""
        return self.path / "supervisor.conf"

    @property
    def supervisor_socket(self) -> Path:
        """Where the supervisor is spoken to."""
        return self.path / "supervisor.sock"

    @property
    def reader_password(self) -> Path:
        """Password file, as libpq reads it, of the role that can only read the lakes."""
        return self.path / "reader.pgpass"

    @property
    def spill(self) -> Path:
        """Where DuckDB puts what does not fit into memory."""
        return self.path / "spill"

    @property
    def releases(self) -> Path:
        """A folder per location with a folder per version: the code that its processes run."""
        return self.path / "releases"

    @property
    def environments(self) -> Path:
        """The environments of releases, one per lock that a location had."""
        return self.path / "environments"

    def sockets(self, location: str) -> Path:
        """Where the code servers of one location listen. workspace.yaml names it, relative to this folder."""
        return self.path / "run" / location

    def settings_of(self, location: str) -> Path:
        """A file to source, with what all processes of one location are told."""
        return self.path / "tmp" / f"{location}.env"

    @property
    def restoring(self) -> Path:
        """There while a backup is being restored, and for as long as an interrupted restore is not repeated."""
        return self.path / "restoring.json"

    def location_files(self, location: str) -> Path:
        """Files that one location keeps outside the warehouse."""
        return self.path / "files" / location

    def requests(self, location: str) -> Path:
        """Where people put files that ask one location for something."""
        return self.location_files(location) / "requests"

    def make(self) -> None:
        """Create the folder and what is always in it, closed to other users."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path == ROOT / "var":
            # The `codeloc` script may have made it, for uv. Others' right to pass through is kept.
            self.path.chmod(self.path.stat().st_mode & 0o711)
        for folder in (self.logs, self.dagster, self.spill, self.releases, self.environments, self.path / "tmp"):
            folder.mkdir(mode=0o700, exist_ok=True)


@dataclass
class State:
    """What a platform remembers between starts: its source and the ports it was given.

    Attributes
    ----------
    sample
        Digest of the program that made the sample's files, and of what they looked like then.
    """

    source: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    dagster_version: str = ""
    sample: str = ""

    @classmethod
    def load(cls, home: Home) -> "State":
        """What was remembered; nothing on a first start."""
        try:
            return cls(**json.loads(_state_file(home).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError):
            raise CodelocError(
                f"{_state_file(home)} is damaged: remove it, and ports and source are chosen anew"
            ) from None

    def save(self, home: Home) -> None:
        """Remember this, whole or not at all."""
        write_whole(_state_file(home), json.dumps(asdict(self), indent=2))


@dataclass(frozen=True)
class Restoring:
    """A backup that is being restored into a home: its path, and the versions that it is of.

    Attributes
    ----------
    dagster_version
        Whose storage it holds.
    """

    backup: str
    dagster_version: str

    @classmethod
    def load(cls, home: Home) -> "Restoring | None":
        """The restore that is under way or was interrupted."""
        try:
            return cls(**json.loads(home.restoring.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def error(self, again: str) -> CodelocError:
        """What whoever needs a whole platform is told; `again` is the command that restores, without the backup."""
        return CodelocError(
            f"the restore of {self.backup} did not come to its end, and this is half a platform. Repeat it, which"
            f" begins anew: {again} {shlex.quote(self.backup)}"
        )

    def begin(self, home: Home) -> None:
        """From here on the platform counts as half of one."""
        write_whole(home.restoring, json.dumps(asdict(self), indent=2))

    def end(self, home: Home, state: State) -> None:
        """The platform is whole, but for its storage: that is brought to this version of Dagster at the next start."""
        # Never that of this version, even if the backup says so: it was made of a storage that may wait for an update.
        state.dagster_version = f"{self.dagster_version} (restored)"
        state.save(home)
        home.restoring.unlink()


def passwords(home: Home, roles: list[str], given: dict[str, str]) -> dict[str, str]:
    """A password for each database role: the given one, or one made up on the first start and kept.

    Parameters
    ----------
    given
        Passwords from settings, by role; they are not written down.
    """
    file = home.path / "secrets.json"
    try:
        kept: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError:
        raise CodelocError(
            f"{file} is damaged. It holds the passwords of the database: restore it from a backup, or remove"
            f" {home.path} to start from nothing"
        ) from None
    missing = [role for role in roles if role not in kept and role not in given]
    if missing:
        kept |= {role: secrets.token_urlsafe(24) for role in missing}
        write_whole(file, json.dumps(kept, indent=2))
    return {role: given.get(role) or kept[role] for role in roles}


def save_reader(home: Home, settings: dict[str, str | int | list[str]], password_line: str) -> None:
    """Write down, for the owner of the folder alone, what a person needs to read the lakes.

    `taxi_shared.explore` reads it: `lakes`, and the fields of `taxi_shared.warehouse.Warehouse`.

    Parameters
    ----------
    password_line
        What `reader_password` shall hold. DuckDB shows the connection strings of what is attached to
        everyone who asks, hence the password is not in there.
    """
    write_whole(home.reader_password, password_line)
    write_whole(home.path / "reader.json", json.dumps(settings, indent=2))


def _state_file(home: Home) -> Path:
    return home.path / "state.json"


def write_whole(file: Path, content: str) -> None:
    """Write a file that only its owner can read, so that a reader sees it as it was or as it is."""
    # Of its own: two commands may write the same file at once. Hidden, because somebody may watch the folder.
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    write_private(draft, content)
    draft.replace(file)


def write_private(file: Path, content: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write(content)


def exports(variables: dict[str, str]) -> str:
    """A file for a shell to source that sets variables of the environment."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
