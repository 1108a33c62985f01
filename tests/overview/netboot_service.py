"""netboot in the hall of mdb's pages, whose machines mdb has told of already; its clock is what FOLDER/ahead adds.

python -m tests.overview.netboot_service FOLDER SEATS [crowd]

With `crowd` the seats are in here as well: they have booted what the channel points to, beat whenever somebody asks how
they are, and restart when they are asked to, some at a time. FOLDER/troubles.json says which units have failed on which
seat, and which seats are silent, by their numbers. All else is netboot itself: a thousand seats that beat over HTTP
would be the load of a hall, on a machine that runs a browser beside it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import update

import netboot.app
from netboot.boots import Boots
from netboot.heartbeats import Beat, Heartbeats
from netboot.machines import Known
from netboot.models import BootRow
from netboot.passing import Passing
from netboot.schema import Health, Seats, Settings
from netboot.store import Store
from services.common.access import Access
from services.common.database import Database
from services.common.feed.client import Follower
from services.common.serve import serve
from services.common.tokens import Tokens
from tests.mdb.pages_rig import places
from tests.netboot.rig import KEY, machines

AT_ONCE = 40
"""Seats that restart between two looks."""


class Crowd(Heartbeats):
    """Heartbeats of seats that are in here."""

    folder = Path()

    def __init__(self, boots: Boots, passing: Passing | None = None) -> None:
        super().__init__(boots, passing)
        self.runs: dict[int, str] = {}

    def seats(self, machines: Any, version: str | None) -> Seats:
        """As they are, after each has beaten once more."""
        current = next((channel.effective for channel in self.store.channels() if channel.name == "stable"), None)
        if current is not None:
            self._boot(current)
            self._beat()
        return super().seats(machines, version)

    def _boot(self, version: str) -> None:
        new = [each for each in self.store.machines if each.type == "user" and each.id not in self.runs]
        now = self.store.clock()
        with self.store.write() as session:
            session.add_all(_row(each, version, now - 3600 - each.id) for each in new)
        self.runs |= {each.id: version for each in new}
        asked = dict(
            itertools.islice(
                (
                    (id, order.version)
                    for id, order in self._orders.items()
                    if order.until > now and self.runs.get(id) != order.version and self._would_boot(id, order.version)
                ),
                AT_ONCE,
            )
        )
        if asked:
            with self.store.write() as session:
                for id, wanted in asked.items():
                    session.execute(update(BootRow).where(BootRow.machine == id).values(version=wanted))
            self.runs |= asked

    def _beat(self) -> None:
        file = self.folder / "troubles.json"
        troubles = json.loads(file.read_text()) if file.exists() else {"failed": {}, "silent": []}
        for id, version in self.runs.items():
            silent = 200 if id in troubles["silent"] else 0
            failed = troubles["failed"].get(str(id), [])
            health = Health(state="degraded" if failed else "running", failed_units=failed)
            user = "alice" if id % 9 == 4 else None
            boot = f"{id:032x}"
            beat = Beat(boot, id, version, self.store.clock() - id % 15 - silent, health, user)
            self._beats[boot] = self._last[id] = beat
            self.store.signs[boot] = beat.at


def _row(machine: Known, version: str, at: float) -> BootRow:
    return BootRow(
        id=f"{machine.id:032x}",
        machine=machine.id,
        hostname=machine.hostname,
        mac=machine.mac or "",
        address=machine.ip or "",
        asked_from=machine.ip or "",
        outcome="boot",
        rule="channel stable",
        detail="",
        version=version,
        role="nfsroot",
        rfs=1,
        servers="10.1.0.1",
        at=at,
    )


def seats(count: int) -> list[Known]:
    """Seats as mdb's pages have them, with the cards that `tests.rollout.rig.Seats` boots from."""
    return [
        Known(
            id=number,
            hostname=new.hostname,
            ip=f"10.1.{number // 250}.{number % 250 + 1}",
            mac=f"52:54:00:00:{number // 256:02x}:{number % 256:02x}",
            rfs=1,
            room=str(new.room),
        )
        for number, new in zip(range(1, count + 1), places(), strict=False)
    ]


def main() -> int:
    folder, count, *more = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    ahead = folder / "ahead"

    def clock() -> float:
        return time.time() + (float(ahead.read_text()) if ahead.exists() else 0.0)

    settings = Settings(gateways=["10.1.0.0/16=10.1.0.254"], mdb=f"unix:{folder}/nobody.sock")
    if more:
        Crowd.folder = folder
        vars(netboot.app)["Heartbeats"] = Crowd
    with Database(f"sqlite:///{folder}/netboot.db") as database:
        store = Store(database, machines(*seats(count)), clock=clock)
        app = netboot.app.make_app(store, Follower(settings.mdb), settings, Access(tokens=Tokens(KEY)))
        return serve(app, mode=0o666)


if __name__ == "__main__":
    sys.exit(main())
