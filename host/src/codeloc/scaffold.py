"""A new code location in the repository, and out of it again: its package, and its entries in the files that list them.

The entries are put in as text, so that comments stay: each next to the one of a location that is there already.
"""

import importlib.util
import keyword
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import yaml

from codeloc import postgres
from codeloc.environments import EnvironmentFailedError, find_uv
from codeloc.errors import CodelocError
from codeloc.home import ROOT, write_whole
from codeloc.platform import TOOLS
from codeloc.workspace import bi_schemas, locations

Say = Callable[[str], None]

# Sockets lie in a folder of that name, and their paths are short.
LONGEST_NAME = 20
_TEMPLATES = "templates"
_SUFFIX = ".tmpl"


@dataclass(frozen=True)
class _Entry:
    """Lines of a location in a file that lists them.

    Attributes
    ----------
    after
        The lines of the model that these come behind, as often as they stand there; empty: at the end of the part.
    within
        The part of the file that is looked at: from the first of these texts to the second.
    """

    file: str
    lines: str
    after: str
    within: tuple[str, str] | None = None


def new(name: str, say: Say) -> Path:
    """Make a location's package and its entries; returns its folder. All of it or nothing.

    Raises
    ------
    CodelocError
        The name cannot be had, or the lock could not be made.
    """
    _require_free(name)
    folder = ROOT / "locations" / name
    say(f"writing {folder}")
    try:
        _render(files(__package__).joinpath(_TEMPLATES, "location"), folder, name)
        say("locking what it depends on")
        _lock(folder, say)
        # Read only now: while it was locked, which may take a minute, somebody may have saved one of them.
        texts = _texts()
        changed = dict(texts)
        for entry in _entries(name, model=locations()[-1].name):
            changed[entry.file] = _with(changed[entry.file], entry)
        _write_all(changed, instead_of=texts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def remove(name: str, *, forced: bool) -> None:
    """Take a location's entries out, and its package.

    Raises
    ------
    CodelocError
        Its folder has changes that git does not have, and it is not forced; or something would go on naming it.
    """
    folder = ROOT / "locations" / name
    if not forced and (unsaved := _unsaved(folder)):
        raise CodelocError(
            f"git does not have everything in {folder}: {', '.join(unsaved[:3])}"
            f"{' ...' if len(unsaved) > 3 else ''}. Commit it, or let it go with --force"
        )
    texts = _texts()
    changed = dict(texts)
    # The block of its service first, whose lines stand elsewhere too.
    for entry in reversed(list(_entries(name, model=name))):
        if entry.lines not in changed[entry.file]:
            raise CodelocError(
                f"{ROOT / entry.file} was changed by hand where it names {name}: take it out there yourself, with"
                f" locations/{name}. Not found:\n{entry.lines}"
            )
        changed[entry.file] = changed[entry.file].replace(entry.lines, "")
    schemas = [schema for schema, location in bi_schemas().items() if location == name]
    named = [
        *(f"{COMPOSE}, {place}" for place in _dangling(changed[COMPOSE])),
        *(f"pyproject.toml, [tool.codeloc.bi_schemas], {schema}" for schema in schemas),
    ]
    if named:
        raise CodelocError(f"{name} cannot go while it is named elsewhere; take it out there first: {'; '.join(named)}")
    _write_all(changed, instead_of=texts)
    shutil.rmtree(folder)


COMPOSE = "docker-compose.yml"
FILES = ("workspace.yaml", "dg.toml", COMPOSE, ".env.example")


def _entries(name: str, model: str) -> Iterator[_Entry]:
    """What stands in which file of a location; `model` is one that is there already."""

    def beside(file: str, line: str, within: tuple[str, str] | None = None) -> _Entry:
        return _Entry(file, _named(line, name), _named(line, model), within)

    yield beside("workspace.yaml", "  - grpc_server: { location_name: name, socket: run/name/current }\n")
    yield _Entry(
        "dg.toml",
        f'\n[[workspace.projects]]\npath = "locations/{name}"\n',
        f'path = "locations/{model}"\n',
    )
    yield beside(".env.example", "#NAME_DB_PASSWORD=\n")
    yield beside(".env.example", "#NAME_TAG=dev\n")
    yield beside(COMPOSE, "      NAME_DB_PASSWORD:\n")
    yield beside(COMPOSE, "      - settings-name:/data/settings/name\n")
    yield beside(COMPOSE, "      - sockets-name:/app/run/name:ro\n")
    archive = ("\n  archive:\n", "\n\n")
    yield beside(COMPOSE, "      - lake-name:/data/lakes/name\n", archive)
    yield beside(COMPOSE, "      - files-name:/data/files/name\n", archive)
    for volume in ("lake", "files", "sockets", "settings"):
        yield beside(COMPOSE, f"  {volume}-name:\n")
    service = files(__package__).joinpath(_TEMPLATES, f"service.yml{_SUFFIX}").read_text(encoding="utf-8")
    filled = Template(service).substitute(name=name, variable=name.upper())
    yield _Entry(COMPOSE, filled, "", ("services:", "\nnetworks:\n"))


def _named(line: str, name: str) -> str:
    return re.sub(r"\bNAME(?=_)", name.upper(), re.sub(r"(?<![a-z_])name\b", name, line))


def _with(text: str, entry: _Entry) -> str:
    begin, end = 0, len(text)
    if entry.within:
        begin = text.find(entry.within[0])
        end = text.find(entry.within[1], begin + len(entry.within[0])) if begin >= 0 else -1
        if end < 0:
            raise CodelocError(f"{entry.file} has no part between {entry.within[0]!r} and {entry.within[1]!r}")
        if entry.after:
            # The last line of the part belongs to it whole.
            end += 1
    part = text[begin:end]
    if not entry.after:
        changed = part + entry.lines
    elif entry.after in part:
        changed = part.replace(entry.after, entry.after + entry.lines)
    else:
        raise CodelocError(f"{entry.file} has no line {entry.after.strip()!r}, after which the location would come")
    return text[:begin] + changed + text[end:]


def _render(templates: Traversable, folder: Path, name: str) -> None:
    folder.mkdir()
    for template in templates.iterdir():
        target = folder / template.name.replace("NAME", name).removesuffix(_SUFFIX)
        if template.is_dir():
            _render(template, target, name)
        elif template.name.endswith(_SUFFIX):
            text = Template(template.read_text(encoding="utf-8")).substitute(name=name, variable=name.upper())
            # Where the location's own imports come among the others depends on its name.
            text = re.sub(r"(?:^from .*\n){2,}", _in_order, text, flags=re.MULTILINE)
            target.write_text(text, encoding="utf-8")


def _in_order(lines: re.Match[str]) -> str:
    return "".join(sorted(lines[0].splitlines(keepends=True)))


def _lock(folder: Path, say: Say) -> None:
    try:
        uv = find_uv(TOOLS, say)
    except EnvironmentFailedError as error:
        raise CodelocError(str(error)) from None
    done = subprocess.run([str(uv), "lock", "--project", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CodelocError(f"what {folder.name} depends on could not be locked:\n{done.stderr.strip()}")


def _texts() -> dict[str, str]:
    return {file: (ROOT / file).read_text(encoding="utf-8") for file in FILES}


def _write_all(texts: dict[str, str], instead_of: dict[str, str]) -> None:
    """Write all files or none; `instead_of` is what is in them."""
    try:
        for file, text in texts.items():
            _write(ROOT / file, text)
    except BaseException:
        for file, text in instead_of.items():
            _write(ROOT / file, text)
        raise


def _write(file: Path, text: str) -> None:
    if file.read_text(encoding="utf-8") != text:
        mode = file.stat().st_mode
        write_whole(file, text)
        file.chmod(mode)


def _dangling(compose: str) -> Iterator[str]:
    """Where a docker-compose.yml names a volume, a service or an anchor that it does not have."""
    try:
        parsed = yaml.safe_load(compose)
    except yaml.YAMLError as error:
        yield " ".join(str(error).split())
        return
    for name, service in parsed["services"].items():
        for mount in service.get("volumes", []):
            volume = str(mount).split(":")[0]
            if re.fullmatch(r"[\w-]+", volume) and volume not in parsed["volumes"]:
                yield f"service {name}: {mount}"
        for needed in service.get("depends_on", {}):
            if needed not in parsed["services"]:
                yield f"service {name}: depends_on {needed}"


def _unsaved(folder: Path) -> list[str]:
    """Files of a folder that git does not have as they are; ignored ones don't count."""
    done = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all", "--", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return ["nobody can say, there is no git here"]
    return [line[3:] for line in done.stdout.splitlines()]


def _require_free(name: str) -> None:
    # Lone '_': the package's project is named with '-' in its place, its image cannot have three in a row.
    if (
        not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
        or len(name) > LONGEST_NAME
        or keyword.iskeyword(name)
        or yaml.safe_load(name) != name
    ):
        raise CodelocError(
            f"'{name}' cannot be a location: a name has small letters, digits and single '_' between them, begins with"
            f" a letter, is no word of Python's or YAML's, and has {LONGEST_NAME} characters at most"
        )
    listed = {location.name for location in locations()}
    if name not in listed and (ROOT / "locations" / name).exists():
        raise CodelocError(
            f"locations/{name} is there, and workspace.yaml does not list it: remove the folder, which a `new` that was"
            " killed may have left, or choose another name"
        )
    taken = {
        *listed,
        # Packages, database roles and services.
        *("host", "shared", "tests", "codeloc", "taxi_shared", "dagster", "duckdb", "postgres", "public", "none"),
        *(postgres.DAGSTER, postgres.WAREHOUSE, postgres.READER, postgres.BI, "marts", "raw", "landing"),
        # What DuckDB itself attaches and makes; a lake is attached by its location's name.
        *("memory", "system", "temp", "main"),
        *re.findall(r"^  ([a-z]+):(?: &\w+)?$", (ROOT / COMPOSE).read_text(encoding="utf-8"), re.MULTILINE),
    }
    # Postgres keeps pg_ for itself; and where there is a module of that name already, one of both is never imported.
    if name in taken or name.startswith("pg_") or importlib.util.find_spec(name) is not None:
        raise CodelocError(f"'{name}' is taken: choose another name")
