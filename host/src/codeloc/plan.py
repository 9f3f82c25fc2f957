"""What a deploy would change, and whom that touches: one location's definitions against those that are deployed.

Definitions come as `taxi_shared.description` prints them. Nothing here asks a platform or reads a file, so that every
rule can be tried by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from packaging.version import Version

Description = Mapping[str, Any]

ADDED, CHANGED, REMOVED = "+", "~", "-"
_KINDS = {"assets": "asset", "jobs": "job", "schedules": "schedule", "sensors": "sensor", "resources": "resource"}
# Of an asset, what others can rely on.
_RELIED_ON = ("partitions", "contract", "columns")
_OTHER_FORM = (
    "what breaks a contract is offered beside the old form, as a table of its own with a contract of its own; the old"
    " one is marked as deprecated, and goes when no plan names a user of it"
)
_DEPRECATED = "(deprecated)"
# The format of lakes belongs to these: who reads a lake must have what writes it.
_LAKE_FORMAT = ("duckdb", "duckdb-extension-ducklake")


@dataclass(frozen=True)
class Change:
    """Something that is added, changed or removed, and what of it."""

    sign: str
    kind: str
    name: str
    details: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """For a person."""
        return [f"{self.sign} {self.kind} {self.name}", *(f"    {detail}" for detail in self.details)]


@dataclass(frozen=True)
class Plan:
    """What a deploy of one location would do.

    Attributes
    ----------
    causes
        Files that differ, by kind: code, lock, shared, Dockerfile, packaging.
    downstream
        What of other locations uses what is changed.
    warnings
        What is worth a look.
    blockers
        Why the deploy is refused.
    """

    location: str
    before: str | None
    after: str
    causes: Mapping[str, Sequence[str]]
    changes: list[Change]
    downstream: list[str]
    warnings: list[str]
    blockers: list[str]

    @property
    def exit_code(self) -> int:
        """0: nothing to do, 2: something, 1: refused."""
        return 1 if self.blockers else 2 if self.changes or self.causes else 0

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self) | {"causes": {kind: list(paths) for kind, paths in self.causes.items()}}

    def as_text(self) -> str:
        """For a person."""
        lines = [f"{self.location}: {self.before or 'nothing'} -> {self.after}"]
        if self.causes:
            lines += ["", "Because of:"]
            lines += [f"  {kind}: {_some(paths)}" for kind, paths in self.causes.items()]
        if self.changes:
            lines += ["", "Definitions:", *(f"  {line}" for change in self.changes for line in change.lines)]
        for title, texts in (
            ("Touched in other locations:", self.downstream),
            ("Refused:", self.blockers),
            ("Mind:", self.warnings),
        ):
            if texts:
                lines += ["", title, *(f"  {text}" for text in texts)]
        count = {sign: sum(change.sign == sign for change in self.changes) for sign in (ADDED, CHANGED, REMOVED)}
        reasons = f"{len(self.blockers)} reasons" if len(self.blockers) > 1 else "one reason"
        refused = f", refused for {reasons}" if self.blockers else ""
        lines += [
            "",
            f"Plan for {self.location}: {count[ADDED]} to add, {count[CHANGED]} to change, {count[REMOVED]} to remove"
            f"{refused}."
            if self.changes or self.causes or self.blockers
            else f"Plan for {self.location}: nothing to do.",
        ]
        return "\n".join(lines)


def make_plan(
    before: Description | None,
    candidate: Description,
    others: Mapping[str, Description],
    *,
    versions: tuple[str | None, str],
    causes: Mapping[str, Sequence[str]],
    host_dagster: str,
    running: Mapping[str, str],
    registry: Sequence[str],
) -> Plan:
    """Compare a location's candidate with what is deployed.

    Parameters
    ----------
    before
        What the location defines now; None: nothing of it is deployed.
    others
        What the other locations define now.
    versions
        Of `before` and of the candidate.
    causes
        As `codeloc.sources.causes`.
    host_dagster
        Dagster's version in webserver and daemon.
    running
        Schedules and sensors of the location that somebody turned on, with their kind.
    registry
        Where the repository's lists of locations disagree.
    """
    name = str(candidate["location"])
    changes = list(_changes(before or {}, candidate))
    removed = {change.name for change in changes if change.sign == REMOVED}
    broken_for_others = list(_broken_for_others(before or {}, candidate, others))
    return Plan(
        location=name,
        before=versions[0],
        after=versions[1],
        causes=causes,
        changes=changes,
        downstream=list(_downstream(before or {}, candidate, others)),
        warnings=[
            *(
                f"{kind.lower()} {automation} is turned on and is removed: it no longer fires"
                for automation, kind in sorted(running.items())
                if automation in removed
            ),
            *_unknown_deps(candidate, others),
            *_deprecated(candidate, others),
            *_no_longer_refused(before or {}, candidate, others),
            *_same_version(before or {}, candidate),
            *([_OTHER_FORM] if any(text.startswith("contract") for text in broken_for_others) else []),
            *_pickled(before, candidate),
        ],
        blockers=[
            *registry,
            *_duplicates(candidate, others),
            *broken_for_others,
            *_missing_of_others(candidate, others),
            *_skew(candidate, others, host_dagster),
        ],
    )


# -- what changes ---------------------------------------------------------------------------------


def _changes(before: Description, candidate: Description) -> Iterator[Change]:
    for section, kind in _KINDS.items():
        old, new = before.get(section, {}), candidate[section]
        for sign, name in sorted(_differences(old, new), key=lambda found: found[1]):
            if sign == ADDED:
                yield Change(sign, kind, name, _summary(new[name]))
            elif sign == REMOVED:
                yield Change(sign, kind, name)
            else:
                yield Change(sign, kind, name, list(_details(old[name], new[name])))
    old, new = before.get("versions", {}), candidate["versions"]
    for package in sorted(old.keys() & new.keys()):
        if old[package] != new[package]:
            yield Change(CHANGED, "package", package, [f"{old[package]} -> {new[package]}"])


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What became of the names whose entries differ: in the order of the new ones, then those that are gone."""
    for name in new:
        if name not in old:
            yield ADDED, name
        elif old[name] != new[name]:
            yield CHANGED, name
    yield from ((REMOVED, name) for name in old if name not in new)


