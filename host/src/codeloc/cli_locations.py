"""The commands that bring code out: plan, deploy, rollback, history, reload; and whole locations: new, remove."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from codeloc import deploying, planning
from codeloc.console import DEFAULT_HOME, ComposeOption, HomeOption, console, home_of, say
from codeloc.deploying import Deploying, Outcome, Releases
from codeloc.errors import CodelocError
from codeloc.ledger import Deployment, ledger
from codeloc.machine import LocalReleases
from codeloc.platform import Platform
from codeloc.serving import version_of
from codeloc.workspace import location_named, locations

LocationArgument = Annotated[str, typer.Argument(metavar="LOCATION", help="As it stands in workspace.yaml.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Bring it out although the plan is blocked; --reason is recorded.")
]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the history.")]

# Of why a deploy failed, what the history shows.
_ERROR_LINES = 8


def register(app: typer.Typer) -> None:
    """Add these commands to the `codeloc` command."""
    for command, example in (
        (plan, "plan analytics"),
        (deploy, "deploy analytics"),
        (rollback, "rollback analytics"),
        (history, "history analytics"),
        (reload, "reload analytics"),
        (new, "new marketing"),
        (remove, "remove marketing"),
    ):
        app.command(epilog=f"Example: ./codeloc {example}")(command)


def plan(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[LOCATION]...", help="What to look at.", show_default="all")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION",
            help="Compare with this revision of git instead of what is deployed; needs no platform.",
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Compare a version that is there, not the working tree."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    compose: ComposeOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Show what a deploy would change, and whom that touches in other locations.

    Exits with 0 when there is nothing to change, 2 when there is, 1 when the deploy would be refused.
    """
    chosen = [location_named(name) for name in names] if names else locations()
    if image is not None and (len(chosen) != 1 or against is not None):
        raise CodelocError("--image is one location's: ./codeloc plan LOCATION --image IMAGE")
    affected: dict[str, list[str]] | None = None
    quiet = (lambda _line: None) if as_json else say
    if against is not None:
        plans, affected = planning.against(against, chosen, quiet)
    else:
        with _releases(compose, home) as releases, ledger(releases.psql) as recorded:
            made = planning.Planning(releases)
            plans = [
                made.of_version(location, version_of(image) or image, recorded)
                if image is not None
                else made.of_working_tree(location, recorded, quiet)
                for location in chosen
            ]
    if as_json:
        told = {"plans": [found.as_json() for found in plans]}
        of_packages = {} if affected is None else {"affected": sorted(affected), "files": affected}
        print(json.dumps(told | of_packages, indent=2))  # noqa: T201
    else:
        if affected is not None:
            console.print(f"Affected: {', '.join(sorted(affected)) or 'nothing'}\n", soft_wrap=True)
        for found in plans:
            console.print(_coloured(found.as_text()), soft_wrap=True)
    codes = {found.exit_code for found in plans} | ({2} if affected else set())
    raise typer.Exit(1 if 1 in codes else max(codes, default=0))


def deploy(
    location: LocationArgument,
    force: ForceOption = False,
    reason: ReasonOption = None,
    watch: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long the new server must live before it serves.")
    ] = deploying.WATCHED,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long its code may take to load.")
    ] = deploying.LOAD_TIMEOUT,
    compose: ComposeOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Bring a location's code out as it is now, without a gap; whatever fails leaves the old code serving.

    The code is built and loaded beside the running one, compared with what is deployed, watched for some
    seconds, and then switched to. Runs go on with the code they were submitted with.
    """
    chosen = location_named(location)
    _require_reason(force, reason)
    with _deploying(compose, home) as found:
        _told(found.deploy(chosen, action="deploy", watched=watch, timeout=timeout, reason=reason, forced=force))


def reload(location: LocationArgument, home: HomeOption = DEFAULT_HOME) -> None:
    """Deploy on this machine in seconds, without watching the new server first; for the one who edits."""
    chosen = location_named(location)
    with _deploying(False, home) as found:
        outcome = found.deploy(
            chosen, action="reload", watched=0, timeout=deploying.LOAD_TIMEOUT, reason=None, forced=False
        )
        _told(outcome)


def rollback(
    location: LocationArgument,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="As `history` shows it.", show_default="the one before")
    ] = None,
    force: ForceOption = False,
    reason: ReasonOption = None,
    compose: ComposeOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Have an earlier version of a location serve again: in seconds, nothing is built.

    It holds until the next deploy, also over `down` and `up`.
    """
    chosen = location_named(location)
    _require_reason(force, reason)
    with _deploying(compose, home) as found:
        _told(found.rollback(chosen, version, reason=reason, forced=force))


