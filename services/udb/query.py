"""The one way to ask for users: in the API, in the pages' search box, and on the command line. Pure.

The words are those of `services.common.query`; fields are `login`, `name` (first, last, or both), `firstname`,
`lastname`, `uid`, `group`, `shell`, `id`, `site`, `keys` and `password` (yes or no). `login:team[01-20]` is a range. A
word without a field is looked for anywhere in login and names, without regard for accents.
"""

from __future__ import annotations

from collections.abc import Callable

from services.common.query import Field, Language, choice, flag, number, text
from services.common.ranges import expand, is_range
from services.common.users import UserGroup
from services.udb.folding import folded
from services.udb.schema import User

Test = Callable[[User], bool]


def parse(words: str) -> Test:
    """A query as a test of one user. Raises UsageError("query.syntax") with what is wrong and what there is."""
    return _LANGUAGE.parse(words)


def _anywhere(word: str) -> Test:
    if is_range(word):
        logins = frozenset(expand(word.lower()))
        return lambda user: user.login in logins
    wanted = folded(word)
    return lambda user: wanted in user.login or wanted in folded(f"{user.firstname} {user.lastname}")


_FIELDS: dict[str, Field[User]] = {
    "id": number(lambda user: user.id),
    "login": text(lambda user: [user.login]),
    "name": text(
        lambda user: [user.firstname.lower(), user.lastname.lower(), f"{user.firstname} {user.lastname}".lower()]
    ),
    "firstname": text(lambda user: [user.firstname.lower()]),
    "lastname": text(lambda user: [user.lastname.lower()]),
    "uid": number(lambda user: user.uid),
    "group": choice("group", [group.value for group in UserGroup], lambda user: user.group.value),
    "shell": text(lambda user: [user.shell]),
    "site": number(lambda user: -1 if user.site_id is None else user.site_id),
    "keys": flag(lambda user: bool(user.keys)),
    "password": flag(lambda user: user.password_set is not None),
}
_LANGUAGE = Language("users", _FIELDS, _anywhere)
