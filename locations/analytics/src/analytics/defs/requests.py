"""Ad-hoc requests: the chart that one asks for, the sensor that follows the folder, the check that names bad files."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetExecutionContext,
    AssetSelection,
    Config,
    ConfigurableResource,
    DefaultSensorStatus,
    Failure,
    MaterializeResult,
    MetadataValue,
    RunConfig,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
    asset,
    asset_check,
    define_asset_job,
    sensor,
)
from pydantic import BaseModel, Field, ValidationError
from taxi_shared import charts
from taxi_shared.description import sql_metadata
from taxi_shared.partitions import SERVICES
from taxi_shared.warehouse import Warehouse

from analytics.defs.marts import FOR_PEOPLE, LOAD_QUALITY, OWNERS, ZONE_HOURLY_DEMAND
from analytics.requests import (
    EARLIEST,
    MOST_FILES,
    AdhocRequest,
    BadRequestError,
    FiledRequest,
    Problem,
    check_name,
    make_request,
    read_folder,
)
from analytics.served import ServedFiles

if TYPE_CHECKING:
    import altair

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# New ones in one tick: a folder full of them must not keep Dagster's queue from everybody else.
MOST_REQUESTS = 20


class RequestFolder(ConfigurableResource[None]):
    """Where people put their requests."""

    folder: str = Field(description="The folder; it need not exist.")


class AdhocRequestConfig(Config):
    """A request as a run is given it; in the UI's launchpad, too."""

    name: str = Field(description="Names the result's files: 1 to 64 of a-z, 0-9, _ and -.")
    borough: str = Field(description="Manhattan, Brooklyn, Queens, Bronx, Staten Island or EWR.")
    from_day: str = Field(description="First day of the pickups, YYYY-MM-DD.")
    to_day: str = Field(description="Last day of the pickups, YYYY-MM-DD.")
    service: str | None = Field(default=None, description="yellow or green; both together when left out.")


@dataclass(frozen=True)
class HourOfWeek:
    """One cell of the chart: a row of the CSV file.

    Attributes
    ----------
    weekday
        1 is Monday, 7 is Sunday.
    hour
        0 to 23, New York wall clock.
    days
        Such weekdays in the loaded part of the period; of the service that has more of it, if they differ.
    trips
        All pickups in that hour of that weekday over the loaded part of the period.
    trips_per_hour
        Their average, of each service over its own days; None where there is no such day.
    """

    weekday: int
    hour: int
    days: int
    trips: int
    trips_per_hour: float | None


@asset(
    key=["reports", "adhoc_request"],
    description="A chart of a borough's trips per hour by weekday over a period, as somebody asked for it",
    deps=[ZONE_HOURLY_DEMAND.table.asset_key, LOAD_QUALITY.table.asset_key],
    group_name="reports",
    owners=OWNERS,
    kinds={"duckdb", "altair"},
    metadata=sql_metadata(__package__, "adhoc_request.sql") | FOR_PEOPLE,
)
def adhoc_request(
    context: AssetExecutionContext, config: AdhocRequestConfig, warehouse: Warehouse, served: ServedFiles
) -> MaterializeResult[None]:
    """The chart as `requests/NAME.png` and its numbers as `requests/NAME.csv`, in the served folder."""
    try:
        check_name(config.name)
        request = make_request(config.borough, config.from_day, config.to_day, config.service)
    except BadRequestError as error:
        raise Failure(f"request {config.name!a}: {error}", allow_retries=False) from None
    hours, loaded = _count(warehouse, request)
    trips = sum(hour.trips for hour in hours)
    days = sum(hour.days for hour in hours if hour.hour == 0)
    if not trips or not days:
        whenever = request.model_copy(update={"from_day": EARLIEST, "to_day": datetime.now(UTC).date()})
        _, ever_loaded = _count(warehouse, whenever)
        raise Failure(
            f"request {config.name}: there are no trips in {request.borough} from {request.from_day} to"
            f" {request.to_day}. Loaded are {_loaded_in_words(ever_loaded)}.",
            allow_retries=False,
        )
    chart = _draw(request, hours, days, loaded)
    names = {kind: f"requests/{config.name}.{kind}" for kind in ("csv", "png")}
    picture = charts.png(chart)
    served.write(names["csv"], _as_csv(hours))
    path = served.write(names["png"], picture)
    context.log.info("%s: %s trips on %s days", path, trips, days)
    return MaterializeResult(
        metadata={
            "chart": charts.embedded(picture, says=_title(request)),
            "link": MetadataValue.url(served.url(names["png"])),
            "numbers": MetadataValue.url(served.url(names["csv"])),
            "file": MetadataValue.path(path),
            "borough": request.borough,
            "from": request.from_day.isoformat(),
            "to": request.to_day.isoformat(),
            "service": ", ".join(_services(request)),
            "trips": trips,
            "days": days,
            "loaded": _loaded_in_words(loaded) if _missing(request, loaded) else "the whole period",
            "busiest_hours": _busiest(hours),
        }
    )


