"""The user database on gw: its key, its feeds through the edge, and who sees a password where."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from e2e.lab import Lab
from services.common.problem import RemoteError
from services.common.users import UID_POOLS, UserGroup
from services.udb.client import Udb
from services.udb.schema import Edits, NewUser, Removal

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
KEY = "/var/lib/backline/udb.key"


@pytest.fixture
def udb(lab: Lab) -> Udb:
    """udb as root on gw uses it, with nobody in it."""
    lab["gw"].wait_for_unit("backline-udb.service")
    client = Udb(lab["gw"].service("udb"))
    client.edit(Edits(delete=[Removal(id=user.id) for user in client.users().users]))
    return client


def test_it_runs_with_a_key_of_its_own_and_is_well(lab: Lab, udb: Udb) -> None:
    gw = lab["gw"]
    with udb:
        made = udb.create(NewUser(login="zoe", password="clé de voûte", group=UserGroup.ROOT))
        assert udb.password(made.id).password == "clé de voûte"
    assert gw.succeeds("stat", "-c", "%a %U %s", KEY).strip() == "600 root 32"
    health = lab["web"].http("GET", "http://192.168.1.254/healthz", headers={"host": "udb"})
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    pid = gw.succeeds("systemctl", "show", "--property=MainPID", "--value", "backline-udb.service")
    assert gw.succeeds("ps", "-o", "user:20=", "-p", pid).strip() == "backline-udb"
    places = ["/var/lib/backline-udb", "/var/log", "/run/log"]
    found = gw.run(["grep", "-r", "-l", "clé de voûte", *places], check=False)
    assert found.stdout.strip() == "", "a password lies somewhere in the clear"


def test_a_key_stays_over_a_restart_and_a_password_with_it(lab: Lab, udb: Udb) -> None:
    with udb:
        made = udb.create(NewUser(login="zoe", generate=True))
        before = udb.password(made.id).password
        lab["gw"].succeeds("systemctl", "restart", "backline-udb-key.service", "backline-udb.service")
        lab["gw"].wait_for_unit("backline-udb.service")
        assert udb.password(made.id).password == before


def test_the_edge_hands_on_feeds_to_those_who_may(lab: Lab, udb: Udb, tmp_path: Path) -> None:
    with udb:
        udb.create(NewUser(login="zoe", generate=True))
    pem = tmp_path / "feed.pem"
    pem.write_bytes(lab["rhfs01"].get("/run/credentials/@system/backline.client.feed"))
    context = ssl.create_default_context(cadata=lab.hall.data.trust.ca)
    context.load_cert_chain(pem)
    headers = {"host": "udb.prolo"}
    refused = lab["rhfs01"].http("GET", "https://192.168.1.254/v1/feed/private", verify=context, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.scope")
    users = lab["rhfs01"].http("GET", "https://192.168.1.254/v1/users", verify=context, headers=headers)
    assert users.status_code == 403
    anonymous = lab["web"].http("GET", "http://192.168.1.254/v1/users", headers={"host": "udb"})
    assert anonymous.status_code == 401


def test_a_system_user_of_gw_is_no_login(lab: Lab, udb: Udb) -> None:
    lines = [line.split(":") for line in lab["gw"].succeeds("getent", "passwd").splitlines()]
    names = [line[0] for line in lines if not any(int(line[2]) in pool for pool in UID_POOLS.values())]
    assert "backline-udb" in names
    with udb:
        for name in names:
            with pytest.raises(RemoteError) as caught:
                udb.create(NewUser(login=name))
            assert caught.value.code == "user.login"
