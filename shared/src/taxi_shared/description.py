"""What a location defines, as JSON: `python -m taxi_shared.description NAME` in the location's environment.

`codeloc plan` and `deploy` compare two of them, and look up in those of the other locations who uses what. So it is
the same for the same code, and says what a consumer relies on: keys, partitions, contracts with their rules, and the
columns that its SQL names.
"""

import contextlib
import hashlib
import importlib
import json
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dagster import AssetKey, AssetSpec, AutomationCondition, Definitions, TableSchema
from dagster._core.definitions.assets.definition.asset_spec import SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET

from taxi_shared.contracts import ContractError, TableContract, contract

if TYPE_CHECKING:
    from sqlglot import exp

# What locations share beyond their code: Dagster's storage, the format of lakes, values that are pickled.
SHARED_PACKAGES = ("dagster", "duckdb", "duckdb-extension-ducklake", "pandas")

SQL = "sql"
# Where files lie whose lines in a traceback say nothing of a location's code: packages, Python's own.
_NOT_OWN = ("<", *(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")))


def sql_metadata(package: str, *names: str) -> dict[str, str]:
    """Which SQL makes an asset, as metadata of its definition.

    Parameters
    ----------
    package, names
        The `.sql` files, and the package that they lie in.
    """
    return {SQL: " ".join(f"{package}/{name}" for name in names)}


def describe(definitions: Definitions, location: str) -> dict[str, Any]:
    """Everything that a plan looks at.

    Parameters
    ----------
    definitions
        Those of a location.
    location
        Its name.
    """
    repository = definitions.get_repository_def()
    checks: dict[AssetKey, list[str]] = {}
    for check in repository.asset_graph.asset_check_keys:
        checks.setdefault(check.asset_key, []).append(check.name)
    return {
        "location": location,
        "versions": dict(_versions()),
        "assets": {
            spec.key.to_user_string(): _asset(spec, sorted(checks.get(spec.key, [])))
            for spec in _own_assets(definitions)
        },
        "jobs": {
            job.name: {
                "assets": sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys),
                "partitions": _text(job.partitions_def),
            }
            for job in sorted(repository.get_all_jobs(), key=lambda job: job.name)
            if not job.name.startswith("__")
        },
        "schedules": {
            schedule.name: {
                "cron": schedule.cron_schedule,
                "job": schedule.job_name,
                "default_status": schedule.default_status.value,
            }
            for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name)
        },
        "sensors": {
            sensor.name: {
                "type": sensor.sensor_type.value,
                "jobs": sorted(target.job_name for target in sensor.targets if target.has_job_def or target.job_name),
                "assets": _text(sensor.asset_selection),
                "interval": sensor.minimum_interval_seconds,
                "default_status": sensor.default_status.value,
            }
            for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name)
        },
        "resources": {
            name: f"{type(resource).__module__}.{type(resource).__name__}"
            for name, resource in sorted((definitions.resources or {}).items())
        },
    }


def columns_read(sql: Iterable[str], tables: Iterable[TableContract]) -> dict[str, list[str]]:
    """The columns of these tables that statements name, wherever they do: a condition relies on a column as well.

    A name that more than one table of a statement has, and that does not say whose it is, counts for each. A column
    that the contract does not have is named all the same where it can only be the table's: one that is dropped from
    the contract while the SQL still uses it would otherwise seem to be used by nobody.

    Parameters
    ----------
    sql
        Statements in DuckDB's SQL. A table may stand there without its schema.
    """
    # Deferred: parsing SQL is no business of loading definitions.
    from sqlglot import exp, parse

    by_name = {name.lower(): table for table in tables for name in (table.table, table.table.split(".")[1])}
    used: dict[str, set[str]] = {}
    for statement in (found for text in sql for found in parse(text, dialect="duckdb") if found is not None):
        aliases: dict[str, set[str]] = {}
        here: dict[str, TableContract] = {}
        for read in statement.find_all(exp.Table):
            table = _table_of(read, by_name)
            if table is not None:
                here[table.table] = table
                aliases.setdefault(read.alias_or_name.lower(), set()).add(table.table)
        for table in here.values():
            used.setdefault(table.table, set())
        everything = any(not isinstance(star.parent, exp.Count) for star in statement.find_all(exp.Star))
        for name, table in here.items():
            known = {column.name for column in table.columns}
            if everything:
                used[name] |= known
            for column in statement.find_all(exp.Column):
                whose = aliases.get(column.table.lower(), set()) if column.table else set(here)
                if name in whose and column.name.lower() in known:
                    used[name].add(column.name.lower())
            # JOIN ... USING names columns without being an expression.
            for identifier in (part for join in statement.find_all(exp.Join) for part in join.args.get("using") or ()):
                if identifier.name.lower() in known:
                    used[name].add(identifier.name.lower())
        for name, column_name in _beyond_contracts(statement, by_name):
            used[name].add(column_name)
    return {table: sorted(columns) for table, columns in sorted(used.items())}


def _table_of(read: "exp.Table", by_name: Mapping[str, TableContract]) -> TableContract | None:
    return by_name.get((f"{read.db}.{read.name}" if read.db else read.name).lower())