def _summary(found: Any) -> list[str]:  # noqa: ANN401  (as JSON has it)
    if not isinstance(found, Mapping):
        return []
    shown = ("deps", "partitions", "automation", "checks", "contract", "assets", "cron", "job", "jobs")
    return [f"{key}: {_value(found[key])}" for key in shown if found.get(key)]


def _details(old: Any, new: Any) -> Iterator[str]:  # noqa: ANN401
    if not isinstance(new, Mapping):
        yield f"{old} -> {new}"
        return
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if isinstance(now, list) and isinstance(was, list):
            yield f"{key}: {', '.join(_parts(was, now)) or 'in another order'}"
        elif key == "columns":
            yield from _column_details(was or {}, now or {})
        elif key == "reads":
            yield from _read_details(was or {}, now or {})
        elif key == "rules":
            yield from _rule_details(was or {}, now or {})
        elif key == "description":
            yield "description"
        else:
            yield f"{key}: {_value(was)} -> {_value(now)}"


def _column_details(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for sign, column in _differences(old, new):
        if sign == ADDED:
            yield f"{sign} column {column} {new[column]['type']}"
        elif sign == REMOVED:
            yield f"{sign} column {column}"
        else:
            yield f"{sign} column {column}: {_column(old[column])} -> {_column(new[column])}"


def _read_details(old: Mapping[str, list[str]], new: Mapping[str, list[str]]) -> Iterator[str]:
    for table in sorted(old.keys() | new.keys()):
        parts = _parts(old.get(table, []), new.get(table, []))
        if parts:
            yield f"reads of {table}: {', '.join(parts)}"


def _rule_details(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for sign, name in _differences(old, new):
        if sign == CHANGED:
            was, now = _rule(old[name]), _rule(new[name])
            yield f"{sign} rule {name}: {was} -> {now if now != was else 'measured in another way'}"
        else:
            yield f"{sign} rule {name}: {_rule((new if sign == ADDED else old)[name])}"


def _rule(rule: Mapping[str, Any]) -> str:
    return f"{rule['expected']} ({'refuses' if rule['refuses'] else 'warns'})"


def _parts(was: Sequence[str], now: Sequence[str]) -> list[str]:
    return [*(f"+ {item}" for item in now if item not in was), *(f"- {item}" for item in was if item not in now)]


def _column(column: Mapping[str, Any]) -> str:
    return f"{column['type']}{' NOT NULL' if column['required'] else ''}"


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) if value is not None else "none"


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:6]) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")


