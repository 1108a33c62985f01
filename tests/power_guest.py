"""Runs in the machine whose power `tests.test_power_cut` cuts: publishes, switches, collects and upgrades, round after
round, on its disk.

The tree is gw's image with rhfs's parts beside it (`services.__path__`): our services as they are published, mdb and
netboot as processes. What it says on the console is one line each: `begin OPERATION ROUND`, `done OPERATION ROUND`, and
after a start `found {...}`, once all that is there was seen to be whole.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import services

BESIDE = Path("/mnt/usr/lib/backline/app/services")
if BESIDE.is_dir():
    services.__path__.append(str(BESIDE))

from netboot.client import Netboot  # noqa: E402
from netboot.schema import NewPointer  # noqa: E402
from services.common import signing, statement  # noqa: E402
from services.common.collecting import GcRequest  # noqa: E402
from services.common.errors import BacklineError  # noqa: E402
from services.common.process import run  # noqa: E402
from services.common.statement import Publication  # noqa: E402
from services.roots import remote  # noqa: E402
from services.roots.held import Folder  # noqa: E402
from services.roots.keeper import Keeper  # noqa: E402
from services.roots.schema import State  # noqa: E402
from tests.common import service_rig  # noqa: E402
from tests.depot.dying import Depot  # noqa: E402
from tests.depot.rig import Image, People, image, publication, says, serves  # noqa: E402
from tests.hostd.dying_machine import OPERATIONS as MACHINE  # noqa: E402
from tests.hostd.machines_rig import FULL, NAME, NEW, OLD, Rig, World  # noqa: E402
from tests.netboot import rig as netboot_rig  # noqa: E402
from tests.netboot.rig import until  # noqa: E402
from tests.roots.dying import start as start_roots  # noqa: E402
from tests.roots.rig import depot_server  # noqa: E402

SIZE = 2_000_000
SECONDS = 300.0


def made(number: int) -> Image:
    """The version of a round."""
    return image(f"20270101.{number:012x}", size=SIZE)


class Guest:
    """Everything that works on the disk at `state`."""

    def __init__(self, state: Path, stack: ExitStack) -> None:
        state.mkdir(exist_ok=True)
        service_rig.READY_SECONDS = SECONDS
        if not (state / "people").is_dir():
            (state / "people").mkdir()
            People.make(state / "people")
        self.people = People(state / "people")
        self.signers = state / "allowed_signers"
        self.signers.write_text(signing.format_signers(self.people.signers()))
        (state / "gw").mkdir(exist_ok=True)
        self.gw = stack.enter_context(netboot_rig.pair(state / "gw"))
        self.netboot = stack.enter_context(Netboot(self.gw.netboot.unix))
        self.depot = Depot(state, self.gw.netboot.unix, self.signers)
        self.server = stack.enter_context(depot_server(state / "depot"))
        self.roots = state / "roots"
        self.rig = Rig(Path("/run/machines"), disk=state / "machines")
        self.keeper: Keeper | None = None

    def published(self) -> list[Publication]:
        """All of them, the oldest first."""
        found = self.depot.store.publications()
        return [
            Publication(id=each.id, statement=each.statement, signatures=each.signatures, to=each.to)
            for each in reversed(found)
        ]

    def held(self) -> set[str]:
        """What netboot offers."""
        return {each.version for each in self.netboot.holdings().holdings}

    def look(self) -> dict[str, object]:
        """What a start finds; raises AssertionError for a half. First what is on the disk, then what the parts say."""
        folder = Folder(self.roots)
        signers = self.people.signers()
        there = {ref.version for ref in folder.refs()}
        for ref in folder.refs():
            folder.verify(ref, signers)
        assert self.held() <= there, "netboot offers what is not there"
        self.depot.files.prepare()
        self.depot.store.prepare()
        numbers = [statement.decode(each.statement).sequence for each in self.published()]
        assert numbers == list(range(1, len(numbers) + 1))
        for number in (*numbers, len(numbers) + 1):
            assert serves(self.depot.files, made(number)) or number > len(numbers)
        until(self.knows_machines, seconds=SECONDS)
        self.keeper = start_roots(self.roots, self.server.url, self.gw.netboot.unix, self.signers)
        assert self.keeper.count(State.DAMAGED) == 0
        assert list(self.keeper.folder.trash.iterdir()) == []
        assert self.held() == there
        channels = self.netboot.channels().channels
        current = channels[0].current if channels else None
        if channels:
            newest, *_ = self.netboot.channel_history("stable").changes
            assert (newest.current, newest.generation) == (current, channels[0].generation)
            assert current in there
        return {
            "published": len(numbers),
            "held": sorted(int(version.partition(".")[2], 16) for version in there),
            "switched": int(current.partition(".")[2], 16) if current else 0,
            "upgraded": self.machine(),
        }

    def knows_machines(self) -> bool:
        """Whether netboot has heard mdb; until then it does not say who uses a version."""
        try:
            with remote.Netboot(self.gw.netboot.unix) as netboot:
                netboot.users(made(0).ref.version)
        except BacklineError:
            return False
        return True

    def machine(self) -> str:
        """Start the iron, and look at its machine: its version."""
        rig = self.rig
        rig.folder.mkdir(parents=True, exist_ok=True)
        rig.iron.keep(World(boot=str(uuid.uuid4())))
        rig.furnish()
        if NAME not in rig.machines.records.names():
            MACHINE["create"](rig)
        rig.boot_like_systemd()
        record = rig.record()
        assert record.change is None
        runs = rig.iron.world.runs[NAME]
        assert (runs.version, runs.var) == (record.current.version, record.current.var)
        assert all(each.files == FULL for each in rig.iron.world.starts), "it ran on half a copy"
        home = rig.machines.records.home(NAME)
        assert {path.name for path in home.iterdir()} == {"lock", "record.json", *record.vars()}
        return runs.version

    # Operations

    def publish(self, number: int) -> None:
        """Bring it, make its delta, publish it; the root file server pulls and confirms it."""
        assert self.keeper is not None
        version = made(number)
        self.depot.bring(version)
        self.depot.make_deltas()
        new = publication(self.people, says(version, number))
        self.depot.store.publish("anna", new, self.depot.api._announce)
        self.keeper.take(self.published())
        assert version.ref.version in self.held()

    def switch(self, number: int) -> None:
        """The channel points to it."""
        self.netboot.switch_channel("stable", NewPointer(version=made(number).ref.version))

    def collect(self, number: int) -> None:
        """What is not of the last two goes."""
        del number
        assert self.keeper is not None
        self.keeper.collect(GcRequest())

    def upgrade(self, number: int) -> None:
        """The machine runs the other version."""
        del number
        to = OLD if self.rig.record().current.version == NEW else NEW
        self.rig.machines.plan_upgrade(NAME, to, gate_seconds=10, settle_seconds=1)
        self.rig.machines.settle(NAME)
        for kept in self.rig.record().kept:
            self.rig.machines.forget(NAME, kept.var)


def say(text: str) -> None:
    """A line on the console, by itself."""
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


def main(state: Path) -> None:
    run(["ip", "link", "set", "lo", "up"])
    with ExitStack() as stack:
        guest = Guest(state, stack)
        found = guest.look()
        say(f"found {json.dumps(found)}")
        number = int(str(found["published"]))
        if number > int(str(found["switched"])):
            guest.switch(number)
        operations: list[tuple[str, Callable[[int], None]]] = [
            ("publish", guest.publish),
            ("switch", guest.switch),
            ("collect", guest.collect),
            ("upgrade", guest.upgrade),
        ]
        while True:
            number += 1
            for name, do in operations:
                say(f"begin {name} {number}")
                do(number)
                say(f"done {name} {number}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BaseException:
        import traceback

        say("wrong")
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os.sync()
        raise