def _beyond_contracts(statement: "exp.Expr", by_name: Mapping[str, TableContract]) -> Iterator[tuple[str, str]]:
    """Columns that can only be those of tables with contracts, and that none of these has; each with its table."""
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope, traverse_scope

    # WITH named(a, b) AS ..., FROM (...) AS named(a, b)
    renamed = {column.name.lower() for alias in statement.find_all(exp.TableAlias) for column in alias.columns}
    for scope in traverse_scope(statement):
        if not isinstance(scope.expression, exp.Query):
            continue
        tables: dict[str, TableContract] = {}
        # Names that are no table's: the statement gives them.
        given = renamed | {alias.alias.lower() for alias in scope.expression.selects if isinstance(alias, exp.Alias)}
        closed = scope.parent is None or not scope.is_subquery
        for alias, source in scope.sources.items():
            table = _table_of(source, by_name) if isinstance(source, exp.Table) else None
            if table is not None:
                tables[alias.lower()] = table
            elif (
                isinstance(source, Scope) and isinstance(source.expression, exp.Query) and not source.expression.is_star
            ):
                given |= {selected.lower() for selected in source.expression.named_selects}
            else:
                closed = False
        for column in scope.columns:
            name = column.name.lower()
            if column.table:
                whose = [tables[column.table.lower()]] if column.table.lower() in tables else []
            else:
                whose = list(tables.values()) if closed and name not in given else []
            if not any(name == known.name for table in whose for known in table.columns):
                yield from ((table.table, name) for table in whose)


def _own_assets(definitions: Definitions) -> list[AssetSpec]:
    """Those that a location makes, and not what others make and it depends on; by key."""
    return sorted(
        (
            spec
            for spec in definitions.resolve_all_asset_specs()
            if SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET not in spec.metadata
        ),
        key=lambda spec: spec.key,
    )


def _asset(spec: AssetSpec, checks: list[str]) -> dict[str, Any]:
    schema = spec.metadata.get("dagster/column_schema")
    schema = getattr(schema, "value", schema)
    return {
        "group": spec.group_name,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
        "description": spec.description or "",
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "partitions": _text(spec.partitions_def),
        "automation": _automation(spec.automation_condition),
        "checks": checks,
        "contract": _text(getattr(spec.metadata.get("contract"), "value", spec.metadata.get("contract"))),
        "columns": {
            column.name: {"type": column.type, "required": not column.constraints.nullable}
            for column in (schema.columns if isinstance(schema, TableSchema) else ())
        },
        "rules": _rules(spec.key),
        "reads": _reads(spec),
    }


def _rules(key: AssetKey) -> dict[str, dict[str, Any]]:
    """What the contract of an asset's table says of its rows, by rule."""
    table = _contract_of(key)
    return {
        rule.name: {
            "refuses": rule.blocking,
            "expected": rule.expected,
            "columns": list(rule.columns),
            "measure": hashlib.sha256(rule.measure.encode()).hexdigest()[:8],
        }
        for rule in (table.rules if table is not None else ())
    }


def _reads(spec: AssetSpec) -> dict[str, list[str]]:
    """The columns that an asset uses of each table with a contract that it depends on: all, where no SQL says which."""
    tables = [table for dep in spec.deps if (table := _contract_of(dep.asset_key)) is not None]
    declared = spec.metadata.get(SQL)
    names = str(getattr(declared, "value", declared)).split() if declared else []
    texts = [
        files(package).joinpath(name).read_text(encoding="utf-8")
        for package, name in (declared_file.split("/", 1) for declared_file in names)
    ]
    read = columns_read(texts, tables)
    return {table.table: read.get(table.table, [column.name for column in table.columns]) for table in tables}


def _contract_of(key: AssetKey) -> TableContract | None:
    try:
        return contract(".".join(key.path))
    except ValueError:
        return None


def _automation(condition: AutomationCondition[Any] | None) -> str | None:
    if condition is None:
        return None
    label = condition.get_label() or type(condition).__name__
    # The label may stay while what it stands for changes.
    return f"{label} ({hashlib.sha256(repr(condition).encode()).hexdigest()[:8]})"


def _versions() -> Iterable[tuple[str, str]]:
    yield "python", f"{sys.version_info.major}.{sys.version_info.minor}"
    for package in SHARED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield package, version(package)


def _text(value: object) -> str | None:
    return " ".join(str(value).split()) if value is not None else None


def _unmeasurable(definitions: Definitions) -> Iterator[str]:
    # Deferred: it brings DuckDB along.
    from taxi_shared.quality import unmeasurable

    for spec in _own_assets(definitions):
        table = _contract_of(spec.key)
        if table is not None:
            yield from unmeasurable(table)


def _traceback(error: Exception) -> str:
    """Where an error comes from, without the forty lines of Python's and Dagster's that lead there."""
    told = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = told
    while link is not None:
        own = [frame for frame in link.stack if not frame.filename.startswith(_NOT_OWN)]
        link.stack = traceback.StackSummary.from_list(own or link.stack[-1:])
        if link.__context__ is not None and str(link.__context__) == str(link):
            # Raised again on its way.
            link.__context__ = None
        link = link.__cause__ or link.__context__
    return "".join(told.format()).rstrip()


def main() -> None:
    """Print the description of the location whose name is the argument.

    Raises
    ------
    SystemExit
        Its code does not load, or a rule of a contract of its own is no SQL that could be measured.
    """
    (location,) = sys.argv[1:]
    # What the location's code prints must not stand in between.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            definitions = importlib.import_module(f"{location}.definitions").defs()
            Definitions.validate_loadable(definitions)
            described = describe(definitions, location)
        except ContractError as error:
            # It names the file, and what is wrong there.
            sys.exit(str(error))
        except Exception as error:  # noqa: BLE001  (it is told)
            sys.exit(_traceback(error))
        faults = list(_unmeasurable(definitions))
    if faults:
        sys.exit("\n".join(faults))
    print(json.dumps(described, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
