"""Programs that are spoken to through pipes, here or in a container; what they complain of becomes the error."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from codeloc.errors import CodelocError

# How long a program may take to end after it was told to; `docker compose run` removes its container meanwhile.
_PATIENCE = 20


@dataclass(frozen=True)
class Command:
    """A program and its arguments.

    Attributes
    ----------
    environment
        What it gets besides this process's own: a password is never among the arguments.
    """

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def with_words(self, *words: str) -> "Command":
        """The same with further arguments."""
        return Command([*self.words, *words], self.environment, self.folder)

    def run(self, given: str = "") -> str:
        """Run it to its end and return what it printed.

        Raises
        ------
        CodelocError
            It failed; with the end of what it said.
        """
        with self.piped() as (given_to, printed):
            with given_to:
                given_to.write(given.encode())
            return printed.read().decode()

    @contextmanager
    def piped(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Its standard input and output while it runs. It must end by itself once the block has ended.

        Raises
        ------
        CodelocError
            It failed; with the end of what it said. It is ended when the block raises.
        """
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                self.words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=os.environ | self.environment,
                cwd=self.folder,
                # Ctrl-C is this process's: it ends the program where it has to, and may still need it to tidy up.
                process_group=0,
            )
            given_to, printed = _both(process)
            try:
                yield given_to, printed
                _close(given_to)
                code = process.wait()
            except Exception as error:
                # A program that fails stops reading and writing: what it says is the cause, the broken pipe is not.
                _close(given_to)
                printed.close()
                code = _end(process)
                if not isinstance(error, BrokenPipeError | EOFError):
                    raise
                if code == 0:
                    raise CodelocError(f"`{self._shown()}` ended too early: {error}") from None
            except BaseException:
                process.terminate()
                _close(given_to)
                printed.close()
                _end(process)
                raise
            printed.close()
            if code != 0:
                raise CodelocError(f"`{self._shown()}` failed:\n{_end_of(complaints)}")

    def _shown(self) -> str:
        words = [Path(self.words[0]).name, *self.words[1:]]
        return " ".join(words[:8]) + (" ..." if len(words) > 8 else "")


def _both(process: subprocess.Popen[bytes]) -> tuple[BinaryIO, BinaryIO]:
    given_to, printed = process.stdin, process.stdout
    assert given_to is not None  # noqa: S101  (both were asked for)
    assert printed is not None  # noqa: S101
    return given_to, printed  # type: ignore[return-value]


def _close(pipe: BinaryIO) -> None:
    with contextlib.suppress(OSError):
        pipe.close()


def _end(process: subprocess.Popen[bytes]) -> int:
    """Its code; it is told to end where it does not by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_PATIENCE)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_PATIENCE)
    process.kill()
    return process.wait()


def _end_of(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-8:]) or "(it did not say why)"
