"""Who may log in to the deployment: a file of userlists as HAProxy reads them, with hashes of the passwords."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from filelock import FileLock

from codeloc.errors import CodelocError
from codeloc.home import write_whole

# The first login, whose password is set in .env.
ADMIN = "admin"
SHORTEST_PASSWORD = 12
_LONGEST_PASSWORD = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
# Of SHA-512 crypt: its own default. HAProxy hashes at each request, so more of them cost each request.
_ROUNDS = 5000
_HEADER = "# Written by `codeloc users`, and by init. HAProxy reads it; it holds no password, only hashes.\n"
_FROM_SETTINGS = "# as ADMIN_PASSWORD in .env"
_LINE = re.compile(rf"  user (?P<name>\S+) password (?P<hash>\S+)(?P<from_settings> {re.escape(_FROM_SETTINGS)})?")


class Role(StrEnum):
    """What a person may do: editors everything, viewers look."""

    EDITOR = "editor"
    VIEWER = "viewer"


class SetBy(StrEnum):
    """Who decides over the login of `admin`."""

    SETTINGS = "settings"
    PERSON = "person"
    NOBODY = "nobody"


@dataclass(frozen=True)
class Person:
    """One login.

    Attributes
    ----------
    from_settings
        The password follows ADMIN_PASSWORD, because nobody has set another one since.
    """

    name: str
    role: Role
    hash: str
    from_settings: bool = False


@dataclass(frozen=True)
class People:
    """The file of all logins; changes of two commands at once come one after the other."""

    file: Path

    def all(self) -> list[Person]:
        """Everybody, by name.

        Raises
        ------
        CodelocError
            The file was changed by hand in a way that HAProxy may read and this does not.
        """
        if not self.file.exists():
            return []
        found: list[Person] = []
        role: Role | None = None
        for line in self.file.read_text(encoding="utf-8").splitlines():
            if line.startswith("userlist "):
                role = Role(line.removeprefix("userlist ").removesuffix("s"))
            elif match := _LINE.fullmatch(line):
                if role is not None:
                    found.append(Person(match["name"], role, match["hash"], match["from_settings"] is not None))
            elif line.strip() and not line.startswith("#"):
                raise CodelocError(
                    f"{self.file} is damaged, at: {line.split(' password ')[0]}. Restore it from a backup"
                )
        return sorted(found, key=lambda person: person.name)

    def add(self, name: str, role: Role, password: str) -> None:
        """Let a person in.

        Raises
        ------
        CodelocError
            There is one of this name already, or the name or the password will not do.
        """
        if not _NAME.fullmatch(name):
            raise CodelocError(f"'{name}' will not do as a name: 1 to 64 letters, digits and . _ @ + - are taken")
        require_password(password, f"the password of {name}")
        with self._changing() as people:
            if name in people:
                raise CodelocError(f"there is a '{name}' already: `users password {name}` changes the password")
            people[name] = Person(name, role, _hashed(password))

    def change_password(self, name: str, password: str) -> None:
        """Give a person another password."""
        require_password(password, f"the password of {name}")
        with self._changing() as people:
            people[name] = replace(_existing(people, name), hash=_hashed(password), from_settings=False)

    def remove(self, name: str) -> None:
        """Let a person in no longer."""
        with self._changing() as people:
            removed = _existing(people, name)
            del people[name]
            if removed.role is Role.EDITOR and all(person.role is not Role.EDITOR for person in people.values()):
                raise CodelocError(f"'{name}' is the only editor: add another one first")

    def follow_admin(self, password: str) -> SetBy:
        """Make the first login; later, have its password follow the settings, if nobody else ever set it."""
        from passlib.hash import sha512_crypt

        first = not self.file.exists()
        with self._changing() as people:
            admin = people.get(ADMIN)
            if admin is None and not first:
                return SetBy.NOBODY
            if admin is not None and not admin.from_settings:
                return SetBy.PERSON
            if admin is None or not sha512_crypt.verify(password, admin.hash):
                people[ADMIN] = Person(ADMIN, Role.EDITOR, _hashed(password), from_settings=True)
            return SetBy.SETTINGS

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Person]]:
        """Everybody by name, to be changed; what is there at the end is written, unless an error comes out."""
        with FileLock(self.file.with_name(".lock")):
            before = {person.name: person for person in self.all()}
            people = dict(before)
            yield people
            if people != before:
                write_whole(self.file, _written(people.values()))


def require_password(password: str, what: str) -> None:
    """Refuse what is soon guessed, and what a browser or HAProxy cannot take."""
    if len(password) < SHORTEST_PASSWORD:
        raise CodelocError(f"{what} has {len(password)} characters: it needs at least {SHORTEST_PASSWORD}")
    if len(password) > _LONGEST_PASSWORD or not password.isprintable():
        raise CodelocError(f"{what} must be at most {_LONGEST_PASSWORD} characters that can be printed")


def _existing(people: dict[str, Person], name: str) -> Person:
    if name not in people:
        raise CodelocError(f"there is no '{name}', only {', '.join(people) or 'nobody yet'}")
    return people[name]


def _hashed(password: str) -> str:
    from passlib.hash import sha512_crypt

    return str(sha512_crypt.using(rounds=_ROUNDS).hash(password))


def _written(people: Iterable[Person]) -> str:
    text = _HEADER
    for role in Role:
        text += f"\nuserlist {role}s\n"
        for person in sorted(people, key=lambda person: person.name):
            if person.role is role:
                text += (
                    f"  user {person.name} password {person.hash}{' ' + _FROM_SETTINGS * person.from_settings}".rstrip()
                )
                text += "\n"
    return text
