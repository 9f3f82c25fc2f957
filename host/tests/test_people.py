"""The file of those who may log in: as HAProxy reads it, with what may not happen to it."""

import re
from pathlib import Path

import pytest
from codeloc.errors import CodelocError
from codeloc.people import People, Person, Role, SetBy, require_password
from passlib.hash import sha512_crypt


@pytest.fixture
def people(tmp_path: Path) -> People:
    """A deployment's, after its first start."""
    made = People(tmp_path / "people.cfg")
    assert made.follow_admin("as it was set first") is SetBy.SETTINGS
    return made


def login(people: People, name: str) -> Person:
    (found,) = [person for person in people.all() if person.name == name]
    return found


def opens(people: People, name: str, password: str) -> bool:
    return bool(sha512_crypt.verify(password, login(people, name).hash))


def test_the_file_is_userlists_that_hold_hashes_alone(people: People) -> None:
    people.add("vera.b@example.org", Role.VIEWER, "a viewer's password")
    lines = [line for line in people.file.read_text().splitlines() if line and not line.startswith("#")]
    hash_ = r"\$6\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}"
    expected = (
        "userlist editors",
        f"  user admin password {hash_} # as ADMIN_PASSWORD in .env",
        "userlist viewers",
        rf"  user vera\.b@example\.org password {hash_}",
    )
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)
    assert people.file.stat().st_mode & 0o077 == 0


def test_admin_follows_the_settings_until_a_person_sets_the_password(people: People) -> None:
    before = people.file.read_text()
    assert people.follow_admin("as it was set first") is SetBy.SETTINGS
    assert people.file.read_text() == before
    assert people.follow_admin("as it was set later") is SetBy.SETTINGS
    assert opens(people, "admin", "as it was set later")
    people.change_password("admin", "as a person set it")
    assert people.follow_admin("as it was set last") is SetBy.PERSON
    assert opens(people, "admin", "as a person set it")


def test_admin_stays_away_once_removed(people: People) -> None:
    people.add("maria", Role.EDITOR, "maria's own password")
    people.remove("admin")
    assert people.follow_admin("as it was set later") is SetBy.NOBODY
    assert [person.name for person in people.all()] == ["maria"]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a#b", "-a", "a\n", "a" * 65])
def test_a_name_that_logins_or_haproxy_cannot_take_is_refused(people: People, name: str) -> None:
    before = people.file.read_text()
    with pytest.raises(CodelocError, match="will not do as a name"):
        people.add(name, Role.VIEWER, "long enough for all")
    assert people.file.read_text() == before


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("elevenchars", "ADMIN_PASSWORD in .env has 11 characters: it needs at least 12"),
        ("x" * 201, "at most 200"),
        ("with a\ttabulator", "can be printed"),
    ],
)
def test_a_password_that_will_not_do_is_refused(password: str, said: str) -> None:
    with pytest.raises(CodelocError, match=said):
        require_password(password, "ADMIN_PASSWORD in .env")


def test_nobody_is_added_twice_changed_or_removed_without_being_there(people: People) -> None:
    before = people.file.read_text()
    with pytest.raises(CodelocError, match="there is a 'admin' already"):
        people.add("admin", Role.VIEWER, "long enough for all")
    with pytest.raises(CodelocError, match="there is no 'nobody', only admin"):
        people.change_password("nobody", "long enough for all")
    with pytest.raises(CodelocError, match="there is no 'nobody'"):
        people.remove("nobody")
    with pytest.raises(CodelocError, match="only editor"):
        people.remove("admin")
    assert people.file.read_text() == before


def test_a_file_changed_by_hand_is_not_written_over(people: People) -> None:
    changed = people.file.read_text() + "  user eve insecure-password secret groups editors\n"
    people.file.write_text(changed)
    with pytest.raises(CodelocError, match="is damaged"):
        people.add("vera", Role.VIEWER, "long enough for all")
    assert people.file.read_text() == changed
