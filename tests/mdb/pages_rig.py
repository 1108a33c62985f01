"""A hall to look at, htmx as the gw image has it, and a way for a browser to be root.

The hall is always the same: names, places, troubles and times follow from numbers, so that two screenshots of the same
code are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from builder import mirrors, settings
from builder.fetch import fetch_packages
from builder.image import Shop
from builder.pool import Pool
from services.common.database import Database
from services.common.process import run
from services.mdb.pools import bounds_of
from services.mdb.schema import (
    Actor,
    Machine,
    MachinePatch,
    MachineType,
    NewMachine,
    NewSwitch,
    PoolSettings,
    PoolsSettings,
    Settings,
)
from services.mdb.store import Create, Store, Update
from tests.common.service_rig import Service, activated
from tests.mdb.rig import MDB

BEGIN = 1_795_168_800.0  # 2026-11-20 09:20 UTC
ROOMS = (("pasteur", "pas", 12, 40), ("alt", "alt", 8, 40), ("masters", "mas", 5, 40))
"""Rooms: name, short name, rows, seats a row."""
POOLS = PoolsSettings(
    user=PoolSettings("192.168.0.1-192.168.7.254", "192.168.0.0/21", ["192.168.0.100-192.168.0.109"]),
    orga=PoolSettings("192.168.16.1-192.168.16.24", "192.168.16.0/24"),
    service=PoolSettings("192.168.17.1-192.168.17.253", "192.168.17.0/24"),
    cluster=PoolSettings("192.168.18.1-192.168.18.8", "192.168.18.0/24"),
)
ROOT = Actor("root", "local")
ALICE, BOB = Actor("alice", "192.168.16.3"), Actor("bob", "192.168.16.7")
TROUBLES = ("no fan", "the screen flickers", "does not see its network card after a warm start", "keyboard missing")


def htmx(folder: Path) -> Path:
    """htmx.min.js of the locked package, from the pool or the mirror."""
    shop = Shop.open(settings.load())
    (package,) = (one for one in shop.lock.packages if one.name == "libjs-htmx")
    pool = Pool(shop.settings.cache_path / "pool")
    if pool.missing([package]):
        found = mirrors.discover(shop.settings, epoch=shop.lock.epoch)
        fetch_packages(pool, [package], found, advance=lambda _: None)
    run(["dpkg-deb", "--extract", pool.path(package.sha256), folder])
    return folder / "usr/share/javascript/htmx/htmx.min.js"


def fill(database: str, *, seats: int = 1000) -> list[Machine]:
    """A hall of `seats` seats with its servers, some troubles and a history; the machines as they are at the end."""
    ticking = [BEGIN]
    with Database(database) as opened:
        store = Store(opened, bounds_of(Settings(pools=POOLS)), clock=lambda: ticking[0])
        store.prepare()
        for actor, edits in _history(seats):
            store.edit(actor, edits(store.machines()))
            ticking[0] += 431.0
        for new in racks():
            store.create_switch(ALICE, new)
        return store.machines()


_Edits = Callable[[Sequence[Machine]], list[Create | Update]]


def _history(seats: int) -> Iterator[tuple[Actor, _Edits]]:
    yield ROOT, lambda _: [Create(one) for one in servers()]
    yield ALICE, lambda _: [Create(one) for one in list(places())[:seats]]
    yield ALICE, lambda _: [Create(orga(number)) for number in range(1, 23)]
    yield (
        BOB,
        _each(lambda number: number % 97 == 13, lambda n: MachinePatch(faulty=True, faulty_reason=TROUBLES[n % 4])),
    )
    yield ALICE, _each(lambda number: number % 211 == 40, lambda _: MachinePatch(pinned="20261118.4e0a2b9917cd"))
    yield BOB, _each(lambda number: 60 <= number < 100, lambda _: MachinePatch(channel="next"))
    yield (
        BOB,
        _named("pas-r01p14", MachinePatch(notes="The power strip of this row is loose.\nAsk Carol before moving it.")),
    )
    yield ALICE, _named("pas-r01p14", MachinePatch(hfs=2, rfs=2))
    yield BOB, _named("pas-r01p14", MachinePatch(faulty=True, faulty_reason="no fan"))
    yield ALICE, _named("pas-r01p14", MachinePatch(faulty=False, faulty_reason=""))


def trouble(number: int) -> MachinePatch:
    """What is wrong with the machine of a number."""
    return MachinePatch(faulty=True, faulty_reason=TROUBLES[number % len(TROUBLES)])


def _each(wanted: Callable[[int], bool], patch: Callable[[int], MachinePatch]) -> _Edits:
    return lambda machines: [
        Update(machine.id, patch(number))
        for number, machine in enumerate(one for one in machines if one.type is MachineType.USER)
        if wanted(number)
    ]


def _named(hostname: str, patch: MachinePatch) -> _Edits:
    return lambda machines: [Update(machine.id, patch) for machine in machines if machine.hostname == hostname]


def mac(number: int) -> str:
    return f"3c:52:82:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def servers() -> Iterator[NewMachine]:
    """The machines that a hall runs on."""
    roles = (
        ("gw", "192.168.17.254", ["mdb", "ns", "netboot", "ntp"]),
        ("rhfs01", "192.168.17.10", ["rfs1", "hfs1"]),
        ("rhfs23", "192.168.17.11", ["rfs2", "hfs2"]),
        ("web", "192.168.17.20", ["concours", "docs"]),
        ("monitoring", "192.168.17.21", ["grafana"]),
    )
    for number, (name, address, aliases) in enumerate(roles):
        yield NewMachine(
            hostname=name,
            mac=mac(0xFF0000 + number),
            ip=IPv4Address(address),
            aliases=aliases,
            type=MachineType.SERVICE,
        )


def places() -> Iterator[NewMachine]:
    """The seats, row by row."""
    number = 0
    for room, short, rows, seats in ROOMS:
        for row in range(1, rows + 1):
            for seat in range(1, seats + 1):
                number += 1
                yield NewMachine(
                    hostname=f"{short}-r{row:02}p{seat:02}",
                    mac=mac(0x1A0000 + number * 7),
                    type=MachineType.USER,
                    room=room,
                    rfs=number % 2 + 1,
                    hfs=number % 2 + 1,
                )


def racks() -> Iterator[NewSwitch]:
    """A switch for every two rows."""
    for number in range(1, 13):
        room, short, _, _ = ROOMS[0 if number <= 6 else 1 if number <= 10 else 2]
        yield NewSwitch(
            name=f"{short}-sw{number:02}",
            chassis=f"00:1b:21:3c:{number:02x}:00",
            room=room,
            rfs=number % 2 + 1,
            hfs=number % 2 + 1,
        )


def orga(number: int) -> NewMachine:
    """A machine of those who run the hall."""
    return NewMachine(hostname=f"orga-{number:02}", mac=mac(0x2B0000 + number), type=MachineType.ORGA, room="other")


CONFIGURATION = """
database = "{database}"
htmx = "{htmx}"
dhcp = "unix:{folder}/dhcp/service.sock"
netboot = "unix:{folder}/netboot/service.sock"
"""
NEIGHBOURS = {
    "netboot": """
