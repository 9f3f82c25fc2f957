"""Ad-hoc requests: files that people put into a folder, read with care, since anybody may write anything into them."""

import hashlib
import heapq
import json
import os
import re
import stat
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

EARLIEST = date(2011, 1, 1)  # of the files that can be loaded
MOST_DAYS = 366
MOST_BYTES = 10_000
# Of the folder's files, the newest ones that are looked at.
MOST_FILES = 1_000

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NAME_IN_WORDS = "must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit"


def _day(value: object) -> date:
    # Pydantic by itself would take a number of seconds in quotes for a date, too.
    try:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise PydanticCustomError("not_a_date", "must be a date")


Day = Annotated[date, BeforeValidator(_day)]


class AdhocRequest(BaseModel):
    """A chart that somebody asks for: a borough's trips per hour by weekday over a period.

    Attributes
    ----------
    borough
        As TLC names it; EWR is Newark Airport.
    from_day, to_day
        First and last day of the pickups, both within the period.
    service
        None for both together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    borough: Literal["Manhattan", "Brooklyn", "Queens", "Bronx", "Staten Island", "EWR"]
    from_day: Day = Field(alias="from")
    to_day: Day = Field(alias="to")
    service: Literal["yellow", "green"] | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.from_day < EARLIEST:
            raise ValueError(f"from: {self.from_day} is before {EARLIEST}, when the trips begin")
        if self.from_day > self.to_day:
            raise ValueError(f"from: {self.from_day} is after to, {self.to_day}")
        if self.days > MOST_DAYS:
            raise ValueError(f"to: {self.days} days from {self.from_day} to {self.to_day} are more than {MOST_DAYS}")
        return self

    @property
    def days(self) -> int:
        """Length of the period."""
        return (self.to_day - self.from_day).days + 1


class BadRequestError(Exception):
    """A request cannot be followed; the message names the field and says what is wrong with it."""


@dataclass(frozen=True)
class FiledRequest:
    """A request and the file it came in.

    Attributes
    ----------
    name
        The file's name without `.json`; it names the result.
    version
        First 16 hexadecimal digits of the SHA-256 of the content.
    changed
        When the file was last written or put in its place, nanoseconds since 1970: unlike the time of its content,
        a move or copy does not bring an old one along.
    """

    name: str
    version: str
    changed: int
    request: AdhocRequest


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong with a file; `version` as in `FiledRequest`, empty where the content was not read."""

    file: str
    problem: str
    version: str


@dataclass(frozen=True)
class Folder:
    """What is in the folder: requests, oldest file first, and what keeps the other files from being one."""

    requests: list[FiledRequest]
    problems: list[Problem]


def read_folder(folder: Path) -> Folder:
    """Every request in the folder; none where there is no such folder.

    Hidden files and those that end in `.part` are being written and left alone.
    """
    try:
        with os.scandir(folder) as entries:
            found = heapq.nlargest(MOST_FILES + 1, (entry for entry in map(_dated, entries) if entry))
    except FileNotFoundError:
        return Folder([], [])
    requests: list[FiledRequest] = []
    problems: list[Problem] = []
    if len(found) > MOST_FILES:
        looked_at = f"only the newest {MOST_FILES:,} files are looked at: remove requests that are no longer needed"
        problems.append(Problem("(folder)", looked_at, ""))
    for _, name in sorted(found[:MOST_FILES]):
        read = read_file(folder / name)
        if isinstance(read, FiledRequest):
            requests.append(read)
        elif read is not None:
            problems.append(read)
    return Folder(requests, sorted(problems))


def _dated(entry: "os.DirEntry[str]") -> tuple[int, str] | None:
    if entry.name.startswith(".") or entry.name.endswith(".part"):
        return None
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns, entry.name
    except FileNotFoundError:
        return None


def read_file(file: Path) -> FiledRequest | Problem | None:
    """The request in one file, or what is wrong with it; None where the file is gone."""
    shown = file.name.encode("utf-8", "backslashreplace").decode("utf-8")
    name = file.name.removesuffix(".json")
    if name == file.name:
        return Problem(shown, "the file's name must end in .json", "")
    try:
        check_name(name)
        content, changed = _read(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Problem(shown, f"cannot be read: {error.strerror}", "")
    except BadRequestError as error:
        return Problem(shown, str(error), "")
    version = hashlib.sha256(content).hexdigest()[:16]
    try:
        return FiledRequest(name, version, changed, parse_request(content))
    except BadRequestError as error:
        return Problem(shown, str(error), version)


def check_name(name: str) -> None:
    """Refuse a name that its results could not be called by, or that would lead out of their folder.

    Raises
    ------
    BadRequestError
        With the rule.
    """
    if not _NAME.fullmatch(name):
        raise BadRequestError(f"name: {_NAME_IN_WORDS}, not {_shown(name)}")


def _read(file: Path) -> tuple[bytes, int]:
    """Content of a file, and when it was put there."""
    if file.is_symlink():
        raise BadRequestError("is a link, and links are not followed: put a copy of the file here")
    # Without O_NONBLOCK a pipe would be waited for; O_NOFOLLOW for a link that was put here just now.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadRequestError("is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            content = opened.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise BadRequestError(f"is larger than {MOST_BYTES:,} bytes")
    return content, status.st_ctime_ns


def parse_request(content: bytes) -> AdhocRequest:
    """The request that `content` is the JSON of.

    Raises
    ------
    BadRequestError
        With every field that is wrong.
    """
    try:
        text = content.decode("utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError as error:
        raise BadRequestError(f"is not text in UTF-8: byte {error.start} cannot be read") from None
    try:
        return AdhocRequest.model_validate_json(text)
    except ValidationError as error:
        raise BadRequestError("; ".join(_sentence(problem) for problem in error.errors())) from None


def make_request(borough: str, from_day: str, to_day: str, service: str | None) -> AdhocRequest:
    """The request with these values, checked as those of a file are.

    Raises
    ------
    BadRequestError
        With every field that is wrong.
    """
    values = {"borough": borough, "from": from_day, "to": to_day, "service": service}
    return parse_request(json.dumps(values).encode())


def _sentence(problem: ErrorDetails) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else ""
    match problem["type"]:
        case "json_invalid":
            return f"is not JSON: {problem['ctx']['error']}"
        case "model_type":
            return 'must be an object such as {"borough": "Queens", "from": "2023-01-01", "to": "2023-01-31"}'
        case "value_error":
            return str(problem["ctx"]["error"])
        case "missing":
            return f"{field}: is missing"
        case "extra_forbidden":
            return f"{_shown(field, quoted=False)}: is not a field; those are borough, from, to and service"
        case "literal_error":
            return f"{field}: must be {problem['ctx']['expected']}, not {_shown(problem['input'])}"
        case "not_a_date":
            return f"{field}: must be a date such as '2023-01-31', not {_shown(problem['input'])}"
    return f"{field}: {problem['msg']}"


def _shown(value: object, quoted: bool = True) -> str:
    """A value as somebody wrote it, short, and without anything a terminal or page could stumble over."""
    text = ascii(value)
    return (text if len(text) <= 60 else f"{text[:57]}...").strip("" if quoted else "'")