def _services(request: AdhocRequest) -> list[str]:
    return [request.service] if request.service else list(SERVICES.get_partition_keys())


def _count(warehouse: Warehouse, request: AdhocRequest) -> tuple[list[HourOfWeek], dict[str, list[date]]]:
    """The chart's numbers, and the loaded months of the period (their first days) by service."""
    with warehouse.read() as connection:
        for variable, value in {
            "borough": request.borough,
            "services": _services(request),
            "from_day": request.from_day,
            "to_day": request.to_day,
        }.items():
            connection.execute(f"SET VARIABLE {variable} = $1", [value])
        # Both statements about one state of the lakes.
        connection.execute("BEGIN")
        sql = files(__package__).joinpath("adhoc_request.sql").read_text(encoding="utf-8")
        hours = [HourOfWeek(*row) for row in connection.execute(sql).fetchall()]
        loaded = connection.execute("FROM loaded ORDER BY ALL").fetchall()
        connection.execute("COMMIT")
    return hours, _by_service(request, loaded)


def _by_service(request: AdhocRequest, rows: Iterable[tuple[str, date]]) -> dict[str, list[date]]:
    found: dict[str, list[date]] = {service: [] for service in _services(request)}
    for service, month in rows:
        found[service].append(month)
    return found


def _missing(request: AdhocRequest, loaded: dict[str, list[date]]) -> bool:
    first, last = _month_number(request.from_day), _month_number(request.to_day)
    return any(len(months) <= last - first for months in loaded.values())


def _loaded_in_words(loaded: dict[str, list[date]]) -> str:
    """Months by service, those that follow one another as a range: `green 2023-01 to 2023-03, yellow none`."""
    return ", ".join(f"{service} {_ranges(months)}" for service, months in loaded.items())


def _ranges(months: Sequence[date]) -> str:
    # Months in a row have the same distance from their place in the list.
    runs = [
        [month for _, month in run]
        for _, run in groupby(enumerate(months), key=lambda found: _month_number(found[1]) - found[0])
    ]
    return (
        " and ".join(f"{run[0]:%Y-%m}" if len(run) == 1 else f"{run[0]:%Y-%m} to {run[-1]:%Y-%m}" for run in runs)
        or "none"
    )


def _month_number(day: date) -> int:
    return day.year * 12 + day.month


# -- what is made of the numbers ------------------------------------------------------------------


def _title(request: AdhocRequest) -> str:
    return f"{request.borough}: taxi trips per hour, {request.from_day} to {request.to_day}"


def _draw(request: AdhocRequest, hours: list[HourOfWeek], days: int, loaded: dict[str, list[date]]) -> "altair.Chart":
    """A heat map: the week's pattern is seen at once, and each cell can be read off."""
    import altair

    trips = sum(hour.trips for hour in hours)
    services = " and ".join(_services(request))
    subtitle = [f"{trips:,} trips in {services} taxis on {days} days, by the hour of the pickup"]
    if _missing(request, loaded):
        subtitle.append(f"The period is not loaded completely, only {_loaded_in_words(loaded)}")
    cells = [
        {"weekday": WEEKDAYS[hour.weekday - 1], "hour": hour.hour, "trips_per_hour": hour.trips_per_hour}
        for hour in hours
    ]
    chart: altair.Chart = (
        altair.Chart(altair.InlineData(values=cells), title=altair.Title(_title(request), subtitle=subtitle))
        .mark_rect()
        .encode(
            x=altair.X("hour:O", title="Hour of the pickup (New York time)", axis=altair.Axis(labelAngle=0)),
            y=altair.Y("weekday:O", title="Weekday", sort=list(WEEKDAYS)),
            color=altair.Color(
                "trips_per_hour:Q", title=["Trips per hour", "(average)"], scale=altair.Scale(zero=True)
            ),
        )
        .properties(width=640, height=240)
    )
    return chart


def _as_csv(hours: list[HourOfWeek]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["weekday", "hour", "days", "trips", "trips_per_hour"])
    for hour in hours:
        writer.writerow([WEEKDAYS[hour.weekday - 1], hour.hour, hour.days, hour.trips, hour.trips_per_hour])
    return text.getvalue().encode()


def _busiest(hours: list[HourOfWeek]) -> TableMetadataValue:
    busiest = sorted(hours, key=lambda hour: hour.trips_per_hour or 0, reverse=True)[:10]
    return MetadataValue.table(
        [
            TableRecord(
                {
                    "weekday": WEEKDAYS[hour.weekday - 1],
                    "hour": hour.hour,
                    "days": hour.days,
                    "trips": hour.trips,
                    "trips_per_hour": hour.trips_per_hour and round(hour.trips_per_hour, 2),
                }
            )
            for hour in busiest
        ]
    )


