"""Whether rows keep their contract: every rule measured in one pass, told as asset checks, and kept as a table.

A producer measures before it commits, and commits nothing that breaks a blocking rule. What came of it
stands in `raw.check_results` of its lake, by table and partition: Dagster has the last result of a check only,
whatever partition that was about, and lets a failed one stop nothing but its own run. With the table a check names
the refused partitions until the last one is mended, and whoever reads a lake can ask whether a partition may be built
upon.

Rows are only added to that table, so that runs which write different tables, and so hold different locks, never wait
for each other there; the newest findings of a partition are those that count.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

import duckdb
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
)

from taxi_shared.contracts import TableContract, contract
from taxi_shared.contracts.rules import Rule
from taxi_shared.previews import Cell, records

EXAMPLES: Final = 5
"""Offending rows that are shown for each rule."""
EARLIER: Final = 12
"""Periods before one that its figures are compared with."""
ENOUGH: Final = 3
"""Fewer of them say nothing of what is usual."""
RESULTS: Final = "raw.check_results"


@dataclass(frozen=True)
class Finding:
    """What came of a rule.

    Attributes
    ----------
    observed
        The measured figure; None where there is none.
    examples
        Some of the rows that break the rule.
    detail
        What the figure does not say.
    """

    check: str
    rule: str
    blocking: bool
    passed: bool
    observed: float | None
    unit: str
    expected: str
    examples: Sequence[Mapping[str, Cell]] = field(default=())
    detail: str = ""

    @property
    def refused(self) -> bool:
        """Whether the rows must not be committed."""
        return self.blocking and not self.passed

    def __str__(self) -> str:
        """For a person, in one line."""
        text = f"{self.rule}: observed {_figure(self.observed, self.unit)}, expected {self.expected}"
        if self.examples:
            text += f", for example {json.dumps(self.examples[0], default=str)}"
        return f"{text}. {self.detail}" if self.detail else text


class RefusedError(Exception):
    """Rows break a blocking rule, so nothing of them was committed."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        broken = [str(finding).removesuffix(".") for finding in findings if finding.refused]
        super().__init__(f"{'; '.join(broken)}.")
        self.findings = list(findings)


def require(findings: Sequence[Finding]) -> None:
    """Raise RefusedError if a blocking rule is broken."""
    if any(finding.refused for finding in findings):
        raise RefusedError(findings)


def measure(
    connection: duckdb.DuckDBPyConnection,
    table: TableContract,
    condition: str = "true",
    parameters: Mapping[str, Any] | None = None,
    rows: str | None = None,
    key_figure: str | None = None,
) -> list[Finding]:
    """Measure all rules of a table's contract on some of its rows, in one pass over them.

    Parameters
    ----------
    condition, parameters
        Which rows: what stands behind WHERE, and the values of its `$name`s.
    rows
        What has the rows, where they are not in the table yet.
    key_figure
        SQL aggregate for the rows that share their key with another, where the caller knows a cheaper one than the
        contract, which counts the different keys.
    """
    if not table.rules:
        return []
    where = f"FROM {rows or table.table} WHERE ({condition})"
    measures = [key_figure if key_figure and rule.columns == table.key else rule.measure for rule in table.rules]
    figures = connection.execute(
        f"SELECT {', '.join(f'({measure})::DOUBLE' for measure in measures)} {where}", dict(parameters or {})
    ).fetchone()
    findings = []
    for rule, observed in zip(table.rules, figures or (), strict=True):
        passed, expected = _judge(rule, observed)
        examples: list[dict[str, Cell]] = []
        if not passed and rule.offending is not None:
            columns = ", ".join(dict.fromkeys([*table.key, *rule.columns]))
            examples = records(
                connection.execute(
                    f"SELECT {columns} {where} {rule.offending} LIMIT {EXAMPLES}", dict(parameters or {})
                )
            )
        findings.append(
            Finding(rule.dimension, rule.name, rule.blocking, passed, observed, rule.unit, expected, examples)
        )
    return findings


