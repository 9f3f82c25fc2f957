"""What the commands share: how they speak, and the options that many of them have."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from codeloc.home import ROOT, Home

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

DEFAULT_HOME = ROOT / "var"
HomeOption = Annotated[
    Path,
    typer.Option("--home", metavar="DIR", help="Folder that everything is written into.", show_default="var"),
]
ComposeOption = Annotated[
    bool,
    typer.Option("--compose", help="The platform in containers, as `docker compose` here knows it, instead of --home."),
]


def home_of(path: Path) -> Home:
    """The platform's folder, as an option names it."""
    return Home(absolute(path))


def absolute(path: Path) -> Path:
    """A path as a person writes it."""
    return path.expanduser().resolve()


def say(line: str) -> None:
    """Print a line with the time."""
    _say(line, console)


def say_aside(line: str) -> None:
    """The same on stderr, where what is printed is for a program."""
    _say(line, errors)


def _say(line: str, to: Console) -> None:
    to.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {escape(line)}", soft_wrap=True)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, a line per change elsewhere."""
    if not console.is_terminal:
        last: list[tuple[str, int, int]] = []

        def report(text: str, done: int, total: int) -> None:
            if last != [(text, done, total)]:
                last[:] = [(text, done, total)]
                say(f"{text}: {done} of {total}" if total else text)

        yield report
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total or None)
