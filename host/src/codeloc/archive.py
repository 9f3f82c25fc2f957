"""Files on their way between a platform's folders and a backup.

`python -m codeloc.archive` runs where the folders are, which with Docker Compose is a container that mounts the
volumes, and speaks to `codeloc backup` and `codeloc restore` through its standard input and output. Not tar: a file
that vanishes or grows while it is read is no error here, and times are kept to the nanosecond, as sensors compare them.
"""

import argparse
import contextlib
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from codeloc.home import Home

LAKES = "lakes"
# What else a backup holds, below a platform's home: the locations' own files, their reports, what runs printed.
OWN_FILES = "files"
REPORTS = "served/reports"
OUTPUT = "dagster/storage"
# How the locations name a file that is being written: it is renamed when it is whole.
_DRAFTS = (".part", ".partial")
_BLOCK = 1 << 20


class ArchiveError(Exception):
    """A file is not what it should be; the message names it."""


@dataclass(frozen=True)
class Places:
    """Where files lie that a backup knows by a path relative to the platform's home.

    Attributes
    ----------
    lakes
        Where what is below `lakes` really is.
    """

    home: Home
    lakes: Path

    def at(self, path: str) -> Path:
        """The place of a file or folder.

        Raises
        ------
        ArchiveError
            The path leads out of the home.
        """
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ArchiveError(f"{path!r} is no path below a platform's home")
        return self.lakes.joinpath(*parts[1:]) if parts[0] == LAKES else self.home.path.joinpath(*parts)


@dataclass(frozen=True)
class Found:
    """What lies below some folders: sizes in bytes of the files, and the folders, which may be empty."""

    files: dict[str, int]
    folders: list[str]


@dataclass(frozen=True)
class Sent:
    """A file in a stream, its content to follow; or a folder. `size` is None where the file was gone by then."""

    path: str
    size: int | None
    mtime_ns: int = 0
    is_folder: bool = False


def find(places: Places, tops: Iterable[str]) -> Found:
    """Everything below these folders but what is being written; what vanishes meanwhile is left out."""
    found = Found({}, [])
    for top in tops:
        start = places.at(top)
        for folder, folders, names in os.walk(start):
            folders.sort()
            relative = PurePosixPath(top) / Path(folder).relative_to(start).as_posix()
            found.folders.append(str(relative))
            for name in sorted(names):
                with contextlib.suppress(FileNotFoundError):
                    status = (Path(folder) / name).lstat()
                    if not name.endswith(_DRAFTS) and stat.S_ISREG(status.st_mode):
                        found.files[str(relative / name)] = status.st_size
    return found


def clear(places: Places) -> None:
    """Remove everything below the folders that a backup is restored into; the folders stay, they may be mounts."""
    for top in (LAKES, OWN_FILES, REPORTS, OUTPUT):
        for folder, _, names in os.walk(places.at(top)):
            for name in names:
                (Path(folder) / name).unlink()


# -- the stream -----------------------------------------------------------------------------------


def send(places: Places, paths: Iterable[str], out: BinaryIO) -> None:
    """Write these files into a stream, each as long as it was when it was opened."""
    for path in paths:
        try:
            with places.at(path).open("rb") as file:
                send_file(out, path, file)
        except FileNotFoundError:
            _send_header(out, Sent(path, None))
    end_stream(out)


def send_file(out: BinaryIO, path: str, file: BinaryIO, mtime_ns: int | None = None) -> None:
    """Write one opened file into a stream, with the time it was changed at, unless another is given."""
    status = os.fstat(file.fileno())
    _send_header(out, Sent(path, status.st_size, status.st_mtime_ns if mtime_ns is None else mtime_ns))
    for block in blocks(file, status.st_size, path):
        out.write(block)


def send_folder(out: BinaryIO, path: str) -> None:
    """Write a folder into a stream, which has it made."""
    _send_header(out, Sent(path, 0, is_folder=True))


def end_stream(out: BinaryIO) -> None:
    """Say that nothing follows: a stream without this was cut off."""
    out.write(b"{}\n")
    out.flush()


def received(source: BinaryIO) -> Iterator[tuple[Sent, Iterator[bytes]]]:
    """What comes in a stream; each content must be read before the next.

    Raises
    ------
    EOFError
        The stream was cut off.
    """
    while True:
        line = source.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the stream of files was cut off")
        header = json.loads(line)
        if not header:
            return
        sent = Sent(**header)
        yield sent, blocks(source, sent.size or 0, sent.path)


def blocks(source: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    """So many bytes of a file.

    Raises
    ------
    EOFError
        It has fewer.
    """
    left = size
    while left:
        block = source.read(min(_BLOCK, left))
        if not block:
            raise EOFError(f"{name} ends {left:,} bytes before its end")
        left -= len(block)
        yield block


def put(places: Places, source: BinaryIO) -> None:
    """Write the files of a stream to their places."""
    for sent, content in received(source):
        place = places.at(sent.path)
        if sent.is_folder:
            place.mkdir(parents=True, exist_ok=True)
        if sent.is_folder or sent.size is None:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            for block in content:
                file.write(block)
        os.utime(place, ns=(sent.mtime_ns, sent.mtime_ns))


def checksum(file: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
        return opened.tell(), digest.hexdigest()


def _send_header(out: BinaryIO, sent: Sent) -> None:
    out.write(json.dumps(vars(sent)).encode() + b"\n")


# -- the program ----------------------------------------------------------------------------------


def main() -> None:
    """Run one of the commands; what it needs to know comes as JSON, a line, through standard input."""
    parser = argparse.ArgumentParser(prog="python -m codeloc.archive", description=__doc__)
    parser.add_argument("command", choices=["find", "send", "put", "check", "clear"])
    parser.add_argument("--home", type=Path, default=Path("/data"), help="the platform's home")
    parser.add_argument("--lakes", type=Path, help="the lakes' files, where they are elsewhere")
    arguments = parser.parse_args()
    home = Home(arguments.home)
    places = Places(home, arguments.lakes or home.lakes)
    source, out = sys.stdin.buffer, sys.stdout.buffer
    try:
        match arguments.command:
            case "find":
                found = find(places, json.loads(source.readline()))
                out.write(json.dumps(vars(found) | {"dagster": version("dagster")}).encode() + b"\n")
            case "send":
                send(places, json.loads(source.readline()), out)
            case "put":
                put(places, source)
            case "check":
                for path in json.loads(source.readline()):
                    out.write(json.dumps([path, *_checksum_or_missing(places.at(path))]).encode() + b"\n")
                    out.flush()
            case "clear":
                clear(places)
    except (ArchiveError, EOFError, OSError) as error:
        sys.exit(f"codeloc: {error}")


def _checksum_or_missing(file: Path) -> tuple[int, str]:
    try:
        return checksum(file)
    except FileNotFoundError:
        return 0, "missing"


if __name__ == "__main__":
    main()