def compared(
    table: TableContract, findings: Sequence[Finding], earlier: Callable[[str], Sequence[float]]
) -> list[Finding]:
    """What was measured, held against earlier periods.

    Parameters
    ----------
    earlier
        The figures that a rule, given by its name, had in the periods before; the newest first.
    """
    drifting = {rule.name: rule for rule in table.rules if rule.drift}
    judged = []
    for finding in findings:
        if finding.rule in drifting:
            passed, expected = _judge(drifting[finding.rule], finding.observed, earlier(finding.rule))
            finding = replace(finding, passed=passed, expected=expected)
        judged.append(finding)
    return judged


def unmeasurable(table: TableContract) -> list[str]:
    """Rules of a contract that cannot be measured on its columns, each with what DuckDB says of it.

    A typing error in one of them would otherwise be found by the next load, which it breaks.
    """

    def said(what: str, error: duckdb.Error) -> str:
        text = " ".join(str(error).partition("LINE 1:")[0].split())
        return f"contract of {table.table}: {what}: {text}"

    found = []
    with duckdb.connect() as connection:
        columns = ", ".join(f"{column.name} {column.type}" for column in table.columns)
        try:
            connection.execute(f"CREATE TABLE measured ({columns})")
        except duckdb.Error as error:
            return [said("its columns are none that DuckDB has", error)]
        # A row: what is wrong with a value shows with one only.
        connection.execute(f"INSERT INTO measured ({table.columns[0].name}) VALUES (NULL)")
        for rule in table.rules:
            try:
                # Beside another aggregate, as all rules are measured.
                connection.execute(f"SELECT count(*), ({rule.measure})::DOUBLE FROM measured")
            except duckdb.Error as error:
                found.append(said(f"its rule {rule.name!r} cannot be measured", error))
    return found


def _judge(rule: Rule, observed: float | None, earlier: Sequence[float] = ()) -> tuple[bool, str]:
    """Whether a figure keeps its rule, and what was expected of it."""
    if rule.limit is not None:
        return rule.limit.holds(observed), rule.expected
    before = earlier[:EARLIER]
    if len(before) < ENOUGH:
        return True, f"anything: fewer than {ENOUGH} earlier periods are there to compare with"
    usual, (percent, margin) = median(before), rule.drift or (0.0, 0.0)
    slack = abs(usual) * percent / 100 + margin
    passed = observed is not None and usual - slack <= observed <= usual + slack
    bounds = f"between {usual - slack:,.6g} and {usual + slack:,.6g} {rule.unit}"
    return passed, f"{bounds}: {usual:,.6g} is the median of {len(before)} periods before it"


# -- what is kept of it ---------------------------------------------------------------------------


def results_contract() -> TableContract:
    """The contract of the table that keeps what was found, which `Warehouse.write` appends to."""
    return contract(RESULTS)


def keep(
    connection: duckdb.DuckDBPyConnection,
    partition: str,
    findings: Mapping[TableContract, Sequence[Finding]],
    run_id: str,
) -> None:
    """Add these findings of a partition of tables to `raw.check_results`; from now on they are the ones that count.

    The caller holds the tables' locks: two who judge one table at once would both be the newest.

    Parameters
    ----------
    partition
        Dagster's key of it; empty: the tables have none.
    """
    (checked_at,) = connection.execute(
        # Newer than the former ones also where the clock was set back.
        f"""SELECT greatest($now::TIMESTAMP, max(checked_at) + INTERVAL 1 MICROSECOND)::VARCHAR FROM {RESULTS}
        WHERE list_contains($tables, table_name) AND partition = $partition""",
        {
            "now": datetime.now(UTC).replace(tzinfo=None),
            "tables": [table.table for table in findings],
            "partition": partition,
        },
    ).fetchone() or (None,)
    rows = [
        {
            "table_name": table.table,
            "partition": partition,
            "rule": finding.rule,
            "check_name": finding.check,
            "blocking": finding.blocking,
            "passed": finding.passed,
            "observed": finding.observed,
            "unit": finding.unit,
            "expected": finding.expected,
            "examples": json.dumps(finding.examples, default=str) if finding.examples else None,
            "detail": finding.detail or None,
            "checked_at": checked_at,
            "run_id": run_id,
        }
        for table, of_table in findings.items()
        for finding in of_table
    ]
    # All in one statement: each one makes a file of its own.
    types = json.dumps([{column.name: column.type for column in results_contract().columns}])
    connection.execute(
        f"INSERT INTO {RESULTS} BY NAME SELECT unnest(from_json($rows, $types), recursive := true)",
        {"rows": json.dumps(rows), "types": types},
    )