# -- whom it touches ------------------------------------------------------------------------------


def _downstream(before: Description, candidate: Description, others: Mapping[str, Description]) -> Iterator[str]:
    old, new = before.get("assets", {}), candidate["assets"]
    touched = [
        key
        for key in sorted(old)
        if key not in new or any(old[key].get(part) != new[key].get(part) for part in _RELIED_ON)
    ]
    for key in touched:
        table = _table(old[key])
        for location, name, asset in _users(key, others):
            columns = asset["reads"].get(table) if table else None
            uses = f" (columns {', '.join(columns)})" if columns else ""
            automation = _fired_by(name, asset, others[location])
            yield f"{location}: {name} depends on {key}{uses}{automation}"


def _users(key: str, others: Mapping[str, Description]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for location, described in sorted(others.items()):
        for name, asset in described["assets"].items():
            if key in asset["deps"]:
                yield location, name, asset


def _fired_by(name: str, asset: Mapping[str, Any], described: Description) -> str:
    jobs = {job for job, found in described["jobs"].items() if name in found["assets"]}
    by = [f"schedule {schedule}" for schedule, found in described["schedules"].items() if found["job"] in jobs]
    by += [f"sensor {sensor}" for sensor, found in described["sensors"].items() if jobs & set(found["jobs"])]
    by += ["automation"] if asset["automation"] else []
    return f"; made by {', '.join(by)}" if by else ""


def _table(asset: Mapping[str, Any]) -> str | None:
    contract = asset.get("contract")
    return str(contract).split()[0] if contract else None


# -- what is refused ------------------------------------------------------------------------------


def _duplicates(candidate: Description, others: Mapping[str, Description]) -> Iterator[str]:
    for location, described in sorted(others.items()):
        for key in sorted(candidate["assets"].keys() & described["assets"].keys()):
            yield f"asset {key} is {location}'s already: choose another key"


def _broken_for_others(before: Description, candidate: Description, others: Mapping[str, Description]) -> Iterator[str]:
    old, new = before.get("assets", {}), candidate["assets"]
    for key in sorted(old):
        for location, name, asset in _users(key, others):
            if key not in new:
                yield f"asset {key} is removed, and {location}'s {name} depends on it"
                continue
            if old[key]["partitions"] != new[key]["partitions"]:
                yield (
                    f"asset {key} has other partitions ({old[key]['partitions']} -> {new[key]['partitions']}), and"
                    f" {location}'s {name} depends on it"
                )
            table = _table(old[key])
            for column in asset["reads"].get(table, []) if table else []:
                was, now = old[key]["columns"].get(column), new[key]["columns"].get(column)
                broken = _broken(was, now)
                if broken:
                    yield f"contract of {table}: column {column} {broken}, and {location}'s {name} uses it"


def _no_longer_refused(before: Description, candidate: Description, others: Mapping[str, Description]) -> Iterator[str]:
    """Rows that consumers never saw and may see now. It is told and no more: a wrong rule must be put right."""
    old, new = before.get("assets", {}), candidate["assets"]
    for key in sorted(old.keys() & new.keys()):
        users = [f"{location}'s {name}" for location, name, _ in _users(key, others)]
        refusing = {rule: found for rule, found in old[key].get("rules", {}).items() if found["refuses"]}
        now = {rule: found for rule, found in new[key].get("rules", {}).items() if rule in refusing}
        details = list(_rule_details(refusing, now)) if users else []
        if details:
            yield f"{key} refuses other rows ({'; '.join(details)}), and {', '.join(users)} depends on it"


def _same_version(before: Description, candidate: Description) -> Iterator[str]:
    """Contracts that promise something else under the version that loads are marked with."""
    old, new = before.get("assets", {}), candidate["assets"]
    for key in sorted(old.keys() & new.keys()):
        was, now = old[key], new[key]
        # What was deployed by an earlier version of this command had no rules.
        differs = was["columns"] != now["columns"] or was.get("rules", now["rules"]) != now["rules"]
        if now["contract"] and was["contract"] == now["contract"] and differs:
            yield f"the contract of {key} has changed and is still {now['contract']}: give it a new version"


def _broken(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str | None:
    """How a column is no longer what it was to whoever reads it."""
    if was is None or was == now:
        return None
    if now is None:
        return "is removed"
    if was["type"] != now["type"]:
        return f"becomes {now['type']} (it is {was['type']})"
    return "may become null" if was["required"] and not now["required"] else None


def _missing_of_others(candidate: Description, others: Mapping[str, Description]) -> Iterator[str]:
    for location, described in sorted(others.items()):
        tables = {_table(asset): asset["columns"] for asset in described["assets"].values() if asset["columns"]}
        for name, asset in candidate["assets"].items():
            for table, columns in asset["reads"].items():
                missing = [column for column in columns if column not in tables[table]] if table in tables else []
                if missing:
                    yield (
                        f"{name} uses {', '.join(missing)} of {table}, which the deployed {location} does not have:"
                        f" deploy {location} first, or mend the name"
                    )


def _unknown_deps(candidate: Description, others: Mapping[str, Description]) -> Iterator[str]:
    known = {*candidate["assets"], *(key for described in others.values() for key in described["assets"])}
    for name, asset in candidate["assets"].items():
        for dep in asset["deps"]:
            if dep not in known:
                yield f"{name} depends on {dep}, which no location has"


def _deprecated(candidate: Description, others: Mapping[str, Description]) -> Iterator[str]:
    given_up = {
        _table(asset): location
        for location, described in others.items()
        for asset in described["assets"].values()
        if str(asset.get("contract")).endswith(_DEPRECATED)
    }
    for name, asset in candidate["assets"].items():
        for table in sorted(given_up.keys() & asset["reads"].keys(), key=str):
            yield f"{name} uses {table}, which {given_up[table]} has deprecated: move to the table that follows it"


def _skew(candidate: Description, others: Mapping[str, Description], host_dagster: str) -> Iterator[str]:
    versions = candidate["versions"]
    if Version(versions["dagster"]) > Version(host_dagster):
        yield (
            f"its Dagster {versions['dagster']} is newer than {host_dagster} of webserver and daemon: update the host"
            " first"
        )
    for package in _LAKE_FORMAT:
        for location, described in sorted(others.items()):
            own, other = versions.get(package), described["versions"].get(package)
            if own and other and Version(own).release[:2] != Version(other).release[:2]:
                yield f"its {package} {own} and {other} of {location} differ: both read each other's lakes"


def _pickled(before: Description | None, candidate: Description) -> Iterator[str]:
    if before is None:
        return
    old, new = before["versions"], candidate["versions"]
    for package in ("python", "pandas"):
        was, now = old.get(package), new.get(package)
        parts = 2 if package == "python" else 1
        if was and now and Version(was).release[:parts] != Version(now).release[:parts]:
            yield f"{package} {was} -> {now}: values that an earlier version pickled may not be readable"
