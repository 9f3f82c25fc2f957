"""What the source sends may be anything: it is read, or refused as what it is, and nothing else happens."""

import contextlib
from pathlib import Path

import duckdb
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingestion import sample
from ingestion.canonical import UnsupportedSchemaError, projection
from ingestion.defs.trips import BAD_CONTENT, make_ready
from ingestion.source import BadFileError, SourceError, TripFile, csv_rows, fetch, parquet_rows
from taxi_shared.warehouse import Warehouse

from conftest import Source, of_month, parquet

MONTH = parquet(of_month("green", "2023-02", [{}] * 20))
NAMES = [
    name for name in sample.month_schema("green", "2023-02").names if name not in ("ehail_fee", "trip_type")
]  # what every file has

anything = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(content=st.binary(max_size=300).map(lambda middle: b"PAR1" + middle + b"PAR1") | st.binary(max_size=20))
def test_no_bytes_break_the_reader_of_parquet_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with contextlib.suppress(BadFileError):
        assert parquet_rows(tmp_path / "file") >= 0


@anything
@given(where=st.integers(0, len(MONTH) - 1), other=st.binary(min_size=1, max_size=8))
def test_a_month_with_some_bytes_changed_is_counted_or_refused(tmp_path: Path, where: int, other: bytes) -> None:
    (tmp_path / "file").write_bytes(MONTH[:where] + other + MONTH[where + len(other) :])
    with contextlib.suppress(BadFileError):
        assert parquet_rows(tmp_path / "file") >= 0


@anything
@given(where=st.integers(0, len(MONTH) - 1), other=st.binary(min_size=1, max_size=8))
def test_a_month_with_some_bytes_changed_is_loaded_or_refused(
    tmp_path: Path, warehouse: Warehouse, where: int, other: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(MONTH[:where] + other + MONTH[where + len(other) :])
    with contextlib.suppress(BadFileError, UnsupportedSchemaError, *BAD_CONTENT), warehouse.draft() as draft:
        assert parquet_rows(file) >= 0
        ready = make_ready(draft, TripFile.of_partition("2023-02-01|green"), file)
        # As the lake reads what it is given.
        for files in ready.files:
            if files.rows:
                draft.connection.execute("FROM parquet_metadata($files)", {"files": list(files.paths)}).fetchall()


@anything
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"a,b\n{text}".encode()))
def test_no_bytes_break_the_reader_of_csv_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with contextlib.suppress(BadFileError):
        assert csv_rows("a", "b")(tmp_path / "file") > 0


@anything
@given(others=st.lists(st.text(min_size=1, max_size=12), max_size=4), order=st.permutations(NAMES))
def test_whatever_the_columns_are_called_they_are_cast_or_refused(others: list[str], order: list[str]) -> None:
    columns = list({name.lower(): name for name in [*others, *order[: len(order) - len(others) % 2]]}.values())
    # DuckDB takes no name with a zero in it, and Parquet none that is no UTF-8.
    columns = [name for name in columns if "\0" not in name and name.isprintable()]
    try:
        select = projection(columns)
    except UnsupportedSchemaError:
        assert len(columns) < len(NAMES) + len(others)
        return
    made = ", ".join(f'NULL AS "{name.replace(chr(34), chr(34) * 2)}"' for name in columns)
    source = "SELECT 'green' AS service, DATE '2023-02-01' AS file_month, 0 AS source_row"
    with duckdb.connect() as connection:
        connection.execute(f"SELECT {select} FROM ({source}, {made})")


@anything
@given(wait=st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12))
def test_whatever_a_busy_server_asks_to_wait_is_waited_for_or_ignored(
    source: Source, client: httpx.Client, tmp_path: Path, wait: str
) -> None:
    source.status("/x", 429, {"Retry-After": wait})
    with pytest.raises(SourceError, match="HTTP 429"):
        fetch(client, f"{source.url}/x", tmp_path / "part", None, parquet_rows)
