"""What a code location's container runs: its code server on a Unix socket of its own, and a look at who serves.

All servers of a location have one folder. Each listens there on a socket that is named by its version and its
container; the link `current` names the one that webserver and daemon talk to. `codeloc deploy` turns the link. A
server takes it by itself only where nothing answers behind it: at the first start, after `docker compose up --build`,
after a server that did not come back.
"""

import os
import runpy
import socket
import sys
import threading
import time
from pathlib import Path

# In every container of a location; `codeloc.containers` and docker-compose.yml name them too.
FOLDER = Path("/run/codeserver")
# This container's socket, under a name that its health check need not make up.
OWN = Path("/tmp/server.sock")  # noqa: S108  (a tmpfs of the container's)
LINK = "current"
# Before the name of a server: it takes the link only after a while. One that is being tried, and one that was replaced,
# must not win a race when the machine starts.
RESERVE = "reserve."

_LOOK_SECONDS = 1.0
# How long the link may lead nowhere before a server in reserve takes it: better that one than none.
_PATIENCE = 60.0


def name(image: str, container: str) -> str:
    """A server's socket, by its image (`taxi-analytics:VERSION`) and its container."""
    return f"{image.rpartition(':')[2]}.{container}"


def answers(path: Path) -> bool:
    """Whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
        except TimeoutError:
            # Busy.
            return True
        except OSError:
            return False
    return True


def take(folder: Path, own: str) -> None:
    """Have the link name this server, at once and whole."""
    draft = folder / f".{own}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(own)
    draft.replace(folder / LINK)


class Watch:
    """Looks at the link, and takes it where it leads nowhere."""

    def __init__(self, folder: Path, own: str) -> None:
        self._folder = folder
        self._own = own
        self._dead_since: float | None = None

    def look(self, now: float) -> bool:
        """Whether it took the link."""
        if not answers(self._folder / self._own):
            # Not yet, or no longer.
            return False
        if answers(self._folder / LINK):
            self._dead_since = None
            return False
        if self._dead_since is None:
            self._dead_since = now
        in_reserve = (self._folder / f"{RESERVE}{self._own}").exists()
        if in_reserve and now - self._dead_since < _PATIENCE:
            return False
        take(self._folder, self._own)
        return True


def _watch(folder: Path, own: str) -> None:
    watch = Watch(folder, own)
    while True:
        try:
            if watch.look(time.monotonic()):
                _say(f"{own} serves now: nothing answered behind {folder / LINK}")
        except OSError as error:
            _say(f"{folder / LINK} could not be taken: {error}")
        time.sleep(_LOOK_SECONDS)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def main() -> None:
    """Serve the location whose name is the argument, in this process, until told to stop."""
    (location,) = sys.argv[1:]
    own = name(os.environ["DAGSTER_CURRENT_IMAGE"], socket.gethostname())
    OWN.unlink(missing_ok=True)
    OWN.symlink_to(FOLDER / own)
    threading.Thread(target=_watch, args=(FOLDER, own), daemon=True).start()
    served = ["--socket", str(FOLDER / own), "--module-name", f"{location}.definitions", "--location-name", location]
    sys.argv = ["dagster", "api", "grpc", *served]
    # As `python -m dagster`: no second process, and signals are its own.
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
