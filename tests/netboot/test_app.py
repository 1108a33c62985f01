"""netboot over its sockets, beside a real mdb: scripts, registration, credentials, reports, and who may do what."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx2
import pytest

from netboot.answers import TOKEN
from netboot.client import Netboot
from netboot.schema import NewOrder, NewPointer, Outcome, Report, Stage
from services.common.client import Call, Nothing
from services.common.feed.client import Follower
from services.common.problem import RemoteError
from services.common.tokens import Kind, Tokens
from services.mdb.client import Mdb
from services.mdb.schema import MachinePatch, MachineType, NewMachine, NewSwitch
from tests.common.service_rig import Service
from tests.netboot.ipxe import Machine
from tests.netboot.rig import KEY, ONE, TWO, Answer, Pair, ask, pair, publish, serving, until

NUMBERS = itertools.count(1)
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFB0G8KSd8wG1C4mKE5l+4WnGnxCXXNhypDtLBYLbq4e"


@dataclass
class Hall:
    """netboot and mdb, two root file servers, and a seat of the test's own."""

    pair: Pair
    number: int
    ip: str = ""

    @property
    def netboot(self) -> Service:
        return self.pair.netboot

    @property
    def mdb(self) -> Service:
        return self.pair.mdb

    @property
    def mac(self) -> str:
        return f"52:54:00:00:00:{self.number:02x}"

    @property
    def name(self) -> str:
        return f"pas-r01p{self.number:02}"

    @property
    def card(self) -> str:
        """A MAC address that no machine has yet."""
        return f"52:54:00:00:01:{self.number:02x}"

    @property
    def neighbour(self) -> str:
        """The address of somebody else in the same network."""
        return f"192.168.1.{100 + self.number}"

    @property
    def alien(self) -> str:
        """An address that no other test asks from."""
        return f"192.168.250.{self.number}"

    def ask(self, path: str, **more: Any) -> Answer:
        """What the seat is answered, through nginx."""
        return ask(self.netboot, path, **{"origin": self.ip, **more})

    def boot(self, **more: Any) -> str:
        """The seat's script."""
        return self.ask(f"/boot/{self.mac}", **more).text


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory.mktemp("hall")) as both:
        with Mdb(both.mdb.unix) as mdb, Netboot(both.netboot.unix) as client:
            servers(mdb)
            publish(client, ONE, rfs=(1, 2))
            publish(client, TWO, rfs=(1, 2), channel=None)
        yield both


@pytest.fixture
def hall(running: Pair) -> Hall:
    """A new seat that both know, in a hall whose channel stable points to the first of two versions."""
    with Mdb(running.mdb.unix) as mdb, Netboot(running.netboot.unix) as client:
        mdb.set("allow_self_registration", False)
        client.switch_channel("stable", NewPointer(version=ONE))
        return settle(Hall(running, next(NUMBERS)), mdb)


def servers(mdb: Mdb) -> None:
    for number in (1, 2):
        mdb.create(
            NewMachine(
                hostname=f"rhfs0{number}",
                mac=f"52540001000{number}",
                aliases=[f"rfs{number}"],
                type=MachineType.SERVICE,
                ip=IPv4Address(f"192.168.1.{number}"),
            )
        )


def settle(hall: Hall, mdb: Mdb) -> Hall:
    """The hall, whose seat is in mdb, and netboot has heard of it."""
    made = mdb.create(NewMachine(hostname=hall.name, mac=hall.mac, type=MachineType.USER, rfs=1, room="pasteur"))
    hall.ip = str(made.ip)
    until(lambda: f"Backline: {hall.name}" in get(hall, f"/boot/{hall.mac}"))
    return hall


