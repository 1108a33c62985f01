"""netboot over its sockets, beside a real mdb."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import httpx2
import pytest

from netboot.client import Netboot
from services.mdb.client import Mdb
from services.mdb.schema import MachineType, NewMachine
from tests.netboot.rig import ONE, Pair, pair, publish, until


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as running:
        yield running


def get(service_url: str, path: str) -> str:
    answer = httpx2.get(f"{service_url}{path}", timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text


def hall(both: Pair) -> None:
    """A root file server and a seat in mdb, and netboot has heard of both."""
    with Mdb(both.mdb.unix) as mdb:
        mdb.create(
            NewMachine(
                hostname="rhfs01",
                mac="525400010001",
                aliases=["rfs1"],
                type=MachineType.SERVICE,
                ip=IPv4Address("192.168.1.1"),
            )
        )
        mdb.create(NewMachine(hostname="pas-r01p01", mac="525400000001", type=MachineType.USER, rfs=1, room="pasteur"))
    until(lambda: "Backline: pas-r01p01" in get(both.netboot.http, "/boot/52:54:00:00:00:01"))


def test_a_machine_boots_one_version_from_its_own_server(both: Pair) -> None:
    hall(both)
    assert "no channel stable" in get(both.netboot.http, "/boot/525400000001")
    with Netboot(both.netboot.unix) as client:
        publish(client)
        script = get(both.netboot.http, "/boot/52-54-00-00-00-01/")
        (boot, *_) = client.boots("pas-r01p01").boots
    assert script.startswith("#!ipxe\n")
    assert f"kernel http://192.168.1.1/images/nfsroot/{ONE}/vmlinuz initrd=initrd.magic" in script
    assert f"backline.root=nfs:192.168.1.1:/images/nfsroot/{ONE} " in script
    assert f"backline.boot={boot.id} backline.netboot=http://192.168.1.254 systemd.hostname=pas-r01p01" in script
    assert "initrd http://192.168.1.254/hall.toml /etc/backline/hall.toml mode=644" in script
    assert (boot.version, boot.rfs, boot.rule, boot.address) == (ONE, 1, "channel stable", "192.168.0.1")


def test_a_machine_that_nobody_knows_is_sent_to_the_menu(both: Pair) -> None:
    hall(both)
    assert "set answer alien" in get(both.netboot.http, "/boot/52:54:00:ff:ff:ff")
    assert "menu Backline does not know this machine" in get(both.netboot.http, "/bootstrap")
