"""Words that find users."""

from __future__ import annotations

import pytest

from services.common.errors import UsageError
from services.common.users import UserGroup
from services.udb import query
from services.udb.folding import folded
from services.udb.schema import User


def user(login: str, first: str = "", last: str = "", **more: object) -> User:
    values: dict[str, object] = {
        "id": 1,
        "uid": 10_000,
        "group": UserGroup.USER,
        "shell": "/bin/bash",
        "keys": [],
        "site_id": None,
        "password_set": None,
        "created": 0.0,
        "updated": 0.0,
        "revision": 1,
    }
    return User(login=login, firstname=first, lastname=last, **{**values, **more})  # type: ignore[arg-type]


ZOE = user("zmuller", "Zoé", "Müller-Łoś", id=7, site_id=42, password_set=1.0)
TEAM = user("team07", group=UserGroup.ORGA, uid=11_000, keys=["k"])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", [ZOE, TEAM]),
        ("muller", [ZOE]),
        ("müller", [ZOE]),
        ("los", [ZOE]),
        ("-muller", [TEAM]),
        ("team[01-20]", [TEAM]),
        ("login:team*", [TEAM]),
        ("login:team[01-06]", []),
        ("name:zoé", [ZOE]),
        ('name:"zoé müller-łoś"', [ZOE]),
        ("firstname:Z*", [ZOE]),
        ("group:user", [ZOE]),
        ("group:user,orga", [ZOE, TEAM]),
        ("uid:11000", [TEAM]),
        ("id:7", [ZOE]),
        ("site:42", [ZOE]),
        ("keys:yes", [TEAM]),
        ("password:no", [TEAM]),
        ("-password:no group:user", [ZOE]),
    ],
)
def test_words_find_users(words: str, found: list[User]) -> None:
    assert [each for each in (ZOE, TEAM) if query.parse(words)(each)] == found


@pytest.mark.parametrize("words", ["groop:user", "group:root2", "uid:x", "keys:maybe", 'name:"zoé', "team[1-"])
def test_a_query_that_makes_no_sense_is_told(words: str) -> None:
    with pytest.raises(UsageError):
        query.parse(words)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Éloïse", "eloise"),
        ("Strauß", "strauss"),
        ("Łukasz", "lukasz"),
        ("Søren", "soren"),
        ("Ñandú", "nandu"),
        ("ﬁn", "fin"),
    ],
)
def test_names_are_folded_as_passports_do(name: str, plain: str) -> None:
    assert folded(name) == plain