def refused(
    connection: duckdb.DuckDBPyConnection,
    table: TableContract,
    partitions: Sequence[str] | None = None,
    lake: str | None = None,
) -> list[tuple[str, str, str]]:
    """Broken blocking rules of a table as it was last judged: partition, check, and what is wrong.

    Parameters
    ----------
    partitions
        Only these; None: all.
    lake
        The owner's lake, where the connection's own one is another.
    """
    if not _is_there(connection, lake):
        return []
    results = RESULTS if lake is None else f"{lake}.{RESULTS}"
    found = connection.execute(
        f"""SELECT partition, check_name, rule, observed, unit, expected, detail FROM {_newest(results)}
        WHERE table_name = $table AND blocking AND NOT passed
          AND ($partitions IS NULL OR list_contains($partitions, partition))
        ORDER BY ALL""",
        {"table": table.table, "partitions": None if partitions is None else list(partitions)},
    ).fetchall()
    return [
        (partition, check, str(Finding(check, rule, True, False, observed, unit, expected, detail=detail or "")))
        for partition, check, rule, observed, unit, expected, detail in found
    ]


def earlier_figures(
    connection: duckdb.DuckDBPyConnection, table: TableContract, partitions: Sequence[str]
) -> Callable[[str], list[float]]:
    """For `compared`: the figures that each rule had of these partitions' rows, in the order given.

    Of one that was refused those that it had before: its rows are the same ones still.
    """
    found = connection.execute(
        f"""WITH good AS (
          FROM {RESULTS} WHERE table_name = $table AND list_contains($partitions, partition)
          QUALIFY NOT bool_or(blocking AND NOT passed) OVER (PARTITION BY partition, checked_at)
        )
        SELECT rule, observed FROM (FROM good QUALIFY checked_at = max(checked_at) OVER (PARTITION BY partition))
        WHERE observed IS NOT NULL
        ORDER BY list_position($partitions, partition)""",
        {"table": table.table, "partitions": list(partitions)},
    ).fetchall()
    return lambda rule: [observed for name, observed in found if name == rule]


def _newest(results: str) -> str:
    """SQL: the findings that count."""
    return f"(FROM {results} QUALIFY checked_at = max(checked_at) OVER (PARTITION BY table_name, partition))"


def _is_there(connection: duckdb.DuckDBPyConnection, lake: str | None) -> bool:
    """Whether anything was ever measured in a lake."""
    schema, name = RESULTS.split(".")
    found = connection.execute(
        """FROM duckdb_columns() WHERE database_name = coalesce($lake, current_database())
        AND schema_name = $schema AND table_name = $name LIMIT 1""",
        {"lake": lake, "schema": schema, "name": name},
    )
    return found.fetchone() is not None


# -- as Dagster's checks --------------------------------------------------------------------------


def check_specs(table: TableContract, **own: str) -> list[AssetCheckSpec]:
    """The checks of a table's asset: one for each dimension that its contract has rules of.

    Parameters
    ----------
    own
        Blocking checks that the asset makes by itself, with their descriptions.
    """
    named = [
        *((name, description, True) for name, description in own.items()),
        *(
            (dimension, f"By the contract: {'; '.join(rule.name for rule in rules)}", rules[0].blocking)
            for dimension, rules in _by_dimension(table).items()
        ),
    ]
    return [
        AssetCheckSpec(name, asset=table.asset_key, description=description, blocking=blocking)
        for name, description, blocking in named
    ]