database = "sqlite:///{folder}/netboot/netboot.db"
mdb = "unix:{folder}/service.sock"
memory = ""
domain = "prolo"
dhcp = "unix:{folder}/dhcp/service.sock"
gateways = ["192.168.0.0/16=192.168.17.254"]
hall_toml = "{folder}/hall.toml"
""",
    "dhcp": """
domain = "prolo"
mdb = "unix:{folder}/service.sock"
kea = "{folder}/no-kea"
lease_file = "{folder}/leases"
state = "{folder}/dhcp"

[[networks]]
name = "hall"
cidr = "192.168.0.0/16"
server = "192.168.17.254"
router = "192.168.17.254"
card = 0
""",
}
LATER = BEGIN + 7200.0
"""When the neighbours think it is."""


@contextlib.contextmanager
def hall(folder: Path, *, seats: int = 1000) -> Iterator[Service]:
    """mdb with a whole hall, in UTC."""
    database = f"sqlite:///{folder}/mdb.db"
    fill(database, seats=seats)
    file = folder / "mdb.toml"
    text = CONFIGURATION.format(database=database, htmx=htmx(folder / "htmx"), folder=folder)
    for type in MachineType:
        pool = getattr(POOLS, type.value)
        text += f'[pools.{type.value}]\nrange = "{pool.range}"\nnetwork = "{pool.network}"\n'
        text += f"excluded = {json.dumps(pool.excluded)}\n"
    file.write_text(text)
    with activated(folder, [*MDB, "--config", str(file)], env={"TZ": "UTC"}) as service:
        yield service


@contextlib.contextmanager
def neighbours(folder: Path) -> Iterator[None]:
    """netboot and the DHCP service beside the mdb of `hall`, at a time that stands still."""
    with contextlib.ExitStack() as stack:
        for name, text in NEIGHBOURS.items():
            own = folder / name
            own.mkdir()
            file = own / "settings.toml"
            file.write_text(text.format(folder=folder))
            argv = [sys.executable, "-m", "tests.mdb.neighbours", name, str(file), str(LATER)]
            stack.enter_context(activated(own, argv, env={"TZ": "UTC"}))
        yield


@contextlib.contextmanager
def forwarded(socket: Path) -> Iterator[str]:
    """An origin on 127.0.0.1 whose connections reach the unix socket: there, the kernel says, comes root."""
    started, ended = threading.Event(), threading.Event()
    port: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(writer.close)
            with contextlib.suppress(OSError):
                inner, outer = await asyncio.open_unix_connection(str(socket))
                stack.callback(outer.close)
                await asyncio.gather(_pump(reader, outer), _pump(inner, writer))

    async def serve() -> None:
        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            port.append(server.sockets[0].getsockname()[1])
            started.set()
            await asyncio.to_thread(ended.wait)
            server.close()
            for task in [*tasks]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        ended.set()
        thread.join(10)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
