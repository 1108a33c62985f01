"""From lists of people to edits: whom a line means, which login they get, and what is to change. Pure.

- `names`: a first and a last name a line, with a tab between. The login is made from them: initials of the first name's
  parts, then ten letters of the last name, without accents. Who has this very name in the group already is that person:
  the same list twice makes nobody twice, and two of a name in one list are two.
- `logins`: a login a line. `passwords`: `login:password` a line.
- `site`: the website's accounts, a JSON array of objects with `id`, `username`, `first_name`, `last_name` and perhaps
  `password`. An account is known by its id ever after, whatever it is called then.

A login that is somebody else's, of this list or an earlier one, gets a number: jdupont, jdupont2. Nobody moves to
another group by an import of people.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from services.common.codec import convert
from services.common.errors import InputError
from services.common.tables import Mistakes, Row
from services.common.users import LOGIN_MAX, UserGroup, login_problem
from services.udb import tables
from services.udb.edits import Create, Update
from services.udb.folding import folded
from services.udb.schema import ImportFormat, ImportQuery, NewUser, User, UserPatch

LETTERS = 10
"""Of a last name in a login."""
_PARTS = re.compile(r"[\s\-']+")
_BREAKS = re.compile(r"(?<=[\s\-'\u2019])")
_NOT_A_TO_Z = re.compile(r"[^a-z]")


@dataclass(frozen=True)
class Wish:
    """What a line says of a person."""

    line: int
    login: str = ""
    firstname: str = ""
    lastname: str = ""
    password: str | None = None
    site_id: int | None = None

    def place(self) -> str:
        """Where it stands."""
        return f"line {self.line}"


@dataclass(frozen=True)
class Planned:
    """What a line does, and where it stands."""

    line: int
    edit: Create | Update

    def place(self) -> str:
        """Where it stands."""
        return f"line {self.line}"


class SiteUser(msgspec.Struct, frozen=True):
    """An account as the website exports it; what else it says is not for us."""

    id: int
    username: str
    first_name: str = ""
    last_name: str = ""
    password: str | None = None


# Reading


def read(content: bytes, format: ImportFormat) -> list[Wish]:
    """The people of a list. Raises InputError: `import.syntax`, `import.invalid` for several."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError("import.syntax", "this is not UTF-8", where=f"line {line}") from error
    if format is ImportFormat.SITE:
        return _read_site(text)
    mistakes = Mistakes()
    wishes = list(_READERS[format](_lines(text), mistakes))
    mistakes.check()
    return wishes


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip("\r")
        if stripped.strip() and not stripped.startswith("#"):
            yield number, stripped


def _read_names(lines: Iterable[tuple[int, str]], mistakes: Mistakes) -> Iterator[Wish]:
    for number, line in lines:
        first, tab, last = line.partition("\t")
        if not tab or "\t" in last or not (first.strip() or last.strip()):
            mistakes.add("import.syntax", "not a first and a last name with a tab between", where=f"line {number}")
            continue
        yield Wish(number, firstname=written(first), lastname=written(last))


def _read_logins(lines: Iterable[tuple[int, str]], mistakes: Mistakes) -> Iterator[Wish]:
    for number, line in lines:
        login = line.strip()
        if problem := login_problem(login):
            mistakes.add("import.login", problem, where=f"line {number}")
            continue
        yield Wish(number, login=login)


def _read_passwords(lines: Iterable[tuple[int, str]], mistakes: Mistakes) -> Iterator[Wish]:
    for number, line in lines:
        login, colon, password = line.partition(":")
        login = login.strip()
        problem = login_problem(login) if colon and password else "not a login and a password with a colon between"
        if problem:
            mistakes.add("import.login" if colon else "import.syntax", problem, where=f"line {number}")
            continue
        yield Wish(number, login=login, password=password)


_READERS: Mapping[ImportFormat, Callable[[Iterable[tuple[int, str]], Mistakes], Iterator[Wish]]] = {
    ImportFormat.NAMES: _read_names,
    ImportFormat.LOGINS: _read_logins,
    ImportFormat.PASSWORDS: _read_passwords,
}


