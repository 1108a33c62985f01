"""Names of the hall: what mdb knows is found by every machine through gw's BIND, whatever ends in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from e2e.lab import Lab
from services.dns.client import Dns
from services.mdb.client import Mdb
from services.mdb.schema import MachinePatch, MachineType, NewMachine

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
GW, ALIEN_GW = "192.168.1.254", "192.168.250.254"
NEW = NewMachine(hostname="thing", mac="52:54:00:0d:05:01", aliases=["gadget"], type=MachineType.ORGA)


@pytest.fixture
def mdb(lab: Lab) -> Iterator[Mdb]:
    """gw's machine database; what a test adds to it goes with it."""
    with Mdb(lab["gw"].service("mdb")) as client:
        before = {machine.id for machine in client.machines().machines}
        yield client
        for machine in client.machines().machines:
            if machine.id not in before:
                client.delete(machine.id)


def dig(lab: Lab, *words: str) -> list[str]:
    """What named on gw answers."""
    return lab["gw"].succeeds("dig", "+short", "+tries=3", "+time=1", *words).splitlines()


def until(what: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_machine_finds_a_new_one_by_name_alias_and_address(lab: Lab, mdb: Mdb) -> None:
    made = mdb.create(NEW)
    until(lambda: dig(lab, f"@{GW}", "gadget.prolo") == [str(made.ip)])
    for node in lab.nodes.values():
        assert node.succeeds("getent", "hosts", "gadget").split()[0] == str(made.ip)
        assert "thing.prolo" in node.succeeds("resolvectl", "query", str(made.ip))
    mdb.change(made.id, MachinePatch(hostname="other"))
    until(lambda: dig(lab, f"@{GW}", "-x", str(made.ip)) == ["other.prolo."])


def test_gw_started_with_the_hosts_of_hall_toml_and_nothing_is_left_out(lab: Lab) -> None:
    assert dig(lab, f"@{GW}", "rfs1.prolo") == ["192.168.1.11"]
    with Dns(lab["gw"].service("dns")) as client:
        until(lambda: client.status().state == "applied")
        assert client.status().left_out == []
    journal = lab["gw"].succeeds("systemctl", "show", "--property=NRestarts", "named", "backline-dns", "backline-mdb")
    assert "NRestarts=0" in journal


def test_from_an_address_of_unknown_machines_there_are_netboot_and_ns_alone(lab: Lab) -> None:
    unknown = ("-b", ALIEN_GW, f"@{ALIEN_GW}")
    assert dig(lab, *unknown, "netboot.prolo") == dig(lab, *unknown, "ns.prolo") == [ALIEN_GW]
    assert dig(lab, *unknown, "mdb.prolo") == dig(lab, *unknown, "example.org") == []
    assert dig(lab, *unknown, "-x", "192.168.250.7") == ["unknown-7.alien.prolo."]


def test_names_outlive_the_end_of_every_part_in_the_middle_of_edits(lab: Lab, mdb: Mdb) -> None:
    gw = lab["gw"]
    made = mdb.create(NEW)
    until(lambda: dig(lab, f"@{GW}", "thing.prolo") == [str(made.ip)])
    for number, unit in enumerate(("named", "backline-dns", "backline-mdb")):
        mdb.change(made.id, MachinePatch(aliases=[f"gadget{number}"]))
        gw.succeeds("systemctl", "kill", "--signal=KILL", unit)
        until(lambda: gw.run(["systemctl", "is-active", unit], check=False).returncode == 0)  # noqa: B023
        until(lambda: dig(lab, f"@{GW}", f"gadget{number}.prolo") == [str(made.ip)], seconds=40)  # noqa: B023
        assert dig(lab, f"@{GW}", "thing.prolo") == [str(made.ip)]
