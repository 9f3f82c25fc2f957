"""What a contract says of a table's rows, as expressions that are measured and limits that they must keep.

All rules of a table are SQL aggregates over the same rows, so that one pass measures them all. From the Open Data
Contract Standard come keys, `logicalTypeOptions` and `quality`: the metrics of its library, and `sql` whose query is
one aggregate. What it has no word for, a figure that must stay near what it was in earlier periods, is of type
`custom` with the engine `drift`.
"""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from taxi_shared.sql import literal

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality, SchemaObject, SchemaProperty

DRIFT: Final = "drift"
DIMENSIONS: Final = (
    "uniqueness",
    "completeness",
    "conformity",
    "accuracy",
    "consistency",
    "coverage",
    "timeliness",
)
# Each with the words for a limit, and what it demands of a figure.
_OPERATORS: Final[dict[str, tuple[str, Callable[[float, Any], bool]]]] = {
    "mustBe": ("", operator.eq),
    "mustNotBe": ("not ", operator.ne),
    "mustBeGreaterThan": ("more than ", operator.gt),
    "mustBeGreaterOrEqualTo": ("at least ", operator.ge),
    "mustBeLessThan": ("less than ", operator.lt),
    "mustBeLessOrEqualTo": ("at most ", operator.le),
    "mustBeBetween": ("between ", lambda value, bounds: bool(bounds[0] <= value <= bounds[1])),
    "mustNotBeBetween": ("not between ", lambda value, bounds: not bounds[0] <= value <= bounds[1]),
}
_SQL_BEGIN, _SQL_END = "SELECT ", " FROM ${table}"


@dataclass(frozen=True)
class Limit:
    """What a figure must be: an operator of the standard, and its value."""

    operator: str
    value: Any

    def holds(self, observed: float | None) -> bool:
        """Whether a figure keeps it; one that could not be had does not."""
        return observed is not None and not math.isnan(observed) and _OPERATORS[self.operator][1](observed, self.value)

    def __str__(self) -> str:
        """For a person."""
        shown = (
            " and ".join(f"{bound:g}" for bound in self.value) if isinstance(self.value, list) else f"{self.value:g}"
        )
        return f"{_OPERATORS[self.operator][0]}{shown}"


@dataclass(frozen=True)
class Rule:
    """Something that is true of the rows of a table, or of each period of it.

    Attributes
    ----------
    name
        For a person: what is measured.
    dimension
        Which of the standard's dimensions it belongs to; the rules of one dimension are one asset check.
    blocking
        Whether rows that break it are refused, rather than only told of.
    measure
        SQL aggregate over the rows.
    offending
        SQL that stands behind a WHERE and leaves only the rows that break it; None: it is about no single row.
    columns
        Those that the rule is about.
    unit
        Of what is measured: rows, percent, or whatever the contract says.
    limit
        What the measured figure must be; None: as `drift` says.
    drift
        By how many percent the figure may differ from the median of earlier periods, and by how much besides.
    """

    name: str
    dimension: str
    blocking: bool
    measure: str
    offending: str | None
    columns: tuple[str, ...]
    unit: str
    limit: Limit | None
    drift: tuple[float, float] | None = None

    @property
    def expected(self) -> str:
        """What the figure must be, for a person."""
        if self.limit is not None:
            return f"{self.limit} {self.unit}".strip()
        percent, margin = self.drift or (0.0, 0.0)
        besides = f" and {margin:g} {self.unit}" if margin else ""
        return f"within {percent:g} percent{besides} of the median of earlier periods"