def _read_site(text: str) -> list[Wish]:
    try:
        accounts = msgspec.json.decode(text, type=list[SiteUser])
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        found = re.match(r"\[(\d+)\]\.?(\w*)", place)
        where = None if found is None else f"account {int(found[1]) + 1}" + (f", {found[2]}" if found[2] else "")
        raise InputError("import.syntax", f"{message[:1].lower()}{message[1:]}", where=where) from error
    except msgspec.DecodeError as error:
        raise InputError("import.syntax", f"this is not JSON: {error}") from error
    return [
        Wish(
            number,
            login=account.username,
            firstname=written(account.first_name),
            lastname=written(account.last_name),
            password=account.password or None,
            site_id=account.id,
        )
        for number, account in enumerate(accounts, 1)
    ]


def written(name: str) -> str:
    """A name as people write it: what is all in capitals or in small letters gets its capitals."""
    name = " ".join(name.split())
    if name not in (name.upper(), name.lower()):
        return name
    return "".join(part[:1].upper() + part[1:].lower() for part in _BREAKS.split(name))


# Logins


def derived(firstname: str, lastname: str) -> str:
    """The login that a name makes; empty where there is no letter that a login can have."""
    initials = "".join(_NOT_A_TO_Z.sub("", folded(part))[:1] for part in _PARTS.split(firstname))
    return (initials + _NOT_A_TO_Z.sub("", folded(lastname))[:LETTERS])[:LOGIN_MAX]


def adapted(username: str) -> str:
    """The login that is nearest to the name of an account elsewhere; empty where there is none."""
    word = re.sub(r"[^a-z0-9_-]+", "-", folded(username))
    return re.sub(r"^[^a-z]+", "", word)[:LOGIN_MAX].rstrip("-_")


class Logins:
    """Logins that are taken; what it gives is taken too."""

    def __init__(self, taken: Iterable[str], foreign: Callable[[str], bool]) -> None:
        self._taken = set(taken)
        self._foreign = foreign

    def free(self, base: str) -> str:
        """`base`, or with a number where that is somebody's."""
        for number in itertools.count(1):
            suffix = "" if number == 1 else str(number)
            login = base[: LOGIN_MAX - len(suffix)] + suffix
            if login not in self._taken and login_problem(login) is None and not self._foreign(login):
                self._taken.add(login)
                return login
        raise AssertionError("numbers do not end")


# Planning


def plan(
    wishes: Sequence[Wish],
    users: Iterable[User],
    *,
    group: UserGroup,
    generate: bool,
    foreign: Callable[[str], bool],
) -> list[Planned]:
    """An edit for each wish; new users go into `group`, with a password made for them where they bring none.

    Raises InputError: `import.group`, `import.twice`, `import.login`, `import.invalid`.
    """
    users = sorted(users, key=lambda user: user.id)
    people = _People(users, group, Logins((user.login for user in users), foreign))
    mistakes = Mistakes()
    planned: list[Planned] = []
    meant: dict[int, Wish] = {}
    named: dict[str, Wish] = {}
    for wish in wishes:
        found = people.find(wish)
        if found is not None:
            if found.group is not group:
                message = f"{found.login} is in group {found.group.value}, and this is for {group.value}"
                mistakes.add("import.group", message, where=wish.place())
            elif (first := meant.setdefault(found.id, wish)) is not wish:
                mistakes.add("import.twice", f"{found.login} again, as in {first.place()}", where=wish.place())
            else:
                _add(planned, mistakes, wish, lambda: Update(found.id, _patch(wish), found.revision))  # noqa: B023
            continue
        if wish.login and wish.site_id is None:
            if (first := named.setdefault(wish.login, wish)) is not wish:
                mistakes.add("import.twice", f"{wish.login} again, as in {first.place()}", where=wish.place())
                continue
            login = wish.login
        else:
            base = adapted(wish.login) or derived(wish.firstname, wish.lastname)
            if not base:
                message = f"no login can be made of {wish.firstname} {wish.lastname}".rstrip()
                mistakes.add("import.login", message, where=wish.place(), hint="give one: format logins, or `udb add`")
                continue
            login = people.logins.free(base)
        new = {
            "login": login,
            "firstname": wish.firstname,
            "lastname": wish.lastname,
            "group": group.value,
            "password": wish.password,
            "generate": generate and wish.password is None,
            "site_id": wish.site_id,
        }
        _add(planned, mistakes, wish, lambda: Create(convert(new, NewUser)))  # noqa: B023
    mistakes.check()
    return planned