def history(
    location: Annotated[str | None, typer.Argument(metavar="[LOCATION]", help="One only.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, the plans too.")] = False,
    compose: ComposeOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Show what was deployed: when, by whom, from what to what, why, how long it took, and how it ended."""
    if location is not None:
        location_named(location)
    with _releases(compose, home) as releases, ledger(releases.psql) as found:
        deployments = found.history(location)
        under_way = found.is_locked()
    if as_json:
        print(json.dumps([deployment.as_json() for deployment in deployments], indent=2))  # noqa: T201
        return
    if not deployments:
        console.print("Nothing was deployed yet.")
    for deployment in deployments:
        console.print(_shown(deployment, under_way=under_way), soft_wrap=True)


def new(name: Annotated[str, typer.Argument(metavar="NAME", help="The team's: small letters, digits, '_'.")]) -> None:
    """Add a code location to this repository: package, lock, Dockerfile, tests, and all entries that it needs.

    It comes into a platform, also one that is up, by `deploy`.
    """
    from codeloc import scaffold

    folder = scaffold.new(name, say)
    console.print(f"[green]{escape(str(folder))}[/green], and entries in workspace.yaml, dg.toml, docker-compose.yml,")
    console.print(".env.example. What comes next:")
    for command in (f"./codeloc test {name}", f"./codeloc deploy {name}", f"git add . && git commit -m 'Add {name}'"):
        console.print(f"  [bold]{escape(command)}[/bold]")


def remove(
    name: LocationArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Although git does not have its files, or other locations use its assets.")
    ] = False,
    compose: ComposeOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Take a code location out of the platform that is up, and out of this repository. Its lake stays."""
    from codeloc import scaffold

    location = location_named(name)
    if len(locations()) == 1:
        raise CodelocError(f"{name} is the only location there is")
    if compose or Platform(home_of(home)).supervisor.is_running():
        with _deploying(compose, home) as found:
            found.remove(location, lambda: scaffold.remove(name, forced=force), forced=force)
    else:
        scaffold.remove(name, forced=force)
    console.print(
        f"[green]{name} is gone[/green] from workspace.yaml, dg.toml, docker-compose.yml and .env.example, with"
        f" locations/{name}. Its lake, its files and its database role stay; to let them go: DROP SCHEMA"
        f" lake_{name} CASCADE in the database warehouse, DROP ROLE {name}, and its folders in the lakes.",
        soft_wrap=True,
    )


def interrupted(platform: Platform) -> Iterator[str]:
    """What `status` says of a deploy that was cut off."""
    with ledger(platform.psql) as found:
        if found.is_locked():
            return
        for deployment in found.unfinished():
            yield (
                f"`{deployment.action} {deployment.location}` to {deployment.to_version} was cut off at the step"
                f" '{deployment.step}': the next deploy or up finishes or undoes it"
            )


@contextmanager
def _releases(compose: bool, home: Path) -> Iterator[Releases]:
    if compose:
        from codeloc.containers import ComposeReleases

        if home != DEFAULT_HOME:
            raise CodelocError("--compose and --home: a platform is either in containers or in a folder")
        yield ComposeReleases()
        return
    platform = Platform(home_of(home))
    if not platform.supervisor.is_running():
        raise CodelocError(
            f"the platform in {platform.home.path} is down: {platform.home.command('up')} starts it with the code as it"
            " is now"
        )
    platform.require_complete()
    yield LocalReleases(platform)


@contextmanager
def _deploying(compose: bool, home: Path) -> Iterator[Deploying]:
    with _releases(compose, home) as releases, releases.alone():
        yield Deploying(releases, planning.Planning(releases), say)


def _coloured(text: str) -> str:
    colours = {"+": "green", "~": "yellow", "-": "red"}
    lines = []
    for line in text.splitlines():
        colour = colours.get(line.strip()[:1]) if line.startswith("  ") else None
        lines.append(f"[{colour}]{escape(line)}[/{colour}]" if colour else escape(line))
    return "\n".join(lines) + "\n"


def _require_reason(forced: bool, reason: str | None) -> None:
    if forced and not (reason or "").strip():
        raise CodelocError("--force needs --reason TEXT: the history keeps it")


def _told(outcome: Outcome) -> None:
    if outcome.before == outcome.after:
        console.print(f"{outcome.location} serves {outcome.after} already: nothing has changed since.")
        return
    if outcome.plan is not None:
        console.print(_coloured(outcome.plan.as_text()), soft_wrap=True)
    console.print(
        f"[green]{outcome.location} serves {outcome.after}[/green] ({outcome.seconds:.1f} s), before that"
        f" {outcome.before or 'nothing'}.",
        soft_wrap=True,
    )


def _shown(found: Deployment, *, under_way: bool) -> str:
    """A line for each deploy; below it, why it was done and why it failed."""
    ended = found.outcome or ("under way" if under_way else f"cut off at '{found.step}'")
    colour = {"done": "green", "failed": "red"}.get(ended, "yellow")
    took = f"{found.seconds:.0f} s" if found.seconds is not None else ""
    line = (
        f"{found.started:%Y-%m-%d %H:%M:%S}  [{colour}]{ended:<8}[/{colour}] {found.action:<8} {found.location:<12}"
        f" {found.from_version or '-'} -> {found.to_version or '-'}  {took}  {escape(found.who)}"
    )
    said = [text for text in (found.error or "").splitlines() if text.strip()]
    if len(said) > _ERROR_LINES:
        # What was tried stands in the first, and the cause in the last ones.
        said = [said[0], "  ...", *said[2 - _ERROR_LINES :]]
    below = [text for text in (found.reason, *said) if text]
    return "\n".join([line, *(f"    {escape(text)}" for text in below)])
