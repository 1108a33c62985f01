"""netboot and the DHCP service beside an mdb, at a time that stands still and with a past: for pictures of its pages.

`python -m tests.mdb.neighbours netboot|dhcp FILE SECONDS`: the real applications on the sockets that were passed, with
the settings of FILE, as if it were SECONDS since the epoch for ever. DHCP's Kea is not there: the service answers with
what was in force last.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from netboot.app import make_app as make_netboot
from netboot.boots import Asked, Boots
from netboot.machines import Known, Machines
from netboot.schema import NewPointer, NewVersion, Report, Stage
from netboot.schema import Settings as NetbootSettings
from netboot.store import Actor
from netboot.store import Store as NetbootStore
from services.common.access import Access
from services.common.codec import to_builtins
from services.common.database import Database
from services.common.feed.client import Follower
from services.common.serve import serve
from services.common.settings import read
from services.dhcp.app import make_app as make_dhcp
from services.dhcp.apply import Applier
from services.dhcp.generations import Inputs
from services.dhcp.kea import Kea
from services.dhcp.machines import Machine
from services.dhcp.schema import Settings as DhcpSettings
from services.dhcp.store import Store as DhcpStore
from services.mdb.client import Mdb

OLD, NEW = "20261114.7f0c1d2e93ab", "20261119.4e0a2b9917cd"
DAY = 86400.0


def netboot(file: Path, at: float) -> int:
    """netboot, whose seats have booted on two days, the second time a newer version."""
    settings = read(NetbootSettings, section="netboot", file=file)
    with Mdb(settings.mdb) as mdb:
        known = [msgspec.convert(to_builtins(each), Known) for each in mdb.machines().machines]
    now = [at]
    with Database(settings.database) as database:
        _past(NetbootStore(database, Machines(known), clock=lambda: now[0]), known, now, at)
        now[0] = at
        store = NetbootStore(database, Machines(), clock=lambda: at)
        return serve(make_netboot(store, Follower(settings.mdb), settings, Access(settings.access)))


def _past(store: NetbootStore, known: list[Known], now: list[float], at: float) -> None:
    store.machines.ready = True
    store.prepare()
    alice, boots = Actor("alice"), Boots(store)
    seats = [each for each in known if each.hostname.startswith("pas-r01") and not each.faulty and not each.pinned]
    for version, back in ((OLD, DAY), (NEW, 900.0)):
        now[0] = at - back - 600.0
        store.add_version(alice, NewVersion(version=version, root_hash=version[-12:].ljust(64, "0")))
        for rfs in (1, 2):
            store.hold(rfs, version)
        store.switch_channel(alice, "stable", NewPointer(version=version, why="the morning's build"))
        for each in boots.answer([Asked(seat, seat.ip) for seat in seats]):
            now[0] += 3.0
            boots.claim(each.boot, each.machine.ip)
            now[0] += 31.0
            boots.report(each.boot, Report(stage=Stage.SYSTEM))
            now[0] -= 34.0


def dhcp(file: Path) -> int:
    """The DHCP service, which remembers the machines that mdb has."""
    settings = read(DhcpSettings, section="dhcp", file=file)
    with Mdb(settings.mdb) as mdb:
        machines = [Machine(each.id, each.hostname, each.mac, each.ip) for each in mdb.machines().machines]
    inputs = Inputs(cards={0: "eth0"}, machines=machines)
    return serve(make_dhcp(DhcpStore(settings, Applier(settings, Kea(settings.kea)), inputs)))


if __name__ == "__main__":
    which, path, moment = sys.argv[1:]
    sys.exit(netboot(Path(path), float(moment)) if which == "netboot" else dhcp(Path(path)))