def _add(planned: list[Planned], mistakes: Mistakes, wish: Wish, edit: Callable[[], Create | Update]) -> None:
    """Plan an edit, if what its line says can be a user's."""
    try:
        planned.append(Planned(wish.line, edit()))
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`")
        mistakes.add("import.value", f"{field}: {message[:1].lower()}{message[1:]}", where=wish.place())


class _People:
    """Who is there already."""

    def __init__(self, users: Sequence[User], group: UserGroup, logins: Logins) -> None:
        self.logins = logins
        self._by_login = {user.login: user for user in users}
        self._by_site = {user.site_id: user for user in users if user.site_id is not None}
        self._by_name: dict[tuple[str, str], list[User]] = defaultdict(list)
        for user in reversed(users):
            if user.group is group:
                self._by_name[_named(user)].append(user)

    def find(self, wish: Wish) -> User | None:
        """The user whom a line means; of several with one name, each is meant once, the oldest first."""
        if wish.site_id is not None:
            known = self._by_site.get(wish.site_id)
            if known is None:  # somebody from before there were accounts: the same login and the same name
                known = self._by_login.get(wish.login)
                if known is not None and (known.site_id is not None or _named(known) != _named(wish)):
                    known = None
            return known
        if wish.login:
            return self._by_login.get(wish.login)
        same = self._by_name[_named(wish)]
        return same.pop() if same else None


def _named(person: User | Wish) -> tuple[str, str]:
    return folded(person.firstname), folded(person.lastname)


def _patch(wish: Wish) -> UserPatch:
    """What a line says that may differ; names of a list of names are what found the user."""
    said: dict[str, object] = {}
    if wish.password is not None:
        said["password"] = wish.password
    if wish.site_id is not None:
        said["site_id"] = wish.site_id
        said |= {name: value for name in ("firstname", "lastname") if (value := getattr(wish, name))}
    return convert(said, UserPatch)


def planner(
    content: bytes, asked: ImportQuery, *, foreign: Callable[[str], bool]
) -> Callable[[Sequence[User]], list[Planned]]:
    """What makes edits of a text for the users who are there. Raises InputError("import.*")."""
    if (form := asked.format.table) is not None:
        rows = tables.read(content, form)
        return lambda users: plan_table(rows, users, generate=asked.generate)
    wishes = read(content, asked.format)
    return lambda users: plan(wishes, users, group=asked.group, generate=asked.generate, foreign=foreign)


# Tables


def plan_table(rows: Sequence[Row], users: Iterable[User], *, generate: bool) -> list[Planned]:
    """An edit for each row of a table as an export writes it, which may have a column `password` as well.

    A row means the user with its `id`, else the one with its `login`, else a new one. An empty cell clears keys, and
    leaves everything else as it is. Raises InputError: `import.value`, `import.twice`, `import.invalid`.
    """
    users = list(users)
    by_id = {user.id: user for user in users}
    by_login = {user.login: user for user in users}
    mistakes = Mistakes()
    planned: list[Planned] = []
    meant: dict[int, Row] = {}
    for row in rows:
        values = _values(row)
        id = values.pop("id", None)
        found = by_id.get(int(str(id))) if str(id).isdecimal() and len(str(id)) < 19 else None
        found = found or by_login.get(str(values.get("login", "")))
        if found is not None and (first := meant.setdefault(found.id, row)) is not row:
            message = f"this is {found.login} again, as in line {first.line}"
            mistakes.add("import.twice", message, where=row.place())
            continue
        try:
            if found is None:
                if generate and "password" not in values:
                    values["generate"] = True
                planned.append(Planned(row.line, Create(convert(values, NewUser, strict=False))))
            else:
                patch = convert(values, UserPatch, strict=False)
                planned.append(Planned(row.line, Update(found.id, patch, found.revision)))
        except msgspec.ValidationError as error:
            message, _, place = str(error).partition(" - at `$.")
            name = place.rstrip("`").partition("[")[0]
            told = f"{name}: " if name in row.columns else ""
            mistakes.add("import.value", f"{told}{message[:1].lower()}{message[1:]}", where=row.place(name))
    mistakes.check()
    return planned


def _values(row: Row) -> dict[str, object]:
    """What a row says, by column, without what it leaves open."""
    values: dict[str, object] = {}
    for name, cell in row.cells.items():
        if name == "keys":
            lines = cell if isinstance(cell, list) else str(cell or "").split("\n")
            values["keys"] = [line for each in lines if (line := str(each).strip())]
        elif isinstance(cell, str) and name != "password":
            if cell.strip():
                values[name] = cell.strip()
        elif cell not in (None, ""):
            values[name] = cell
    return values
