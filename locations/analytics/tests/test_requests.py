"""Requests as people write them: which are taken, and what the others are told."""

import hashlib
import json
import os
import socket
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from analytics import requests
from analytics.requests import (
    MOST_DAYS,
    AdhocRequest,
    BadRequestError,
    FiledRequest,
    Problem,
    check_name,
    make_request,
    parse_request,
    read_file,
    read_folder,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = {"borough": "Staten Island", "from": "2023-01-01", "to": "2023-01-31"}


def of(**changes: object) -> bytes:
    """A request that differs from a good one; None leaves the field out."""
    fields = {**GOOD, **{name.rstrip("_"): value for name, value in changes.items()}}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def problem_of(content: bytes) -> str:
    with pytest.raises(BadRequestError) as caught:
        parse_request(content)
    return str(caught.value)


@pytest.mark.parametrize("borough", ["Manhattan", "Brooklyn", "Queens", "Bronx", "Staten Island", "EWR"])
@pytest.mark.parametrize("service", ["yellow", "green", None])
def test_every_borough_and_service_can_be_asked_for(borough: str, service: str | None) -> None:
    found = parse_request(of(borough=borough, service=service))
    assert (found.borough, found.from_day, found.to_day) == (borough, date(2023, 1, 1), date(2023, 1, 31))
    assert (found.service, found.days) == (service, 31)


@pytest.mark.parametrize(
    ("first", "last"),
    [("2023-01-01", "2023-01-01"), ("2011-01-01", "2011-01-02"), ("2024-01-01", "2024-12-31")],
)
def test_a_period_of_one_day_up_to_a_leap_year_is_taken(first: str, last: str) -> None:
    assert parse_request(of(from_=first, to=last)).to_day == date.fromisoformat(last)


def test_a_mark_in_front_of_the_text_is_no_matter() -> None:
    assert parse_request(b"\xef\xbb\xbf" + of()) == parse_request(of())


BOROUGHS = "'Manhattan', 'Brooklyn', 'Queens', 'Bronx', 'Staten Island' or 'EWR'"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (of(borough="manhattan"), f"borough: must be {BOROUGHS}, not 'manhattan'"),
        (of(borough="Queens' OR 1=1 --"), f'borough: must be {BOROUGHS}, not "Queens\' OR 1=1 --"'),
        (of(borough="Queens\x00\x1b[2J"), f"borough: must be {BOROUGHS}, not 'Queens\\x00\\x1b[2J'"),
        (of(borough="x" * 5000), f"borough: must be {BOROUGHS}, not '{'x' * 56}..."),
        (of(borough=["Queens"]), f"borough: must be {BOROUGHS}, not ['Queens']"),
        (of(borough=None), "borough: is missing"),
        (of(service="uber"), "service: must be 'yellow' or 'green', not 'uber'"),
        (of(from_=None, to=None), "from: is missing; to: is missing"),
        (of(from_="2023-02-30"), "from: must be a date such as '2023-01-31', not '2023-02-30'"),
        (of(from_="1.2.2023"), "from: must be a date such as '2023-01-31', not '1.2.2023'"),
        (of(to="2023-01-31T00:00:00"), "to: must be a date such as '2023-01-31', not '2023-01-31T00:00:00'"),
        (of(to="1675123200"), "to: must be a date such as '2023-01-31', not '1675123200'"),
        (of(to=1675123200), "to: must be a date such as '2023-01-31', not 1675123200"),
        (of(to=True), "to: must be a date such as '2023-01-31', not True"),
        (of(from_="2010-12-31"), "from: 2010-12-31 is before 2011-01-01, when the trips begin"),
        (of(from_="2023-02-01"), "from: 2023-02-01 is after to, 2023-01-31"),
        (of(to="2024-01-02"), "to: 367 days from 2023-01-01 to 2024-01-02 are more than 366"),
        (of(zone=74), "zone: is not a field; those are borough, from, to and service"),
        (of(from_day="2023-01-01"), "from_day: is not a field; those are borough, from, to and service"),
        (of(name="../../etc/passwd"), "name: is not a field; those are borough, from, to and service"),
        (of(**{"a\nb": 1}), "a\\nb: is not a field; those are borough, from, to and service"),
        (b"[]", 'must be an object such as {"borough": "Queens", "from": "2023-01-01", "to": "2023-01-31"}'),
        (b"", "is not JSON: EOF while parsing a value at line 1 column 0"),
        (of()[:-1], "is not JSON: EOF while parsing an object at line 1 column 69"),
        (of() + of(), "is not JSON: trailing characters at line 1 column 71"),
        (b"[" * 5000, "is not JSON: recursion limit exceeded at line 1 column 202"),
        (b'{"borough": "Qu\xe9ens"}', "is not text in UTF-8: byte 15 cannot be read"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(content: bytes, told: str) -> None:
    assert problem_of(content) == told


def test_every_wrong_field_is_named() -> None:
    assert problem_of(of(borough="Hoboken", to="tomorrow", extra=1)) == (
        f"borough: must be {BOROUGHS}, not 'Hoboken'; to: must be a date such as '2023-01-31', not 'tomorrow';"
        " extra: is not a field; those are borough, from, to and service"
    )


def test_the_launchpads_values_are_checked_alike() -> None:
    assert make_request("Queens", "2023-01-01", "2023-01-02", None) == parse_request(
        of(borough="Queens", to="2023-01-02")
    )
    with pytest.raises(BadRequestError, match=r"^borough: must be .*, not 'Hoboken'$"):
        make_request("Hoboken", "2023-01-01", "2023-01-02", "green")


@pytest.mark.parametrize("name", ["a", "0", "manhattan-2023-01", "a_b", "x" * 64])
def test_names_that_are_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "-a", "_a", "A", "a b", "a/b", "../a", "a.b", "a\n", "é", "a\x00"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(BadRequestError, match=r"^name: must be 1 to 64 of a-z, 0-9, _ and -"):
        check_name(name)


# -- files ----------------------------------------------------------------------------------------


def put(folder: Path, name: str, content: bytes | None = None, modified: int = 1_000) -> Path:
    """A file of the folder, written `modified` nanoseconds after 1970."""
    file = folder / name
    file.write_bytes(of() if content is None else content)
    os.utime(file, ns=(modified, modified))
    return file


def test_a_file_is_read_with_its_name_version_and_time(tmp_path: Path) -> None:
    file = put(tmp_path, "island.json", modified=123_456_789)
    version = hashlib.sha256(of()).hexdigest()[:16]
    # When it was put there, which a time that came along with the content does not hide.
    assert read_file(file) == FiledRequest("island", version, file.stat().st_ctime_ns, parse_request(of()))


def problem(found: object) -> Problem:
    assert isinstance(found, Problem)
    return found


def test_a_wrong_file_is_named_with_its_version(tmp_path: Path) -> None:
    content = of(borough="Hoboken")
    found = problem(read_file(put(tmp_path, "new-jersey.json", content)))
    assert found.file == "new-jersey.json"
    assert found.problem.startswith("borough: must be")
    assert found.version == hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("notes.txt", "the file's name must end in .json"),
        ("island.JSON", "the file's name must end in .json"),
        ("Island.json", "name: must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit, not 'Island'"),
        ("a b.json", "name: must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit, not 'a b'"),
        ("a\nb.json", "name: must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit, not 'a\\nb'"),
    ],
)
def test_a_file_with_another_name_is_refused(tmp_path: Path, name: str, told: str) -> None:
    assert read_file(put(tmp_path, name)) == Problem(name, told, "")


