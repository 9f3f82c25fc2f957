"""The commands. Each says what it is doing; errors come without a traceback and with the next step."""

import os
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psycopg2
import typer
from rich.markup import escape
from rich.table import Table

from codeloc import cli_locations, seed
from codeloc.console import (
    DEFAULT_HOME,
    ComposeOption,
    HomeOption,
    absolute,
    console,
    errors,
    home_of,
    progress_bar,
    say,
    say_aside,
)
from codeloc.errors import CodelocError
from codeloc.home import ROOT
from codeloc.people import Role
from codeloc.platform import Platform, default_signals, sync
from codeloc.seeding import Loaded, fill

if TYPE_CHECKING:
    from codeloc.targets import Target

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Runs a Dagster platform of several code locations on this machine.\n\n"
    "[bold]./codeloc up[/bold] starts it and loads an example; [bold]./codeloc down[/bold] stops it.",
)
cli_locations.register(app)


def main() -> None:
    """The `codeloc` command."""
    default_signals()
    try:
        sys.exit(app(standalone_mode=False))  # the code of a typer.Exit, or None
    except CodelocError as error:
        errors.print(f"[red]codeloc:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except psycopg2.Error as error:
        errors.print(f"[red]codeloc:[/red] Postgres: {escape(str(error).strip())}", soft_wrap=True)
        sys.exit(1)
    except OSError as error:  # a folder that cannot be written, a full disk: the text names it
        errors.print(f"[red]codeloc:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except Exception as error:
        # click's own exceptions know how to show themselves.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 1))


@app.command(epilog="Example: ./codeloc up --source tlc --port 3100")
def up(
    source: Annotated[
        str | None,
        typer.Option(
            metavar="sample|tlc|URL",
            help="Where trips come from: made-up sample months, TLC itself, or a mirror of its file server."
            " Remembered for the next time.",
            show_default="sample",
        ),
    ] = None,
    empty: Annotated[bool, typer.Option("--empty", help="Load nothing.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The UI's port.", show_default="3000, or a free one")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Start the platform and load the example months; safe to repeat.

    Postgres, a code server per location, the webserver and the daemon run on in the background until
    [bold]./codeloc down[/bold]. Ctrl-C while it starts stops everything again.
    """
    platform = Platform(home_of(home))
    started = not platform.supervisor.is_running()
    if not started:
        platform.require_complete()
    if started:
        broken = platform.start(source, port, say)
    else:
        _refuse_changes(platform, source, port)
        console.print("The platform is up already.")
        broken = platform.broken_locations()
    loaded = None
    if broken:
        errors.print("\n".join(f"[red]codeloc:[/red] {escape(problem)}" for problem in broken), soft_wrap=True)
        again = f"{platform.home.command('deploy NAME')}, then up again"
        errors.print(f"The other locations work without it. Mend it, then {escape(again)}.", soft_wrap=True)
    elif not empty:
        try:
            loaded = _fill(platform)
        except KeyboardInterrupt:
            if started:
                say("interrupted: stopping what was started")
                platform.stop(say)
            raise
    _summary(platform, loaded)
    raise typer.Exit(1 if broken else 0)


@app.command(epilog="Example: ./codeloc down")
def down(home: HomeOption = DEFAULT_HOME) -> None:
    """Stop the platform; nothing is lost, and nothing keeps running.

    Queued runs wait for the next start, runs under way are tried again then.
    """
    platform = Platform(home_of(home))
    if not platform.home.path.exists() or not platform.stop(say):
        console.print("The platform is down already.")
        return
    console.print(f"Stopped. [bold]{platform.home.command('up')}[/bold] goes on where it was.", soft_wrap=True)


@app.command(epilog="Example: ./codeloc status")
def status(home: HomeOption = DEFAULT_HOME) -> None:
    """Show the processes, whether each location is loaded, and what is queued or running.

    Exits with 0 when all is well, 3 when the platform is down, 1 when a part of it is not well.
    """
    platform = Platform(home_of(home))
    if not platform.supervisor.is_running():
        again = f"[bold]{platform.home.command('up')}[/bold]"
        console.print(f"The platform in {platform.home.path} is down. {again} starts it.", soft_wrap=True)
        raise typer.Exit(3)
    platform.require_complete()
    processes = platform.supervisor.processes()
    table = Table("process", "state", "", box=None, pad_edge=False)
    for process in processes:
        well = process.state == "RUNNING"
        table.add_row(process.name, f"[{'green' if well else 'red'}]{process.state}", process.description)
    console.print(table)
    sound = all(process.state == "RUNNING" for process in processes)
    if platform.webserver.answers():
        for location in platform.webserver.locations():
            sound &= location.loaded
            state = (
                f"[green]loaded[/green], {location.version}"
                if location.loaded
                else f"[red]not loaded[/red]: {escape(location.error or '')}"
            )
            console.print(f"location {location.name}: {state}")
        for line in cli_locations.interrupted(platform):
            console.print(f"[yellow]{escape(line)}", soft_wrap=True)
        for daemon in platform.webserver.unhealthy_daemons():
            console.print(f"daemon {daemon}: [red]not healthy")
            sound = False
        console.print(f"runs queued or under way: {len(platform.webserver.active_runs())}")
    else:
        sound = False
        console.print("[red]the webserver does not answer")
    addresses = f"UI: {platform.webserver.url}   report: {platform.report_url}"
    console.print(f"{addresses}   BI tools: {platform.home.command('bi')}", soft_wrap=True)
    console.print(f"source: {platform.state.source}")
    raise typer.Exit(0 if sound else 1)


@app.command(epilog="Example: ./codeloc bi")
def bi(home: HomeOption = DEFAULT_HOME) -> None:
    """Show what a BI tool asks for to read the marts: host, port, database, user, password.

    They are ordinary Postgres tables, kept up with the marts in the warehouse; the user can read them and
    nothing else.
    """
    for name, value in Platform(home_of(home)).bi_connection().items():
        console.print(f"{name:<10}[bold]{escape(value)}[/bold]", soft_wrap=True)


class Format(StrEnum):
    """How the rows of a query are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@app.command(epilog='Example: ./codeloc sql "FROM analytics.marts.trips_by_week ORDER BY week"')
def sql(
    query: Annotated[
        str | None,
        typer.Argument(
            help="In DuckDB's SQL; tables are lake.schema.table. Without it: what is piped in, or on a terminal"
            " DuckDB's shell.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How rows are printed.")] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write all rows to a .csv or .parquet file instead."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Query the warehouse: every location's lake, read-only."""
    package = ROOT / "shared"
    sync(package, say_aside)
    python = str(package / ".venv" / "bin" / "python")
    command = [python, "-m", "taxi_shared.explore", str(home_of(home).path), "--format", form.value]
    if output is not None:
        command += ["--output", str(output)]
    if query is not None:
        command.append(f"--query={query}")
    # The query's own process from here on: its pipes and Ctrl-C are nobody else's business.
    os.execv(python, command)  # noqa: S606


@app.command(epilog="Example: ./codeloc logs analytics -f")
def logs(
    name: Annotated[
        str | None, typer.Argument(help="A process as `status` names it.", show_default="all of them")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Show the end of the processes' logs."""
    files = sorted(home_of(home).logs.glob("*.log"))
    if name is not None:
        # A location has one for each version that has served lately.
        known = {file: file.stem.rpartition("-")[0] or file.stem for file in files}
        if name not in known.values():
            raise CodelocError(
                f"there is no log of '{name}', only of {', '.join(sorted(set(known.values()))) or 'nothing yet'}"
            )
        files = [file for file in files if known[file] == name]
    if not files:
        found = home_of(home)
        raise CodelocError(f"there are no logs in {found.logs} yet: {found.command('up')} makes some")
    os.execvp("tail", ["tail", "-n", "100", *(["-F"] if follow else []), *map(str, files)])  # noqa: S606


@app.command(epilog="Example: ./codeloc request --borough Manhattan --from 2023-01-01 --to 2023-01-31")
def request(
    borough: Annotated[
        str, typer.Option(metavar="BOROUGH", help="Manhattan, Brooklyn, Queens, Bronx, 'Staten Island' or EWR.")
    ],
    first_day: Annotated[str, typer.Option("--from", metavar="YYYY-MM-DD", help="First day of the pickups.")],
    last_day: Annotated[str, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the pickups.")],
    service: Annotated[
        str | None, typer.Option(metavar="yellow|green", help="One service only.", show_default="both together")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Names the result.", show_default="made from borough and period")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Ask analytics for a chart: a borough's trips per hour by weekday over a period.

    Puts a file into the folder that analytics' sensor watches, and waits for the chart.
    The same request again makes it anew, from the trips that are loaded by then;
    another one of the same name takes its place.
    """
    from codeloc import requests

    platform = Platform(home_of(home))
    wanted = requests.request(borough, first_day, last_day, service, name)
    if not platform.supervisor.is_running():
        raise CodelocError(f"the platform is down: {platform.home.command('up')} starts it")
    folder = platform.home.requests(requests.LOCATION)
    try:
        with progress_bar() as progress:
            answer = requests.ask(platform.webserver, folder, wanted, platform.supervisor.require_all, progress)
    except KeyboardInterrupt:
        console.print(f"The request {wanted.name} goes on without this command: {platform.webserver.url}/runs")
        raise
    console.print(f"{answer.trips:,} trips; loaded is {escape(answer.loaded)}.", soft_wrap=True)
    for label, value in (("Chart", answer.link), ("File", answer.file), ("Run", answer.run_url)):
        console.print(f"[bold]{label:<7}[/bold] {escape(value)}", soft_wrap=True)


users_app = typer.Typer(
    no_args_is_help=True, help="Who may log in to the deployment with Docker Compose, on the machine it runs on."
)
app.add_typer(users_app, name="users")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name that is typed in to log in.")]


@users_app.command(name="list", epilog="Example: ./codeloc users list")
def users_list() -> None:
    """Show everybody who may log in, and their roles."""
    from codeloc import users

    table = Table("name", "role", box=None, pad_edge=False)
    for name, role in users.everybody():
        table.add_row(escape(name), role)
    console.print(table)


@users_app.command(name="add", epilog="Example: ./codeloc users add maria --role viewer")
def users_add(
    name: NameArgument,
    role: Annotated[Role, typer.Option(help="Editors may do everything, viewers look.")],
) -> None:
    """Let a person in. Asks for the password, or reads it where it is piped in."""
    from codeloc import users

    users.add(name, role, _password())
    console.print(f"[bold]{escape(name)}[/bold] can log in as {role}.")


@users_app.command(name="password", epilog="Example: ./codeloc users password admin")
def users_password(name: NameArgument) -> None:
    """Give a person another password. Asks for it, or reads it where it is piped in."""
    from codeloc import users

    users.change_password(name, _password())
    console.print(f"[bold]{escape(name)}[/bold] has the new password.")


@users_app.command(name="remove", epilog="Example: ./codeloc users remove maria")
def users_remove(name: NameArgument) -> None:
    """Let a person in no longer; a page that is open then shows nothing new after at most a quarter of an hour."""
    from codeloc import users

    users.remove(name)
    console.print(f"[bold]{escape(name)}[/bold] can no longer log in.")


@app.command(epilog="Example: ./codeloc backup /mnt/backups")
def backup(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Holds the backups; each is a folder in it, named by its time (UTC)."),
    ],
    compose: ComposeOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Keep databases, lakes, files, reports and run history of one moment, while the platform goes on.

    Not in it: passwords and settings, and files of lakes on S3. An interrupted backup leaves nothing behind.
    """
    from codeloc.backup import make_backup

    with progress_bar() as progress:
        made, manifest = make_backup(_target(compose, home), absolute(folder), say, _percent(progress))
    console.print(f"[bold]Backup[/bold]  {escape(str(made))}", soft_wrap=True)
    console.print(f"        {manifest.in_words()}", soft_wrap=True)


@app.command(epilog="Example: ./codeloc restore /mnt/backups/20260131T020000Z --home ~/restored")
def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder that `backup` made.")],
    compose: ComposeOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Restore a backup into an empty platform, and compare every table and every file with it.

    A backup of a platform on a machine can be restored into one in containers, and the other way round.
    """
    from codeloc.backup import restore as restore_backup

    target = _target(compose, home)
    with progress_bar() as progress:
        manifest = restore_backup(target, absolute(backup), say, _percent(progress))
    console.print(
        f"[green]Restored and compared[/green]: {manifest.in_words()}, as they were at"
        f" {manifest.made:%Y-%m-%d %H:%M:%S} UTC.",
        soft_wrap=True,
    )
    if manifest.not_copied:
        console.print(
            f"Not compared: {len(manifest.not_copied):,} files of lakes, which are at {manifest.lakes_on_s3}.",
            soft_wrap=True,
        )
    console.print(f"[bold]{escape(target.how_to_go_on)}[/bold] goes on from there.", soft_wrap=True)


@app.command(name="test", epilog="Example: ./codeloc test ingestion")
def run_tests(
    packages: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PACKAGE]...", help="host, shared, a location, or tests.", show_default="all"),
    ] = None,
    docker: Annotated[
        bool, typer.Option("--docker", help="Test the deployment with Docker Compose too, on this machine's engine.")
    ] = False,
) -> None:
    """Run ruff, mypy and pytest on packages, each in its own environment."""
    from codeloc.checks import run_checks

    checks = run_checks(packages or [], docker, say)
    table = Table("package", "check", "result", "seconds", box=None, pad_edge=False)
    for check in checks:
        result = "[green]passed" if check.passed else "[red]failed"
        table.add_row(check.package, check.name, result, f"{check.seconds:.0f}")
    console.print(table)
    raise typer.Exit(0 if all(check.passed for check in checks) else 1)


@app.command(epilog="Example: ./codeloc bench loading")
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="A module of benchmarks/ that measures.", show_default="all"),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="What CI measures, on small data; nothing is written.")
    ] = False,
    docker: Annotated[bool, typer.Option("--docker", help="Measure the deployment with Docker Compose too.")] = False,
) -> None:
    """Measure what the platform costs, side by side with plain Dagster and DuckDB; write it to benchmarks/RESULTS.md.

    Exits with 1 when a ratio is clearly worse than its target. Leave the machine alone meanwhile.
    """
    from codeloc.checks import packages

    for package in packages().values():
        sync(package, say)
    options = [name for name, given in {"--short": short, "--docker": docker}.items() if given]
    command = [str(ROOT / ".venv" / "bin" / "python"), "-m", "benchmarks", *options, *(names or [])]
    raise typer.Exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


@app.command(epilog="Example: ./codeloc doctor")
def doctor(home: HomeOption = DEFAULT_HOME) -> None:
    """Say what is missing, taken or unreachable on this machine, and how to mend it."""
    from codeloc.doctor import examine

    sound = True
    for finding in examine(home_of(home)):
        mark = (
            "[green]ok[/green]  "
            if not finding.fix
            else "[red]bad[/red] "
            if finding.fatal
            else "[yellow]note[/yellow]"
        )
        console.print(f"{mark} {finding.subject}: {escape(finding.state)}", soft_wrap=True)
        if finding.fix:
            console.print(f"     {escape(finding.fix)}", soft_wrap=True)
            sound &= not finding.fatal
    raise typer.Exit(0 if sound else 1)


# -- what the commands share ----------------------------------------------------------------------


def _target(compose: bool, home: Path) -> "Target":
    from codeloc.targets import ComposeTarget, LocalTarget

    if not compose:
        return LocalTarget(Platform(home_of(home)))
    if home != DEFAULT_HOME:
        raise CodelocError("--compose and --home: a platform is either in containers or in a folder")
    return ComposeTarget()


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")


def _fill(platform: Platform) -> Loaded:
    with progress_bar() as progress:
        return fill(platform.webserver, platform.base_url, platform.supervisor.require_all, progress)


def _percent(progress: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """Bytes as percents; where each change is a line, as quarters."""
    step = 1 if console.is_terminal else 25

    def report(text: str, done: int, total: int) -> None:
        progress(text, 100 * done // max(total, 1) // step * step, 100)

    return report


def _refuse_changes(platform: Platform, source: str | None, port: int | None) -> None:
    for option, wanted, current in (
        ("--source", source, platform.state.source),
        ("--port", port, platform.state.ports["webserver"]),
    ):
        if wanted is not None and wanted != current:
            raise CodelocError(
                f"the platform is up with {option} {current}: {platform.home.command('down')} first, then up {option}"
                f" {wanted}"
            )


def _summary(platform: Platform, loaded: Loaded | None) -> None:
    console.print()
    if loaded is not None:
        table = Table("month", "service", "trips", box=None, pad_edge=False)
        table.columns[2].justify = "right"
        for partition, rows in sorted(loaded.rows.items()):
            month, service = partition.split("|")
            table.add_row(month[:7], service, f"{rows:,}")
        console.print(table)
        made_up = " (made up)" if platform.state.source == seed.SAMPLE else ""
        how = f"loaded by {loaded.runs} runs in {loaded.seconds:.0f} s" if loaded.runs else "were there already"
        console.print(f"{sum(loaded.rows.values()):,} trips{made_up} {how}.\n")
    console.print(f"[bold]UI[/bold]      {platform.webserver.url}")
    console.print(f"[bold]Report[/bold]  {platform.report_url}")
    command = platform.home.command
    for what, how in (
        ("Look", f"{platform.webserver.url}/asset-groups   {command('status')}   {command('logs -f')}"),
        ("Edit", f"locations/..., then {command('reload ingestion')} (or analytics)"),
        ("Stop", command("down")),
    ):
        console.print(f"[bold]{what:<7}[/bold] {escape(how)}", soft_wrap=True)
