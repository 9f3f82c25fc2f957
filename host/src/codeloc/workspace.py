"""The code locations, read from workspace.yaml: the one list that everything else follows; and what is set for all."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codeloc.errors import CodelocError
from codeloc.home import ROOT


@dataclass(frozen=True)
class Location:
    """A team's code location: the package of the same name under `locations/`."""

    name: str

    @property
    def folder(self) -> Path:
        """The location's package."""
        return ROOT / "locations" / self.name

    @property
    def python(self) -> Path:
        """Python of the location's own environment."""
        return self.folder / ".venv" / "bin" / "python"

    @property
    def socket(self) -> str:
        """Where webserver and daemon find its code server, relative to the folder they run in."""
        return f"run/{self.name}/current"

    @property
    def module(self) -> str:
        """The location's entrance."""
        return f"{self.name}.definitions"


def locations() -> list[Location]:
    """Every location of workspace.yaml, in its order.

    Raises
    ------
    CodelocError
        An entry is not what this repository expects of one.
    """
    file = ROOT / "workspace.yaml"
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))["load_from"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CodelocError(f"{file} cannot be read as a workspace: {error}") from None
    found = []
    for entry in entries or []:
        try:
            server = entry["grpc_server"]
            location = Location(server["location_name"])
            if server["socket"] != location.socket:
                raise KeyError(location.socket)
        except (KeyError, TypeError):
            raise CodelocError(
                f"{file}: every entry must be a grpc_server with location_name NAME and socket run/NAME/current,"
                f" but one is {entry}"
            ) from None
        # The host's image has none of the packages.
        if location.folder.parent.is_dir() and not (location.folder / "pyproject.toml").exists():
            raise CodelocError(f"{file} lists '{location.name}', but there is no package at {location.folder}")
        found.append(location)
    if not found:
        raise CodelocError(f"{file} lists no code location")
    return found


def location_named(name: str) -> Location:
    """The location of that name; an error that lists them all when there is none."""
    known = {location.name: location for location in locations()}
    if name not in known:
        raise CodelocError(f"there is no location '{name}' in workspace.yaml, only {', '.join(known)}")
    return known[name]


def pools() -> dict[str, int]:
    """How many steps of all locations may use a thing at once, by pool."""
    return _configured("pools")


def bi_schemas() -> dict[str, str]:
    """Schemas of the tables for BI tools, with the location each belongs to.

    Raises
    ------
    CodelocError
        One is given to a location that does not exist.
    """
    schemas: dict[str, str] = _configured("bi_schemas")
    known = [location.name for location in locations()]
    for schema, location in schemas.items():
        if location not in known:
            raise CodelocError(
                f"{ROOT / 'pyproject.toml'}: the schema '{schema}' in [tool.codeloc.bi_schemas] is given to"
                f" '{location}', and the locations are {', '.join(known)}"
            )
    return schemas


def _configured(table: str) -> dict[str, Any]:
    """A table of `[tool.codeloc]` in the repository's pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    configured: dict[str, Any] = settings["tool"]["codeloc"][table]
    return configured