def test_a_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    (found,) = read_folder(put(tmp_path, os.fsdecode(b"\xff.json")).parent).problems
    assert found.file == "\\udcff.json"
    assert found.problem.encode("ascii").endswith(b"not '\\udcff'")


def test_a_large_file_is_refused_and_one_of_the_limit_is_not(tmp_path: Path) -> None:
    limit = of().ljust(requests.MOST_BYTES)
    assert isinstance(read_file(put(tmp_path, "a.json", limit)), FiledRequest)
    assert read_file(put(tmp_path, "b.json", limit + b" ")) == Problem("b.json", "is larger than 10,000 bytes", "")


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "requests"
    outside.mkdir()
    folder.mkdir()
    for name, target in {
        "out.json": put(outside, "a.json"),
        "in.json": put(folder, "good.json"),
        "nowhere.json": outside / "missing.json",
        "folder.json": outside,
    }.items():
        (folder / name).symlink_to(target)
    found = read_folder(folder)
    assert [filed.name for filed in found.requests] == ["good"]
    told = "is a link, and links are not followed: put a copy of the file here"
    assert found.problems == [
        Problem(name, told, "") for name in ("folder.json", "in.json", "nowhere.json", "out.json")
    ]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")  # opened plainly, it would be waited for
    assert read_folder(tmp_path).problems == [
        Problem("folder.json", "is not a regular file", ""),
        Problem("pipe.json", "is not a regular file", ""),
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "a.json"))
        (found,) = read_folder(tmp_path).problems
    assert found.file == "a.json"
    assert found.problem.startswith("cannot be read: ")