def get(hall: Hall, path: str) -> str:
    """What this host itself is answered over TCP."""
    answer = httpx2.get(f"{hall.netboot.http}{path}", timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text


def booted(hall: Hall, **more: Any) -> str:
    """A boot through nginx: its id."""
    script = hall.boot(**more)
    found = re.search(r"backline\.boot=([0-9a-f]{32})", script)
    assert found, script
    return found[1]


# Scripts


def test_a_machine_boots_one_version_from_its_own_server(hall: Hall) -> None:
    with Netboot(hall.netboot.unix) as client:
        script = hall.ask(f"/boot/{hall.mac.replace(':', '-')}/").text
        (boot, *_) = client.boots(hall.name).boots
    assert script.startswith("#!ipxe\n")
    assert f"kernel http://192.168.1.1/images/nfsroot/{ONE}/vmlinuz initrd=initrd.magic" in script
    assert f"backline.root=nfs:192.168.1.1:/images/nfsroot/{ONE},nfs:192.168.1.2:/images/nfsroot/{ONE} " in script
    assert f"backline.boot={boot.id} backline.netboot=http://192.168.1.254 systemd.hostname={hall.name}" in script
    assert "initrd http://192.168.1.254/hall.toml /etc/backline/hall.toml mode=644" in script
    assert (boot.version, boot.rfs, boot.rule, boot.address) == (ONE, 1, "channel stable", hall.ip)


def test_what_an_administrator_changes_in_mdb_counts_within_a_second(hall: Hall) -> None:
    with Mdb(hall.mdb.unix) as mdb:
        machine = mdb.machine(hall.name)
        reason = "fan || chain http://192.168.0.66/ ; ${net0/ip}"
        mdb.change(machine.id, MachinePatch(faulty=True, faulty_reason=reason))
        until(lambda: "marked as faulty" in get(hall, f"/boot/{hall.mac}"), seconds=1)
        assert "echo fan // chain http://192.168.0.66/ , S(net0/ip)" in get(hall, f"/boot/{hall.mac}")
        mdb.change(machine.id, MachinePatch(faulty=False, mac=hall.card))
        until(lambda: "kernel http" in get(hall, f"/boot/{hall.card}"), seconds=1)
        assert "mdb does not know this machine" in get(hall, f"/boot/{hall.mac}")


def test_an_address_that_is_no_mac_is_refused(hall: Hall) -> None:
    for text in ("x", "zz:zz:zz:zz:zz:zz", "01:00:5e:00:00:01", "%24%7Bmac%7D"):
        assert hall.ask(f"/boot/{text}").code == "request.path"


def test_each_network_is_told_the_address_of_gw_that_it_reaches(hall: Hall) -> None:
    # A machine that is known and has an alien's address still: it cannot reach its root server from there.
    waiting = hall.boot(origin="192.168.250.7")
    assert "does not have its own address yet" in waiting
    assert "backline.netboot=http://192.168.1.254" in hall.boot()
    assert hall.ask("/hall.toml", origin="192.168.250.7").text.startswith("[hall]")


def test_the_pointer_may_move_between_any_two_requests_of_a_boot(hall: Hall) -> None:
    """kernel, initrd, root and command line are of the version of the script, whatever the channel says by then."""
    with Netboot(hall.netboot.unix) as client:
        asked: list[str] = []

        def fetch(url: str) -> str:
            asked.append(url)
            pointed = TWO if len(asked) % 2 else ONE
            client.switch_channel("stable", NewPointer(version=pointed))
            path = url.removeprefix("http://netboot")
            if "/images/" in path or path.endswith("/hall.toml"):
                return ""
            return hall.ask(path).text

        machine = Machine(fetch, {"netX/mac": hall.mac})
        assert machine.start("http://netboot/bootstrap") == "boot"
        versions = set(re.findall(r"2026\d{4}\.[0-9a-f]{12}", " ".join([*asked, *map(str, machine.loaded)])))
        (boot, *_) = client.boots(hall.name).boots
    assert versions == {boot.version}
    assert len(asked) == 5


def test_a_machine_that_asks_too_often_waits_and_others_do_not(hall: Hall) -> None:
    with Netboot(hall.netboot.unix) as client:
        answers = [hall.boot(origin=hall.neighbour) for _ in range(40)]
        assert sum("too many questions" in text for text in answers) >= 10
        assert "kernel http" in hall.boot()
        assert len(client.boots(hall.name, limit=1000).boots) < 40
    assert 'backline_netboot_limited_total{what="boot"}' in get(hall, "/metrics")


# mdb is down, netboot restarts


def test_machines_boot_while_mdb_is_down_and_netboot_says_how_old_its_word_is(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        with Mdb(both.mdb.unix) as mdb, Netboot(both.netboot.unix) as client:
            servers(mdb)
            hall = settle(Hall(both, 1), mdb)
            publish(client)
        memory = tmp_path / "netboot" / "mdb.json"
        until(lambda: memory.exists() and hall.name in memory.read_text())
        assert both.netboot.stop() == 0
    with serving(tmp_path, f"sqlite:///{tmp_path}/netboot.db", both.mdb.unix) as netboot:
        assert "kernel http" in ask(netboot, f"/boot/{hall.mac}", origin=hall.ip).text
        healthz = httpx2.get(f"{netboot.http}/healthz")
        assert (healthz.status_code, "mdb" in healthz.text) == (503, True)
        with Netboot(netboot.unix) as client:
            (first, *_) = client.why(hall.name).steps
        assert first.finding.value == "unknown"
        assert "this is what it said last" in first.more[0]


def test_before_mdb_was_ever_heard_nobody_is_called_unknown(tmp_path: Path) -> None:
    with serving(tmp_path, f"sqlite:///{tmp_path}/netboot.db", f"unix:{tmp_path}/nobody.sock") as netboot:
        assert "does not know the machines yet" in ask(netboot, "/boot/52:54:00:00:00:01").text
        with Netboot(netboot.unix) as client:
            assert client.aliens().aliens == []
            assert client.why("52:54:00:00:00:01").outcome is Outcome.NOT_READY


# Registration


def alien(hall: Hall, **more: object) -> Machine:
    """A machine that nobody knows, on the aliens' network."""

    def fetch(url: str) -> str:
        return hall.ask(url.removeprefix("http://netboot"), origin=hall.alien).text

    settings = {"netX/mac": hall.card, "netX/ip": hall.alien, "platform": "efi"}
    return Machine(fetch, settings, **more)  # type: ignore[arg-type]


def test_a_machine_registers_itself_by_hand_and_boots(hall: Hall) -> None:
    by_hand = {"choices": ["hand", "in_1", "user", "confirm"], "typed": ["1", "0", f"{hall.name}b"]}
    with Netboot(hall.netboot.unix) as client, Mdb(hall.mdb.unix) as mdb:
        machine = alien(hall, **by_hand)
        assert machine.start("http://netboot/bootstrap") == "nobody chooses"
        assert "self registration is disabled, ask an administrator" in machine.screen
        (stranger, *_) = client.aliens().aliens
        assert (stranger.mac, stranger.asked_from) == (hall.card, hall.alien)
        mdb.set("allow_self_registration", True)
        by_hand = {"choices": ["hand", "in_1", "user", "confirm"], "typed": ["1", "0", f"{hall.name}b"]}
        machine = alien(hall, **by_hand)
        assert machine.start("http://netboot/bootstrap") == "reboot"
        made = mdb.machine(f"{hall.name}b")
        assert (made.mac, made.rfs, made.room) == (hall.card, 1, "pasteur")
        assert f"Backline: registered as {hall.name}b, {made.ip}. Restarting in 5 s." in machine.screen
        (entry, *_) = mdb.audit(made.id).entries
        assert entry.origin == hall.alien
        until(lambda: "kernel http" in hall.ask(f"/boot/{hall.card}", origin=str(made.ip)).text)


def test_a_switch_of_mdb_tells_where_a_machine_is(hall: Hall) -> None:
    with Mdb(hall.mdb.unix) as mdb:
        mdb.set("allow_self_registration", True)
        mdb.create_switch(NewSwitch(name="sw-alt", chassis="aa:bb:cc:00:00:02", room="alt", rfs=2, hfs=2))
        until(lambda: "aa:bb:cc:00:00:02" in get(hall, "/bootstrap"))
        machine = alien(
            hall,
            choices=["lldp", "confirm"],
            typed=[f"{hall.name}c"],
            heard=["", "de:ad:be:ef:00:00", "aa:bb:cc:00:00:02"],
        )
        assert machine.start("http://netboot/bootstrap") == "reboot"
        made = mdb.machine(f"{hall.name}c")
    assert (made.rfs, made.hfs, made.room) == (2, 2, "alt")


def test_a_code_moves_a_machines_record_to_another_card(hall: Hall) -> None:
    with Mdb(hall.mdb.unix) as mdb:
        before = mdb.machine(hall.name)
        code = mdb.code(before.id).code
        machine = alien(hall, choices=["swap", "confirm"], typed=[code, ""])
        assert machine.start("http://netboot/bootstrap") == "reboot"
        after = mdb.machine(hall.name)
        assert (after.id, after.mac, after.ip, after.rfs) == (before.id, hall.card, before.ip, before.rfs)
        again = alien(hall, choices=["swap", "confirm"], typed=[code, ""])
        again.settings["netX/mac"] = "52:54:00:00:02:08"
        assert again.start("http://netboot/bootstrap") == "nobody chooses"
        assert "this code is not good, or not any more, ask for a new one" in again.screen


def test_a_flood_of_registrations_is_stopped(hall: Hall) -> None:
    with Mdb(hall.mdb.unix) as mdb:
        mdb.set("allow_self_registration", True)
        for number in range(20):
            path = f"/register?hostname=flood{number}&mac=52540000ff{number:02x}&type=user"
            answer = hall.ask(path, origin="192.168.250.66")
            assert answer.status == 200
        assert "too many registrations" in answer.text
        assert mdb.machines("hostname:flood*").total <= 7
        path = "/register?hostname=honest&mac=525400000009&type=user"
        assert "registered as honest" in hall.ask(path, origin="192.168.250.67").text


@pytest.mark.parametrize("query", ["", "hostname=x", "hostname=x&mac=y&rfs=many", "hostname=a&hostname=b&mac=c", "x=1"])
def test_a_registration_that_makes_no_sense_is_told_so_on_the_screen(hall: Hall, query: str) -> None:
    answer = hall.ask(f"/register?{query}")
    assert answer.status == 200
    assert "this machine was not registered" in answer.text


# Credentials and reports


def test_a_boots_credentials_are_given_once_to_its_machine(hall: Hall) -> None:
    id = booted(hall)
    path = f"/v1/boots/{id}/credentials"
    assert hall.ask(path, method="POST", origin=hall.neighbour).code == "boot.address"
    answer = hall.ask(path, method="POST")
    token = json.loads(answer.text)["credentials"][TOKEN]
    _, claims = Tokens(KEY).read(token, Kind.MACHINE)
    assert (claims.name, claims.boot, claims.scopes) == (hall.name, id, ("feed", "heartbeat", "login"))
    second = hall.ask(path, method="POST")
    assert (second.status, second.code) == (409, "boot.claimed")
    metrics = get(hall, "/metrics")
    for why in ("boot.claimed", "boot.address"):
        assert re.search(rf'refused_claims_total{{why="{why}"}} [1-9]', metrics)
    assert f"claimed the credentials of boot {id}" in hall.netboot.errors.read_text()
    with Netboot(hall.netboot.unix) as client:
        assert client.boot(id).refused_claims == 2
    assert token not in hall.boot()


def test_somebody_elses_script_brings_nobody_credentials(hall: Hall) -> None:
    id = booted(hall, origin=hall.neighbour)
    answer = hall.ask(f"/v1/boots/{id}/credentials", method="POST", origin=hall.neighbour)
    assert (answer.status, answer.code) == (403, "boot.address")


def test_a_machine_reports_with_its_own_token_and_no_other(hall: Hall) -> None:
    with Netboot(hall.netboot.unix) as client:
        id = booted(hall)
        other = booted(hall)
        tokens = Tokens(KEY)
        token = tokens.for_machine(hall.name, machine=3, boot=id, seconds=60)
        path, body = f"/v1/boots/{id}/report", {"stage": "system", "detail": "running", "ssh_host_key": HOST_KEY}
        assert hall.ask(path, method="PUT", body=body).status == 401
        foreign = Tokens(b"x" * 32).for_machine(hall.name, machine=3, boot=id, seconds=60)
        assert hall.ask(path, method="PUT", body=body, token=foreign).code == "auth.foreign"
        late = tokens.for_machine(hall.name, machine=3, boot=id, seconds=-1)
        assert hall.ask(path, method="PUT", body=body, token=late).code == "auth.expired"
        others = f"/v1/boots/{other}/report"
        assert hall.ask(others, method="PUT", body=body, token=token).code == "auth.denied"
        with pytest.raises(RemoteError):  # not even root
            client.send(client_report(id))
        assert hall.ask(path, method="PUT", body=body, token=token).status == 204
        assert client.boot(id).stage is Stage.SYSTEM


def test_a_machine_that_is_up_has_a_lease_and_is_asked_to_restart(hall: Hall) -> None:
    with Netboot(hall.netboot.unix) as client:
        id = booted(hall)
        machine = client.boot(id).machine
        token = Tokens(KEY).for_machine(hall.name, machine=machine, boot=id, seconds=60)
        path = f"/v1/boots/{id}/heartbeat"
        body = {"version": ONE, "health": {"state": "running", "new": 1}, "user": None, "of a newer image": True}
        answer = hall.ask(path, method="PUT", body=body, token=token)
        assert (answer.status, json.loads(answer.text)["reboot"]) == (200, False)
        assert hall.ask(path, method="PUT", body=body).code == "auth.anonymous"
        elsewhere = hall.ask(path, method="PUT", body=body, token=token, origin=hall.neighbour)
        assert (elsewhere.code, hall.neighbour in elsewhere.text) == ("auth.denied", True)
        other = Tokens(KEY).for_machine(hall.name, machine=machine, boot=booted(hall), seconds=60)
        assert hall.ask(path, method="PUT", body=body, token=other).code == "auth.denied"
        login = Tokens(KEY).for_machine(hall.name, machine=machine, boot=id, seconds=60, scopes=frozenset({"login"}))
        assert hall.ask(path, method="PUT", body=body, token=login).code == "auth.scope"
        (lease,) = [each for each in client.leases().leases if each.hostname == hall.name and each.heard is None]
        assert lease.version == ONE
        (seat,) = [each for each in client.seats("stable", version=TWO).seats if each.hostname == hall.name]
        assert (seat.up, seat.version, seat.held) == (True, ONE, True)
        client.switch_channel("stable", NewPointer(version=TWO, commit_within=60, only=[machine]))
        client.order(NewOrder(version=TWO, machines=[machine]))
        answer = hall.ask(path, method="PUT", body=body, token=token)
        assert json.loads(answer.text)["reboot"] is True
        client.rollback_channel("stable")
        client.mark_off(hall.name)
        assert hall.name not in [each.hostname for each in client.leases().leases]


def client_report(id: str) -> Call[Nothing]:
    return Call("PUT", f"/v1/boots/{id}/report", Nothing, body=Report(stage=Stage.SYSTEM))


def test_a_failing_initrd_is_heard(hall: Hall) -> None:
    with Netboot(hall.netboot.unix) as client:
        id = booted(hall)
        answer = hall.ask(f"/bootlog?boot={id}", method="POST", text=b"no root.erofs\nline one\n\x1b[2J\n")
        assert answer.status == 204
        (log,) = client.bootlogs(hall.name).logs
        assert (log.reason, client.boot(id).stage_detail) == ("no root.erofs", "no root.erofs")
        large = hall.ask(f"/bootlog?boot={id}", method="POST", text=b"x" * (256 * 1024 + 1))
        assert large.status == 413
        assert hall.ask(f"/bootlog?boot={'0' * 32}", method="POST", text=b"x").status == 404
        assert hall.ask("/bootlog?boot=x", method="POST", text=b"x").status == 400
        flood = [hall.ask(f"/bootlog?boot={id}", method="POST", text=b"x").code for _ in range(8)]
    assert "rate.address" in flood


# Who may do what


def test_the_lan_reads_what_is_published_and_changes_nothing(hall: Hall) -> None:
    for path in ("versions", "holdings", "channels", "pins", "channels/stable/history", "hostkeys"):
        assert hall.ask(f"/v1/{path}").status == 200
    for path in ("feed", "boots", "boots/x", "bootlogs", "aliens", "why/pas-r01p01", "leases", "seats"):
        assert hall.ask(f"/v1/{path}").code == "auth.anonymous"
    body = {"version": ONE}
    for method, path in (
        ("POST", "versions"),
        ("DELETE", f"versions/{ONE}"),
        ("PUT", f"holdings/2/{ONE}"),
        ("DELETE", f"holdings/1/{ONE}"),
        ("POST", "channels/stable/switch"),
        ("POST", "channels/stable/commit"),
        ("POST", "channels/stable/rollback"),
        ("POST", "channels/stable/extend"),
        ("PUT", f"quarantine/{ONE}"),
        ("DELETE", f"quarantine/{ONE}"),
        ("POST", "orders"),
        ("DELETE", "leases/1"),
        ("PUT", "pins/room/alt"),
        ("DELETE", "pins/room/alt"),
    ):
        assert hall.ask(f"/v1/{path}", method=method, body=body).code == "auth.anonymous"


def test_boots_are_followed_by_those_who_may_see_them_and_by_no_seat(hall: Hall) -> None:
    token = Tokens(KEY).for_machine(hall.name, machine=3, boot="0" * 32, seconds=60)
    assert hall.ask("/v1/feed", token=token).code == "auth.denied"

    async def run() -> dict[str, Any]:
        async with asyncio.timeout(10):
            async for batch in Follower(hall.netboot.unix, topics=["boots"]).batches():
                if batch.first:
                    await asyncio.to_thread(hall.boot)
                for change in batch.changes:
                    if not batch.first and change.after and change.after["hostname"] == hall.name:
                        return change.after
        raise AssertionError

    told = asyncio.run(run())
    assert (told["version"], told["rfs"], told["mac"]) == (ONE, 1, hall.mac)
    assert "id" not in told


# Why


def test_why_names_the_rule_that_won_and_those_that_lost(hall: Hall) -> None:
    with Netboot(hall.netboot.unix) as client, Mdb(hall.mdb.unix) as mdb:
        machine = mdb.machine(hall.name)
        mdb.change(machine.id, MachinePatch(pinned=TWO))
        until(lambda: f"backline.version={TWO}" in get(hall, f"/boot/{hall.mac}"))
        answer = client.why(hall.name)
    assert (answer.outcome, answer.version, answer.rule) == (Outcome.BOOT, TWO, "pin of the machine")
    steps = {step.step: step for step in answer.steps}
    assert list(steps) == ["mdb", "DHCP", "iPXE", "version", "root server", "last boot"]
    won, *lost = steps["version"].rules
    assert (won.rule, won.version, won.won) == ("pin of the machine", TWO, True)
    assert lost[-1].because.endswith("but pin of the machine comes first")
    assert steps["DHCP"].finding.value == "unknown"  # nobody serves it here
    assert steps["root server"].text.startswith("rfs1 (rhfs01, 192.168.1.1), then rfs2")


def test_why_explains_whom_nobody_knows(hall: Hall) -> None:
    hall.ask(f"/boot/{hall.card}", origin=hall.alien)
    with Netboot(hall.netboot.unix) as client:
        answer = client.why(hall.card)
        assert answer.outcome is Outcome.UNKNOWN
        assert f"from {hall.alien}" in answer.steps[-1].text
        with pytest.raises(RemoteError) as caught:
            client.why("nobody")
    assert caught.value.code == "machine.unknown"
