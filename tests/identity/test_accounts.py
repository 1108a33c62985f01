"""From udb's records to passwd, group, shadow and root's keys: who is in, who is left out, and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.users import UserGroup
from services.identity.accounts import FILES, GROUP, PASSWD, ROOT_KEYS, SHADOW, Accounts, Own, accounts, own_of
from tests.identity.people import KEY, person

OWN = own_of(
    "root:x:0:0:root:/root:/bin/bash\ndrifter:x:10500:10500::/:/bin/sh\n", "root:x:0:\nsudo:x:27:\nrender:x:214:\n"
)


def made(*people: dict[str, Any], own: Own = OWN) -> Accounts:
    return accounts([(str(each["id"]), each) for each in people], own)


def test_a_user_is_a_line_in_passwd_and_shadow_without_any_hash() -> None:
    found = made(person(1, "alice", hash="$y$j9T$secret"))
    assert found.files[PASSWD] == "alice:x:10001:10000:Alice Martin:/home/alice:/bin/bash\n"
    assert found.files[SHADOW] == "alice:*:::::::\n"
    assert "secret" not in "".join(found.files.values())
    assert found.uids == {"alice": 10001}


def test_who_may_more_is_in_the_groups_of_who_may_less() -> None:
    found = made(person(1, "carol"), person(2, "oscar", UserGroup.ORGA), person(3, "rita", UserGroup.ROOT))
    assert found.files[GROUP].splitlines() == [
        "sudo:x:27:rita",
        "user:x:10000:carol,oscar,rita",
        "orga:x:10001:oscar,rita",
    ]
    gids = {line.split(":")[0]: line.split(":")[3] for line in found.files[PASSWD].splitlines()}
    assert gids == {"carol": "10000", "oscar": "10001", "rita": "27"}


def test_keys_of_root_alone_open_root_without_options_and_comments() -> None:
    found = made(
        person(1, "rita", UserGroup.ROOT, keys=[f"{KEY} rita@laptop", f'command="x" {KEY}', "ssh-ed25519 AAAA", ""]),
        person(2, "carol", keys=[KEY]),
    )
    assert found.files[ROOT_KEYS] == f"{KEY} rita\n"
    assert found.keys == 1
    assert [each.login for each in found.left_out] == ["rita"] * 3
    assert "its ssh key 'ssh-ed25519 AAAA' is none" in [each.reason for each in found.left_out]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"login": "root"}, "system user"),
        ({"login": "drifter"}, "the login is a user or group of the system"),
        ({"login": "al:ice"}, "is not a login"),
        ({"login": ""}, "not empty"),
        ({"uid": 0}, "not one of group user"),
        ({"uid": 11_000}, "not one of group user"),
        ({"uid": 10_500}, "uid 10500 is of a user of the system"),
        ({"uid": "10001"}, "the record is broken"),
        ({"group": "emperor"}, "the record is broken"),
        ({"shell": "bash"}, "no shell"),
        ({"shell": "/bin/sh\nroot::0:0::/:/bin/sh"}, "no shell"),
        ({"firstname": "A:0:0"}, "colon"),
        ({"lastname": "B\nroot::0:0::/:"}, "control character"),
        ({"id": 7}, "says that it is number 7"),
    ],
)
def test_a_bad_record_is_left_out_and_named_and_costs_nobody_else_anything(wrong: dict[str, Any], reason: str) -> None:
    found = accounts([("1", {**person(1, "alice"), **wrong}), ("2", person(2, "bob"))], OWN)
    assert list(found.uids) == ["bob"]
    (left_out,) = found.left_out
    assert left_out.user == "1"
    assert reason in left_out.reason


@pytest.mark.parametrize(
    ("second", "reason"),
    [({"login": "alice", "uid": 10_009}, "user 2 has this login"), ({"uid": 10_002}, "alice has uid 10002")],
)
def test_of_two_who_want_the_same_the_older_one_has_it(second: dict[str, Any], reason: str) -> None:
    found = accounts([("10", {**person(10, "bob"), **second}), ("2", person(2, "alice"))], OWN)
    assert found.uids == {"alice": 10_002}
    assert [(each.user, each.reason) for each in found.left_out] == [("10", reason)]


values = st.one_of(st.text(max_size=40), st.integers(), st.none(), st.lists(st.text(max_size=20), max_size=3))
fields = st.sampled_from(["id", "login", "firstname", "lastname", "uid", "group", "shell", "keys"])


@given(st.dictionaries(fields, values, max_size=4), st.booleans())
def test_whatever_a_record_says_every_line_is_one_user_and_nobody_has_a_system_id(
    changes: dict[str, Any], root: bool
) -> None:
    odd = {**person(1, "alice", UserGroup.ROOT if root else UserGroup.USER), **changes}
    found = accounts([("1", odd), ("2", person(2, "bob"))], OWN)
    assert set(found.files) == set(FILES)
    lines = [line.split(":") for line in found.files[PASSWD].split("\n")[:-1]]
    assert all(len(line) == 7 and 10_000 <= int(line[2]) < 13_000 for line in lines)
    assert [line[0] for line in lines] == list(found.uids)
    assert [line.split(":")[0] for line in found.files[SHADOW].split("\n")[:-1]] == list(found.uids)
    assert all(line.count(":") == 3 for line in found.files[GROUP].split("\n")[:-1])
    assert all(line.split()[0].startswith(("ssh-", "ecdsa-", "sk-")) for line in found.files[ROOT_KEYS].splitlines())
    assert "bob" in found.uids or odd.get("login") == "bob" or odd.get("uid") == 10_002
