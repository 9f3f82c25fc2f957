"""The landing store: the source's files as they came, each with a record of where it came from.

A file appears under its name only once it is whole and checked, so whoever reads the folder never
sees half of one. The record is written after the file; where the two disagree the file is fetched
again. What the source sent and was refused is remembered beside it, until a good file comes.
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dagster import ConfigurableResource
from pydantic import Field

from ingestion.source import BadFileError, Download, SourceError, fetch

if TYPE_CHECKING:
    import httpx

_ABANDONED_AFTER: Final = 24 * 60 * 60
_REFUSED: Final = ".refused"


class LandingStore(ConfigurableResource[None]):
    """A folder of downloaded files."""

    folder: str = Field(description="Folder that holds the files; every process of the location shares it.")

    def path(self, name: str) -> Path:
        """Where the file `name` lies or will lie."""
        return Path(self.folder) / name

    def record(self, name: str) -> Download | None:
        """What is known of the file at hand; None when there is none, or it is not the recorded one."""
        file, record = self.path(name), self._record_path(name)
        try:
            found = Download(**json.loads(record.read_text(encoding="utf-8")))
            return found if file.stat().st_size == found.bytes else None
        except (OSError, ValueError, TypeError):
            return None

    def update(
        self, client: "httpx.Client", url: str, name: str, count_rows: Callable[[Path], int]
    ) -> tuple[Download, bool]:
        """Bring the file `name` up to date with `url`.

        Returns
        -------
        Download
            What is at hand now.
        bool
            Whether it was downloaded, rather than found unchanged by its ETag.

        Raises
        ------
        ingestion.source.SourceError
            The file at hand, if any, stays as it was.
        """
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._clear_abandoned(name)
        at_hand = self.record(name)
        if at_hand is not None and at_hand.url != url:
            at_hand = None  # from another source, whose ETags mean nothing here
        partial = folder / f".{name}.{uuid.uuid4().hex}.part"
        try:
            try:
                download = fetch(client, url, partial, at_hand.etag if at_hand else None, count_rows)
            except BadFileError as error:
                self._refusal_path(name).write_text(str(error), encoding="utf-8")
                raise
            self._refusal_path(name).unlink(missing_ok=True)
            if download is None and at_hand is not None:
                return at_hand, False
            if download is None:
                raise SourceError(f"{url}: the server answered 304 to a request without an ETag")
            partial.replace(self.path(name))
        finally:
            partial.unlink(missing_ok=True)
        self._write_record(name, download)
        return download, True

    def refused(self) -> dict[str, str]:
        """Files that the source sent last and that were refused, with the reason."""
        found = {}
        for path in sorted(Path(self.folder).glob(f"*{_REFUSED}")):
            with contextlib.suppress(FileNotFoundError):
                found[path.name.removesuffix(_REFUSED)] = path.read_text(encoding="utf-8")
        return found

    def _clear_abandoned(self, name: str) -> None:
        """Remove what a download that was killed left; one that goes on for a day is taken for dead."""
        for partial in Path(self.folder).glob(f".{name}.*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > _ABANDONED_AFTER:
                    partial.unlink()

    def _refusal_path(self, name: str) -> Path:
        return self.path(f"{name}{_REFUSED}")

    def _record_path(self, name: str) -> Path:
        return self.path(f"{name}.json")

    def _write_record(self, name: str, download: Download) -> None:
        record = self._record_path(name)
        draft = record.with_name(f".{record.name}.{os.getpid()}.part")
        draft.write_text(json.dumps(asdict(download), indent=2), encoding="utf-8")
        draft.replace(record)