# -- the folder -----------------------------------------------------------------------------------


@asset_check(
    asset=adhoc_request,
    description="Every file in the folder of requests is a request; the sensor reports the ones that are not, too.",
)
def requests_are_valid(requests: RequestFolder) -> AssetCheckResult:
    """As the folder is now."""
    folder = Path(requests.folder)
    problems = read_folder(folder).problems
    return AssetCheckResult(
        passed=not problems, description=_verdict(problems), metadata=_verdict_metadata(folder, problems)
    )


def _verdict(problems: list[Problem]) -> str:
    return f"{len(problems)} to be mended" if problems else "every file is a request"


def _verdict_metadata(folder: Path, problems: list[Problem]) -> dict[str, MetadataValue]:
    records = [
        TableRecord({"file": found.file, "problem": found.problem, "version": found.version}) for found in problems
    ]
    columns = [TableColumn(name) for name in ("file", "problem", "version")]
    # Dagster insists on the columns of an empty table.
    problems_table = MetadataValue.table(records, schema=TableSchema(columns))
    return {"folder": MetadataValue.path(folder), "problems": problems_table}


adhoc_request_job = define_asset_job(
    "adhoc_request_job",
    # The check is about the whole folder, and the sensor reports it.
    AssetSelection.assets(adhoc_request).without_checks(),
    description="Draws the chart of one request: a borough's trips per hour by weekday over a period.",
)


class Remembered(BaseModel):
    """The sensor's cursor.

    Attributes
    ----------
    requested
        By file, without `.json`: the version that was requested last.
    reported
        Problems (file, problem, version) that the check was last told; None before the first time.
    """

    requested: dict[str, str] = {}
    reported: list[tuple[str, str, str]] | None = None

    @classmethod
    def of(cls, context: SensorEvaluationContext) -> "Remembered":
        """What the cursor says; nothing where it cannot be read. The run keys keep old requests from running again."""
        try:
            return cls.model_validate_json(context.cursor) if context.cursor else cls()
        except ValidationError:
            context.log.warning("the cursor is damaged and begun anew: %.100s", context.cursor)
            return cls()


@sensor(
    job=adhoc_request_job,
    minimum_interval_seconds=5,
    default_status=DefaultSensorStatus.RUNNING,
    description=f"Looks for new and changed files among the newest {MOST_FILES:,} in the folder of requests; runs up"
    f" to {MOST_REQUESTS} at a time, oldest first. Files that are no requests are reported to requests_are_valid.",
)
def adhoc_request_sensor(context: SensorEvaluationContext, requests: RequestFolder) -> SensorResult:
    """A run for each file whose content is not the one requested last; a bad file never stops the others."""
    folder = Path(requests.folder)
    found, before = read_folder(folder), Remembered.of(context)
    new = [filed for filed in found.requests if before.requested.get(filed.name) != filed.version]
    chosen = new[:MOST_REQUESTS]
    # A file that went bad or away is forgotten: what it is next runs, even if that is what it was before.
    there = {filed.name for filed in found.requests}
    after = Remembered(
        requested={name: version for name, version in before.requested.items() if name in there}
        | {filed.name: filed.version for filed in chosen},
        reported=[(bad.file, bad.problem, bad.version) for bad in found.problems],
    )
    events = []
    if after.reported != before.reported:
        events.append(_evaluation(folder, found.problems))
        for bad in found.problems:
            context.log.warning("%s: %s", bad.file, bad.problem)
    if len(new) > len(chosen):
        context.log.info("%s more requests come with the next ticks", len(new) - len(chosen))
    return SensorResult(
        run_requests=[_run_request(filed) for filed in chosen],
        skip_reason=None if chosen else SkipReason(_nothing_new(found.problems)),
        cursor=after.model_dump_json(),
        asset_events=events,
    )


def _evaluation(folder: Path, problems: list[Problem]) -> AssetCheckEvaluation:
    return AssetCheckEvaluation(
        asset_key=adhoc_request.key,
        check_name="requests_are_valid",
        passed=not problems,
        description=_verdict(problems),
        metadata=_verdict_metadata(folder, problems),
    )


def _nothing_new(problems: list[Problem]) -> str:
    named = ", ".join(bad.file for bad in problems)
    return f"nothing new; to be mended (see the check requests_are_valid): {named}" if named else "nothing new"


def _run_request(filed: FiledRequest) -> RunRequest:
    request = filed.request
    config = AdhocRequestConfig(
        name=filed.name,
        borough=request.borough,
        from_day=request.from_day.isoformat(),
        to_day=request.to_day.isoformat(),
        service=request.service,
    )
    return RunRequest(
        # With the time the file was put there: the same content may be asked for again after another one.
        run_key=f"{filed.name}:{filed.version}:{filed.changed}",
        run_config=RunConfig(ops={adhoc_request.op.name: config}),
        tags={"request": filed.name, "request_sha256": filed.version},
    )