def rules_of(table: "SchemaObject", key: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules of a table, in the order of its contract.

    Raises
    ------
    ValueError
        A rule cannot be measured here, or the rules of one dimension are partly blocking.
    """
    rules = [*_of_key(key)]
    for column in table.properties or ():
        rules.extend(_of_type(column))
        rules.extend(_declared(rule, column.name) for rule in column.quality or ())
    rules.extend(_declared(rule, None) for rule in table.quality or ())
    for dimension in DIMENSIONS:
        if len({rule.blocking for rule in rules if rule.dimension == dimension}) > 1:
            raise ValueError(
                f"its rules of the dimension {dimension} are partly of severity error: they are one check, which either"
                " blocks or does not"
            )
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError(f"two of its rules are named alike: {sorted({n for n in names if names.count(n) > 1})}")
    return tuple(rules)


def _of_key(key: tuple[str, ...]) -> Iterator[Rule]:
    if key:
        columns = ", ".join(key)
        yield Rule(
            name=f"rows that share {columns} with another",
            dimension="uniqueness",
            blocking=True,
            measure=f"count(*) - count(DISTINCT ({columns}))",
            offending=f"QUALIFY count(*) OVER (PARTITION BY {columns}) > 1",
            columns=key,
            unit="rows",
            limit=Limit("mustBe", 0),
        )


def _of_type(column: "SchemaProperty") -> Iterator[Rule]:
    """From the options of a column's logical type; that required columns are not null is up to the table itself."""
    options = column.logicalTypeOptions or {}
    for option, sign, words in (("minimum", "<", "below"), ("maximum", ">", "above")):
        if option in options:
            bound = _number(options[option], f"{option} of column {column.name}")
            violated = f"{column.name} {sign} {bound}"
            yield _rows(f"{column.name} {words} {bound:g}", "conformity", True, violated, str(column.name))


def _declared(rule: "DataQuality", column: str | None) -> Rule:
    what = f"its rule {rule.name or rule.metric or rule.type!r}" + (f" of column {column}" if column else "")
    if rule.severity not in ("error", "warning"):
        raise ValueError(f"{what} must have the severity error or warning")
    if rule.dimension not in DIMENSIONS:
        raise ValueError(f"{what} must have one of the dimensions {', '.join(DIMENSIONS)}")
    blocking = rule.severity == "error"
    if rule.type == "custom" and rule.engine == DRIFT:
        return _drift(rule, what, blocking)
    limit = _limit(rule, what)
    if rule.type == "sql":
        query = rule.query or ""
        if not rule.name or not (query.startswith(_SQL_BEGIN) and query.endswith(_SQL_END)):
            raise ValueError(f"{what} must have a name and a query `{_SQL_BEGIN}aggregate{_SQL_END}`")
        measure = query.removeprefix(_SQL_BEGIN).removesuffix(_SQL_END)
        return Rule(rule.name, rule.dimension, blocking, measure, None, _of(column), rule.unit or "", limit)
    if rule.metric == "rowCount":
        return Rule("rows", rule.dimension, blocking, "count(*)", None, (), "rows", limit)
    if column is None:
        raise ValueError(f"{what} is not one that can be measured here: rowCount, sql, or custom with engine {DRIFT}")
    if rule.metric == "nullValues":
        name, violated = f"{column} is null", f"{column} IS NULL"
    elif rule.metric == "invalidValues":
        values = (rule.arguments or {}).get("validValues")
        if not isinstance(values, list) or not values:
            raise ValueError(f"{what} needs the argument validValues")
        accepted = ", ".join(_value(value, what) for value in values)
        name, violated = f"{column} other than {', '.join(map(str, values))}", f"{column} NOT IN ({accepted})"
    else:
        raise ValueError(f"{what} is not one that can be measured here: nullValues, invalidValues, or sql")
    if rule.unit == "percent":
        measure = f"coalesce(100.0 * count(*) FILTER (WHERE {violated}) / nullif(count(*), 0), 0)"
        return Rule(name, rule.dimension, blocking, measure, f"AND {violated}", (column,), "percent", limit)
    return _rows(name, rule.dimension, blocking, violated, column, limit)


def _drift(rule: "DataQuality", what: str, blocking: bool) -> Rule:
    settings = rule.implementation
    if not rule.name or not isinstance(settings, dict) or settings.keys() - {"margin"} != {"measure", "percent"}:
        raise ValueError(f"{what} must have a name and an implementation with `measure`, `percent`, perhaps `margin`")
    drift = (
        _number(settings["percent"], f"percent of {what}"),
        _number(settings.get("margin", 0), f"margin of {what}"),
    )
    measure = str(settings["measure"])
    return Rule(rule.name, str(rule.dimension), blocking, measure, None, (), rule.unit or "", None, drift)


def _rows(
    name: str, dimension: str, blocking: bool, violated: str, column: str, limit: Limit = Limit("mustBe", 0)
) -> Rule:
    measure = f"count(*) FILTER (WHERE {violated})"
    return Rule(name, dimension, blocking, measure, f"AND {violated}", (column,), "rows", limit)


def _limit(rule: "DataQuality", what: str) -> Limit:
    given = {name: value for name in _OPERATORS if (value := getattr(rule, name)) is not None}
    if len(given) != 1:
        raise ValueError(f"{what} must have exactly one of {', '.join(_OPERATORS)}")
    ((name, value),) = given.items()
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        _number(number, f"{name} of {what}")
    return Limit(name, value)


def _of(column: str | None) -> tuple[str, ...]:
    return () if column is None else (column,)


def _number(value: object, what: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be a number, not {value!r}")
    return value


def _value(value: object, what: str) -> str:
    return literal(value) if isinstance(value, str) else str(_number(value, f"a valid value of {what}"))
