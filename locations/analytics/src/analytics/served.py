"""Where pages and pictures for people are put: a folder that the platform serves, each file replaced whole."""

import os
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import quote

from dagster import ConfigurableResource
from pydantic import Field

# The page that everything else links to; the platform's front door leads there.
REPORT_FILE: Final = "report.html"


class ServedFiles(ConfigurableResource[None]):
    """The served folder. A reader sees a file as it was or as it is, never half of it."""

    folder: str = Field(description="The folder; its content is served.")
    base_url: str = Field(description="Address that its content is served under.")

    def path(self, name: str) -> Path:
        """Where the file `name` lies; `name` may lead through folders below the served one."""
        return Path(self.folder, name)

    def url(self, name: str) -> str:
        """Address of the file `name`."""
        return f"{self.base_url.rstrip('/')}/{quote(name)}"

    def write(self, name: str, content: bytes) -> Path:
        """Put `content` in place as the file `name` and return where it lies."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
            # mkstemp's are closed to everybody else, and who serves the folder may be another user.
            Path(draft).chmod(0o644)
            Path(draft).replace(target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        return target
