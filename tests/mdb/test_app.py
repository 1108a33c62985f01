"""mdb over its sockets: who may do what, entity tags, and a feed that follows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import msgspec
import pytest

from services.common.errors import BacklineError
from services.common.feed.client import Follower
from services.common.problem import RemoteError
from services.common.process import run
from services.common.tokens import Tokens, new_key
from services.mdb.client import Mdb
from services.mdb.schema import (
    Change,
    Edits,
    Format,
    MachinePatch,
    MachineType,
    NewMachine,
    NewSwitch,
    Registration,
    Removal,
    SwitchPatch,
)
from tests.common.feed_rig import Subscriber
from tests.common.service_rig import Service
from tests.mdb.rig import command, serving


@pytest.fixture
def mdb(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path, f"sqlite:///{tmp_path}/mdb.db") as service:
        yield service


def new(number: int) -> NewMachine:
    return NewMachine(
        hostname=f"p{number:04}", mac=f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", type=MachineType.USER
    )


def test_what_is_written_is_found(mdb: Service) -> None:
    with Mdb(mdb.unix) as client:
        made = client.create(new(1))
        assert client.machine("p0001") == client.machine(made.id) == made
        assert client.machines("hostname:p*").machines == [made]
        assert client.machines("hostname:q*").total == 0
        (user, _) = client.pools().pools
        assert (user.used, user.free) == (1, user.size - 1)
        (entry,) = client.audit(made.id).entries
        assert (entry.actor, entry.origin) == ("root", "local")


def test_everybody_on_the_lan_reads_and_nobody_there_writes(mdb: Service) -> None:
    with Mdb(mdb.unix) as local, Mdb(mdb.http) as remote:
        made = local.create(new(1))
        assert remote.machines().machines == [made]
        for call in (
            lambda: remote.create(new(2)),
            lambda: remote.change(made.id, MachinePatch(room="alt")),
            lambda: remote.delete(made.id),
            lambda: remote.edit(Edits(create=[new(2)])),
        ):
            with pytest.raises(RemoteError) as caught:
                call()
            assert (caught.value.code, caught.value.problem.status) == ("auth.anonymous", 401)
        assert local.machines().machines == [made]


def test_notes_history_exports_and_the_feed_are_not_for_everybody(mdb: Service) -> None:
    with Mdb(mdb.unix) as local, Mdb(mdb.http) as remote:
        made = local.create(msgspec.structs.replace(new(1), notes="the key is under the mat"))
        assert local.machine("p0001").notes == "the key is under the mat"
        assert local.machines("mat").total == 1
        assert remote.machine("p0001") == msgspec.structs.replace(made, notes="")
        assert (remote.machines().machines[0].notes, remote.machines("mat").total) == ("", 0)
        for path in ("/v1/audit", "/v1/export", "/v1/feed"):
            assert httpx2.get(mdb.http + path, trust_env=False).status_code == 401
    code, out, _ = command("show", "p0001", "--address", mdb.http)
    assert (code, "p0001" in out, "mat" in out, "created:" in out) == (0, True, False, False)


def test_a_seat_does_not_follow_mdb_whose_records_hold_notes(tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "access.key").write_bytes(key)
    token = Tokens(key).for_machine("p0001", machine=1, boot="0" * 32, seconds=60)
    with serving(tmp_path, f"sqlite:///{tmp_path}/mdb.db", env={"CREDENTIALS_DIRECTORY": str(tmp_path)}) as mdb:
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx2.get(f"{mdb.http}/v1/feed", headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (403, "auth.denied")


def test_another_user_of_the_host_does_not_write(mdb: Service) -> None:
    for folder in mdb.socket.parents:
        if str(folder).startswith("/tmp/") and folder.owner() == "root":
            folder.chmod(folder.stat().st_mode | 0o011)
    curl = ["curl", "--silent", "--unix-socket", str(mdb.socket), "--json", '{"hostname":"x","mac":"525400000001"}']
    answer = run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *curl, "http://mdb/v1/machines"])
    assert json.loads(answer.stdout)["code"] == "auth.denied"


def test_a_change_with_an_old_tag_is_refused(mdb: Service) -> None:
    with Mdb(mdb.unix) as client:
        made = client.create(new(1))
        changed = client.change(made.id, MachinePatch(room="alt"), match=made.revision)
        with pytest.raises(RemoteError) as caught:
            client.change(made.id, MachinePatch(room="b"), match=made.revision)
        assert (caught.value.code, caught.value.problem.status) == ("conflict.changed", 409)
        client.delete(made.id, match=changed.revision)
        assert client.machines().total == 0


def test_many_edits_are_one_and_a_dry_run_keeps_nothing(mdb: Service) -> None:
    with Mdb(mdb.unix) as client:
        assert len(client.edit(Edits(create=[new(number) for number in range(1, 51)], dry=True)).machines) == 50
        assert client.machines().total == 0
        one, two, *_ = client.edit(Edits(create=[new(number) for number in range(1, 51)])).machines
        client.edit(
            Edits(
                update=[Change(id=one.id, patch=MachinePatch(hostname="first"))],
                delete=[Removal(id=two.id, match=two.revision)],
            )
        )
        assert client.machines().total == 49
        assert client.machine("first").id == one.id


def test_a_restart_in_the_middle_of_edits_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """A subscriber's state is the database's afterwards, whatever was killed when."""
    url = f"sqlite:///{tmp_path}/mdb.db"

    async def follow() -> None:
        answered: list[list[str]] = [[], [], []]
        follower = Follower(f"unix:{tmp_path}/service.sock", topics=["machines"])
        subscriber = Subscriber(follower)
        try:
            for turn, names in enumerate(answered):
                with serving(tmp_path, url) as service:
                    edits = asyncio.create_task(asyncio.to_thread(edit, service, turn, names))
                    async with asyncio.timeout(30):
                        while len(names) < 15:
                            await asyncio.sleep(0.01)
                    service.process.kill()
                    await edits
            with serving(tmp_path, url) as service, Mdb(service.unix) as client:
                machines = {("machines", str(each.id)): each.hostname for each in client.machines().machines}
                assert {name for names in answered for name in names} <= set(machines.values())
                await subscriber.reaches(max(each.revision for each in client.machines().machines))
                assert {key: record["hostname"] for key, record in follower.state.records.items()} == machines
        finally:
            await subscriber.stop()

    def edit(service: Service, turn: int, names: list[str]) -> None:
        with Mdb(service.unix) as client, contextlib.suppress(BacklineError):  # the service is killed meanwhile
            for number in range(turn * 1000, turn * 1000 + 1000):
                names.append(client.create(new(number)).hostname)

    asyncio.run(follow())


def test_a_table_is_previewed_imported_and_exported(mdb: Service) -> None:
    table = b"hostname,mac,type\np1,525400000001,user\np2,525400000002,user\n"
    with Mdb(mdb.unix) as client:
        assert (client.take(table, Format.CSV, dry=True).created, client.machines().total) == (2, 0)
        assert client.take(table, Format.CSV).created == 2
        for format in Format:
            told = client.take(client.export(format, "hostname:p1"), format)
            assert (told.unchanged, told.created, told.updated) == (1, 0, 0)
        with pytest.raises(RemoteError) as caught:
            client.take(b"hostname,mak\n", Format.CSV)
        assert (caught.value.problem.status, caught.value.code) == (422, "import.column")
        assert "line 1, column 2" in caught.value.problem.detail
    with Mdb(mdb.http) as remote, pytest.raises(RemoteError, match="not for everybody"):
        remote.take(table, Format.CSV)


def test_other_programs_read_the_hall(mdb: Service) -> None:
    with Mdb(mdb.unix) as client:
        client.create(new(1))
    inventory = json.loads(run(["curl", "--silent", f"{mdb.http}/v1/ansible"]).stdout)
    assert (inventory["user"], list(inventory["_meta"]["hostvars"])) == ({"hosts": ["p0001"]}, ["p0001"])
    (target,) = json.loads(run(["curl", "--silent", f"{mdb.http}/v1/prometheus?port=9100"]).stdout)
    assert target["targets"] == ["192.168.0.1:9100"]


def test_switches_settings_and_codes_are_changed_over_http(mdb: Service) -> None:
    with Mdb(mdb.unix) as client, Mdb(mdb.http) as remote:
        made = client.create_switch(NewSwitch(name="pas-r01", chassis="001b21000001"))
        changed = client.change_switch(made.id, SwitchPatch(rfs=3), match=made.revision)
        assert remote.switches() == [changed]
        client.delete_switch(made.id)
        assert client.set("allow_self_registration", True).value is True
        registered = client.register(Registration(mac="525400000001", hostname="p1"))
        code = client.code(registered.id)
        assert client.register(Registration(mac="525400000002", code=code.code)).id == registered.id
        for call in (
            lambda: remote.set("allow_self_registration", False),
            lambda: remote.register(Registration(mac="525400000003", hostname="p3")),
            lambda: remote.code(registered.id),
            lambda: remote.create_switch(NewSwitch(name="x", chassis="001b21000001")),
        ):
            with pytest.raises(RemoteError) as caught:
                call()
            assert caught.value.problem.status == 401
        assert [entry.topic for entry in client.audit(registered.id).entries] == [
            "machines",
            "codes",
            "codes",
            "machines",
        ]


def test_a_flood_of_registrations_is_answered_and_reading_goes_on(mdb: Service) -> None:
    """A hall that is switched on for the first time: each of 150 machines asks, all at once."""
    with Mdb(mdb.unix) as client:
        client.set("allow_self_registration", True)

    def ask(number: int) -> str:
        with Mdb(mdb.unix, seconds=120) as one:
            return str(one.register(Registration(mac=f"5254000a00{number:02x}", hostname=f"seat{number}")).ip)

    with ThreadPoolExecutor(50) as pool, Mdb(mdb.unix) as client:
        asked = [pool.submit(ask, number) for number in range(150)]
        slowest = 0.0
        while not all(future.done() for future in asked):
            began = time.monotonic()
            client.pools()
            slowest = max(slowest, time.monotonic() - began)
        given = {future.result() for future in asked}
        assert len(given) == client.machines("hostname:seat*").total == 150
    assert slowest < 10
