"""What other services know of a machine, on its page: real netboot and DHCP services beside a real mdb."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from netboot.client import Netboot
from services.common.errors import MissingError
from services.dhcp.schema import Lease, Offer, Standing
from services.mdb.client import Mdb
from services.mdb.pages.facts import Fact, Known, Mark, Source, ask
from services.mdb.pages.sources import offer_facts
from services.mdb.schema import Machine, MachineType, NewMachine
from tests.common.pages_rig import Browser, text_of
from tests.common.service_rig import Service, activated
from tests.mdb.rig import CONFIGURATION, MDB
from tests.mdb.test_listing import machine
from tests.netboot.rig import ONE, publish, until
from tests.netboot.rig import serving as serving_netboot

DHCP = [sys.executable, "-m", "services.common.main", "dhcp", "serve"]
DHCP_CONFIGURATION = """
domain = "prolo"
mdb = "unix:{mdb}"
kea = "{folder}/no-kea"
lease_file = "{folder}/leases"
state = "{folder}"

[[networks]]
name = "hall"
cidr = "192.168.0.0/23"
server = "192.168.1.254"
router = "192.168.1.254"
card = 0
"""
OFFER = Offer(
    mac="52:54:00:00:00:01",
    standing=Standing.KNOWN,
    machine=1,
    hostname="p1",
    reason=None,
    network="hall",
    ip=IPv4Address("192.168.0.1"),
    pool=None,
    router=None,
    dns=None,
    ntp=None,
    next_server=None,
    domain="prolo",
    search=[],
    lease_seconds=14400,
    boot=None,
    lease=None,
)


@pytest.fixture
def mdb(tmp_path: Path) -> Iterator[Service]:
    """mdb that is told where the other two will be."""
    file = tmp_path / "mdb.toml"
    places = "".join(f'{name} = "unix:{tmp_path}/{name}/service.sock"\n' for name in ("dhcp", "netboot"))
    file.write_text(places + CONFIGURATION.format(database=f"sqlite:///{tmp_path}/mdb.db"))
    with activated(tmp_path, [*MDB, "--config", str(file)]) as service:
        yield service


@contextlib.contextmanager
def serving_dhcp(folder: Path, mdb: Path) -> Iterator[Service]:
    own = folder / "dhcp"
    own.mkdir()
    file = own / "dhcp.toml"
    file.write_text(DHCP_CONFIGURATION.format(mdb=mdb, folder=own))
    with activated(own, [*DHCP, "--config", str(file)]) as service:
        yield service


def test_a_page_shows_the_walk_the_boots_and_the_lease(tmp_path: Path, mdb: Service) -> None:
    with Mdb(mdb.unix) as client, Browser(mdb) as root, Browser(mdb, root=False) as stranger:
        client.create(
            NewMachine(
                hostname="rhfs01",
                mac="525400010001",
                ip=IPv4Address("192.168.1.10"),
                aliases=["rfs1"],
                type=MachineType.SERVICE,
            )
        )
        made = client.create(NewMachine(hostname="seat", mac="525400000001", rfs=1, type=MachineType.USER))
        page = f"/machines/{made.id}"
        shown = text_of(root.page(page))
        assert shown.count("Not known: unix:") == 2
        with (
            serving_netboot(tmp_path, f"sqlite:///{tmp_path}/netboot.db", mdb.unix) as netboot,
            serving_dhcp(tmp_path, mdb.socket),
            Netboot(netboot.unix) as boots,
        ):
            publish(boots)
            until(lambda: f"nfsroot {ONE} from rfs1" in text_of(root.page(page)))
            shown = text_of(root.page(page))
            # This DHCP service has no Kea: it says what it can.
            for expected in (
                "offer , problem an address of no pool: not known there yet",
                "iPXE , unknown",
                "last boot",
            ):
                assert expected in shown
            assert "pin of type user: the type is not pinned" in shown
            shown = text_of(stranger.page(page))
            assert ONE not in shown
            assert "For those who have logged in" in shown


class Slow:
    """A service that does not answer, or answers badly."""

    name, title = "slow", "Slow"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def of(self, machine: Machine) -> Known:
        if self.error:
            raise self.error
        await asyncio.Event().wait()
        return Known(())


class Quick:
    name, title = "quick", "Quick"

    async def of(self, machine: Machine) -> Known:
        return Known([Fact("it", "is")])


def test_a_source_that_fails_or_waits_takes_nothing_from_the_others() -> None:
    sources: list[Source] = [Slow(), Slow(MissingError("remote.unreachable", "it is away")), Quick()]
    slow, away, quick = asyncio.run(ask(sources, machine(1), seconds=0.05))
    assert (slow.problem, away.problem) == ("slow did not answer in time", "it is away")
    assert [fact.text for fact in quick.known.facts] == ["is"]


@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({}, [Mark.GOOD, Mark.PLAIN]),
        ({"ip": IPv4Address("192.168.0.9")}, [Mark.PROBLEM, Mark.PLAIN]),
        ({"standing": Standing.UNKNOWN}, [Mark.PROBLEM, Mark.PLAIN]),
        ({"standing": Standing.LEFT_OUT, "reason": "its name"}, [Mark.PROBLEM, Mark.PLAIN]),
        ({"lease": "192.168.0.1"}, [Mark.GOOD, Mark.GOOD]),
        ({"lease": "192.168.250.7"}, [Mark.GOOD, Mark.PROBLEM]),
    ],
)
def test_an_offer_is_compared_with_the_record(changes: dict[str, object], marks: Sequence[Mark]) -> None:
    if isinstance(address := changes.get("lease"), str):
        lease = Lease(ip=IPv4Address(address), mac=OFFER.mac, hostname="", network="hall", expires=9.0, known=True)
        changes = {**changes, "lease": lease}
    facts = offer_facts(msgspec.structs.replace(OFFER, **changes), machine(1))
    assert [fact.mark for fact in facts] == list(marks)