def check_results(
    table: TableContract,
    findings: Mapping[str, Sequence[Finding]],
    still_refused: Sequence[tuple[str, str, str]] = (),
    remedy: Mapping[str, Any] | None = None,
) -> Iterator[AssetCheckResult]:
    """What a run found, one result for each check that it has something to say of.

    A blocking check also warns of the partitions that other runs refused, until they are mended. It does no more than
    that: what this run found is good, and Dagster has a run fail whose blocking check does.

    Parameters
    ----------
    findings
        By partition.
    still_refused
        As `refused` returns them, for the whole table.
    remedy
        What a person needs to mend what breaks a blocking rule, as metadata.
    """
    found = [(partition, finding) for partition, of_it in findings.items() for finding in of_it]
    for check in dict.fromkeys(finding.check for _, finding in found):
        here = [(partition, finding) for partition, finding in found if finding.check == check]
        elsewhere = [
            (partition, text) for partition, name, text in still_refused if name == check and partition not in findings
        ]
        broken = [(partition, finding) for partition, finding in here if not finding.passed]
        is_blocking = here[0][1].blocking and (bool(broken) or not elsewhere)
        metadata: dict[str, Any] = dict(remedy or {}) if is_blocking and broken else {}
        metadata |= {
            "measured": _table(
                {
                    "partition": partition,
                    "rule": finding.rule,
                    "observed": _figure(finding.observed, finding.unit),
                    "expected": finding.expected,
                    "passed": finding.passed,
                }
                for partition, finding in [*broken, *(pair for pair in here if pair[1].passed)][:50]
            )
        }
        if elsewhere:
            metadata["refused_before"] = _table({"partition": p, "what": text} for p, text in elsewhere)
        metadata |= {
            f"rows: {finding.rule}": _table({"partition": partition, **example} for example in finding.examples)
            for partition, finding in broken
            if finding.examples
        }
        texts = [_named(partition, str(finding)) for partition, finding in broken]
        texts += [f"refused before: {_named(partition, text)}" for partition, text in elsewhere]
        yield AssetCheckResult(
            check_name=check,
            asset_key=table.asset_key,
            passed=not texts,
            severity=AssetCheckSeverity.ERROR if is_blocking else AssetCheckSeverity.WARN,
            description="; ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "") or None,
            metadata=metadata,
        )


def without_materialization(results: Iterable[AssetCheckResult]) -> Iterator[AssetCheckEvaluation]:
    """The same for a run that ends without having materialized what was checked.

    Dagster would take a result for one on the former materialization of the run's partition, and the UI shows a check
    only if that is the newest one of all partitions.
    """
    for result in results:
        if result.asset_key is None or result.check_name is None:
            raise ValueError("a result must name its asset and check")
        yield AssetCheckEvaluation(
            asset_key=result.asset_key,
            check_name=result.check_name,
            passed=result.passed,
            metadata=result.metadata,
            severity=result.severity,
            description=result.description,
            blocking=result.severity == AssetCheckSeverity.ERROR,
        )


def _by_dimension(table: TableContract) -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for rule in table.rules:
        found.setdefault(rule.dimension, []).append(rule)
    return found


def _named(partition: str, text: str) -> str:
    return f"{partition}: {text}" if partition else text


def _figure(observed: float | None, unit: str) -> str:
    return "nothing" if observed is None else f"{observed:,.10g} {unit}".strip()


def _table(records: Iterable[Mapping[str, Cell]]) -> TableMetadataValue:
    rows = list(records)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return MetadataValue.table(
        [TableRecord({name: row.get(name) for name in columns}) for row in rows],
        schema=TableSchema([TableColumn(name) for name in columns]),
    )
