"""Users: logins, and the ids that each group may have."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.users import (
    LOGIN,
    OWN_GROUPS,
    UID_POOLS,
    UNIX_GROUPS,
    UserGroup,
    login_problem,
    uid_problem,
    unix_name_problem,
)

IDS = Path(__file__).parents[2] / "images/ids.toml"


@pytest.mark.parametrize("login", ["a", "jdupont", "j-dupont_2", "prologin", "a" * 31])
def test_a_login_is_short_and_plain(login: str) -> None:
    assert login_problem(login) is None


@pytest.mark.parametrize(
    ("login", "why"),
    [
        ("", "not empty"),
        ("a" * 32, "32 letters"),
        ("Jean", "capital"),
        ("1jean", "begin with a letter"),
        ("_apt", "begin with a letter"),
        ("été", "begin with a letter"),
        ("jean.dupont", "not a login"),
        ("jean:0", "not a login"),
        ("jean\n", "not a login"),
        ("root", "system user"),
        ("user", "system user"),
        ("systemd-anything", "system user"),
        ("backline-udb", "system user"),
    ],
)
def test_what_is_no_login_is_told_in_words(login: str, why: str) -> None:
    assert why in (login_problem(login) or "")


def test_every_user_and_group_of_an_image_is_reserved() -> None:
    ids = [each["name"] for each in tomllib.loads(IDS.read_text())["id"]]
    base = re.findall(r"^([a-z_][a-z0-9_-]*):", Path("/usr/share/base-passwd/passwd.master").read_text(), re.M)
    base += re.findall(r"^([a-z_][a-z0-9_-]*):", Path("/usr/share/base-passwd/group.master").read_text(), re.M)
    assert len(base) > 40
    assert [name for name in [*ids, *base] if login_problem(name) is None] == []


@given(st.text(max_size=40))
def test_what_passes_has_the_form_that_openapi_tells(text: str) -> None:
    if login_problem(text) is None:
        assert re.fullmatch(LOGIN.strip("^$"), text)


def test_pools_have_bounds_and_no_uid_is_in_two() -> None:
    uids = [uid for pool in UID_POOLS.values() for uid in range(pool.first, pool.last + 1)]
    assert len(uids) == len(set(uids))
    assert uid_problem(10_999, UserGroup.USER) is None
    assert "10000-10999" in (uid_problem(11_000, UserGroup.USER) or "")
    assert uid_problem(True, UserGroup.USER) is not None


def test_a_gid_of_ours_is_in_no_pool_but_that_of_its_users() -> None:
    assert {group.name: group.gid for group in OWN_GROUPS} == {"user": 10_000, "orga": 10_001}
    assert [UNIX_GROUPS[group][0].name for group in UserGroup] == ["user", "orga", "sudo"]


@pytest.mark.parametrize("text", ["a:b", "a,b", "a\nb", "a\\b", "a\0b"])
def test_a_name_that_would_break_a_line_of_passwd_is_told(text: str) -> None:
    assert unix_name_problem(text) is not None
    assert unix_name_problem("Zoé d'Arc-Ñandú") is None