def test_files_that_are_being_written_are_left_alone(tmp_path: Path) -> None:
    for name in ("island.json.part", ".island.json", ".island.json.swp"):
        put(tmp_path, name, b"{")
    found = read_folder(tmp_path)
    assert (found.requests, found.problems) == ([], [])


def test_a_missing_folder_and_a_file_that_is_gone_are_no_requests(tmp_path: Path) -> None:
    assert read_folder(tmp_path / "requests").requests == []
    assert read_file(tmp_path / "gone.json") is None


def test_requests_come_oldest_first_and_bad_files_do_not_stop_them(tmp_path: Path) -> None:
    for name, content, modified in [("c", None, 1), ("b", b"{", 2), ("a", None, 3), ("d", of(to="2022-01-01"), 4)]:
        put(tmp_path, f"{name}.json", content, modified)
    found = read_folder(tmp_path)
    assert [filed.name for filed in found.requests] == ["c", "a"]
    assert [bad.file for bad in found.problems] == ["b.json", "d.json"]


def test_of_too_many_files_the_newest_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_FILES", 3)
    for number in range(3):
        put(tmp_path, f"file-{number}.json", modified=number)
    assert read_folder(tmp_path).problems == []
    put(tmp_path, "file-3.json", modified=3)
    found = read_folder(tmp_path)
    assert [filed.name for filed in found.requests] == ["file-1", "file-2", "file-3"]
    told = "only the newest 3 files are looked at: remove requests that are no longer needed"
    assert found.problems == [Problem("(folder)", told, "")]


def test_a_request_cannot_be_changed() -> None:
    found: Any = parse_request(of())
    assert isinstance(found, AdhocRequest)
    with pytest.raises(ValueError, match="frozen"):
        found.borough = "Bronx"


# -- anything at all --------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "borough": st.sampled_from(["Manhattan", "EWR", "'; DROP TABLE marts.trips_by_week; --"]) | _JSON,
        "from": st.dates().map(str) | _JSON,
        "to": st.dates().map(str) | _JSON,
        "service": st.sampled_from(["yellow", "green"]) | _JSON,
    },
)
_CONTENT = st.binary(max_size=200) | (_FIELDS | _JSON).map(json.dumps).map(str.encode)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=_CONTENT)
def test_whatever_a_file_holds_it_is_one_request_or_one_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "asked.json").write_bytes(content)
    found = read_folder(tmp_path)
    assert len(found.requests) + len(found.problems) == 1
    for request in found.requests:
        assert request.request.borough in ("Manhattan", "EWR", "Brooklyn", "Queens", "Bronx", "Staten Island")
        assert 1 <= request.request.days <= MOST_DAYS
    for problem in found.problems:
        assert problem.file == "asked.json"
        assert problem.problem
