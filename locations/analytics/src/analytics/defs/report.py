"""The report page: built from the marts, checked, and only then put where it is served."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    Failure,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableRecord,
    TableSchema,
    asset,
)
from taxi_shared.charts import picture
from taxi_shared.description import sql_metadata
from taxi_shared.warehouse import Warehouse

from analytics.charts import weekly_trend
from analytics.defs.automation import FOLLOW_MARTS
from analytics.defs.marts import FOR_PEOPLE, OWNERS
from analytics.report import build
from analytics.report.check import Problem, problems
from analytics.served import REPORT_FILE, ServedFiles

if TYPE_CHECKING:
    from dagster import RawMetadataValue

REPORT: Final = AssetKey(["reports", "report"])
CHECK: Final = "opens_and_equals_the_marts"
LARGEST_TABLE: Final = 20
"""Problems shown in the UI; the first ones tell what is wrong."""


@asset(
    key=REPORT,
    description="What the marts show, as one page that opens anywhere: charts, a map and key figures by month and"
    " service.",
    deps=[source.asset_key for source in build.sources()],
    group_name="reports",
    owners=OWNERS,
    kinds={"html", "altair"},
    check_specs=[
        AssetCheckSpec(
            CHECK,
            asset=REPORT,
            description="The page opens without network, draws every chart, and its numbers are those of the marts."
            " Looked at before it takes the old page's place.",
        )
    ],
    metadata=sql_metadata(build.__package__, *build.SQL_FILES) | FOR_PEOPLE,
    automation_condition=FOLLOW_MARTS,
    # One at a time, or an older page could take the place of a newer one.
    pool="report",
)
def report(
    context: AssetExecutionContext, warehouse: Warehouse, served: ServedFiles
) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
    """Built and checked on one state of the marts; a page that is wrong leaves the old one in place."""
    made_at = datetime.now(UTC)
    with warehouse.read() as connection:
        connection.execute("BEGIN")
        build.open_sources(connection)
        data = build.datasets(connection)
        page = build.page(data, build.shapes(connection), made_at)
        found = problems(page, connection)
        connection.execute("COMMIT")
    if found:
        yield AssetCheckResult(passed=False, check_name=CHECK, metadata={"problems": _table(found)})
        first = found[0]
        raise Failure(
            f"the new report is wrong, so {served.path(REPORT_FILE)} stays as it was. {first.what}: expected"
            f" {first.expected}, observed {first.observed}. The check {CHECK} lists everything.",
            allow_retries=False,
        )
    content = page.encode()
    path = served.write(REPORT_FILE, content)
    context.log.info("%s: %s bytes", path, len(content))
    yield MaterializeResult(
        metadata={
            "link": MetadataValue.url(served.url(REPORT_FILE)),
            "path": MetadataValue.path(path),
            "bytes": len(content),
            **_covered(data),
        },
        check_results=[AssetCheckResult(passed=True, check_name=CHECK)],
    )


def _covered(data: dict[str, build.Columns]) -> "dict[str, RawMetadataValue]":
    """What the page is about, for the UI."""
    months = sorted(set(data["loaded"]["month"]))
    weeks = data["weeks"]
    rows = [
        {"service": service, "week": week, "trips": trips}
        for service, week, trips in zip(weeks["service"], weeks["week"], weeks["trips"], strict=True)
    ]
    covered: dict[str, RawMetadataValue] = {
        "months": f"{months[0]} to {months[-1]}" if months else "none",
        "trips": sum(data["payments"]["trips"]),
    }
    if rows:
        covered["preview"] = picture(weekly_trend(rows), says="Trips per week and service, as in the report")
    return covered


def _table(found: list[Problem]) -> MetadataValue:
    return MetadataValue.table(
        [
            TableRecord({"what": problem.what, "expected": problem.expected, "observed": problem.observed})
            for problem in found[:LARGEST_TABLE]
        ],
        schema=TableSchema([TableColumn(name) for name in ("what", "expected", "observed")]),
    )
