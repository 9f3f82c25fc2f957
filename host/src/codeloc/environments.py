"""The environments: one per package, made by uv from the package's own lock.

Standard library only: the `codeloc` script at the root of the repository calls `make_environment`
with nothing but python3, to make the environment that everything else runs in.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

UV_HELP = "install uv yourself (for example `pip install uv`) so that it is on PATH, and run this again"

# The part of a wheel's name that says which machine it is for.
_WHEEL_TAGS = {
    ("Linux", "x86_64"): "manylinux_2_17_x86_64",
    ("Linux", "aarch64"): "manylinux_2_17_aarch64",
    ("Darwin", "x86_64"): "macosx_10_12_x86_64",
    ("Darwin", "arm64"): "macosx_11_0_arm64",
}


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message says why and what to do."""


def is_current(package: Path) -> bool:
    """Whether the package's environment was made from its lock as it is now."""
    try:
        return _stamp_file(package).read_text(encoding="utf-8") == _fingerprint(package)
    except OSError:
        return False


def make_environment(package: Path, tools: Path, say: Callable[[str], None]) -> None:
    """Bring the package's environment to its lock; does nothing when it is there already.

    Parameters
    ----------
    package
        Folder with pyproject.toml and uv.lock; the environment is its `.venv`.
    tools
        Folder that uv is put in if the machine has none.
    say
        Told what is going on, one line at a time.

    Raises
    ------
    EnvironmentFailedError
        uv cannot be had, the lock does not fit pyproject.toml, or a download failed.
    """
    if is_current(package):
        return
    uv = find_uv(tools, say)
    say(f"making the environment of {package.name} from its lock")
    command = [
        str(uv),
        "sync",
        "--project",
        str(package),
        "--locked",
        "--all-extras",
        "--compile-bytecode",
        "--python",
        _python(),
    ]
    # An environment that happens to be active, or is set for another project, is not the one to fill.
    others = {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"}
    environment = {name: value for name, value in os.environ.items() if name not in others}
    _stamp_file(package).unlink(missing_ok=True)
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise EnvironmentFailedError(
            f"the environment of {package} could not be made from its lock:\n{finished.stderr.strip()}\n"
            "Is the package registry reachable? If pyproject.toml was changed, run `uv lock` in that folder."
        )
    _stamp_file(package).write_text(_fingerprint(package), encoding="utf-8")


def find_uv(tools: Path, say: Callable[[str], None]) -> Path:
    """The machine's own uv, or the one this repository's lock names, downloaded into `tools` and verified."""
    on_path = shutil.which("uv")
    if on_path:
        return Path(on_path)
    locked = _locked_uv()
    uv = tools / f"uv-{locked['version']}" / "uv"
    if not uv.exists():
        say(f"getting uv {locked['version']}")
        _download_uv(uv)
    return uv


def uv_wheel() -> dict[str, str] | None:
    """Address (`url`) and `hash` of the locked uv for this machine; None where there is none."""
    tag = _WHEEL_TAGS.get((platform.system(), platform.machine()))
    return next((wheel for wheel in _locked_uv()["wheels"] if tag and tag in wheel["url"]), None)


def _locked_uv() -> dict[str, Any]:
    lock = tomllib.loads((Path(__file__).parents[2] / "uv.lock").read_text(encoding="utf-8"))
    locked: dict[str, Any] = next(package for package in lock["package"] if package["name"] == "uv")
    return locked


def _download_uv(uv: Path) -> None:
    wheel = uv_wheel()
    if wheel is None:
        raise EnvironmentFailedError(
            f"there is no uv for {platform.system()} on {platform.machine()} in the lock: {UV_HELP}"
        )
    try:
        with urllib.request.urlopen(wheel["url"], timeout=60) as response:  # noqa: S310  (from our own lock)
            content: bytes = response.read()
    except (urllib.error.URLError, OSError) as error:
        raise EnvironmentFailedError(f"uv could not be downloaded ({error}): {UV_HELP}") from None
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != wheel["hash"]:
        raise EnvironmentFailedError(f"the downloaded uv is not the one the lock names: {UV_HELP}")
    draft = uv.with_name(f"uv.{os.getpid()}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        draft.write_bytes(archive.read(member))
    draft.chmod(0o755)
    draft.replace(uv)


def _python() -> str:
    # The Python that runs this where it fits, so that nothing is downloaded; else uv finds or gets one.
    if (3, 11) <= sys.version_info < (3, 14):
        return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
    return "3.11"


def _stamp_file(package: Path) -> Path:
    return package / ".venv" / "made-from"


def _fingerprint(package: Path) -> str:
    # The folder too: an environment does not survive being moved.
    digest = hashlib.sha256(str(package.resolve()).encode())
    for name in ("pyproject.toml", "uv.lock"):
        digest.update((package / name).read_bytes())
    return digest.hexdigest()
