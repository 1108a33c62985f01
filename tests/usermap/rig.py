"""The map as a process: feeds that tests tell, and netboot with a crowd of seats."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netboot.client import Netboot
from services.common.feed.wire import Record
from services.usermap.client import UsermapClient
from services.usermap.schema import Map, Seat
from services.usermap.view import by_name
from tests.common.service_rig import Service, activated
from tests.common.told import Teller, telling
from tests.netboot.rig import ONE, publish
from tests.rollout.rig import until

USERMAP = [sys.executable, "-m", "services.common.main", "usermap", "serve"]
BEGAN = 1_795_000_000.0


@dataclass
class Rooms:
    """Everything that runs."""

    folder: Path
    service: Service
    netboot: Service
    feeds: dict[str, Teller]

    def map(self) -> Map:
        """What the service answers root."""
        with UsermapClient(self.service.unix) as client:
            return client.map()

    def seat(self, name: str) -> Seat:
        return by_name(self.map())[name]

    def sits(self, login: str, id: int | None) -> None:
        """Somebody logs in, or out."""
        record: Record | None = None
        if id is not None:
            record = {"login": login, "machine": id, "hostname": "", "since": BEGAN}
        self.feeds["presence"].tell({login: record})

    def troubles(self, text: str) -> None:
        """What is wrong with seats, as `tests.overview.netboot_service` reads it."""
        file = self.folder / "netboot/troubles.json"
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").rename(file)


ROOMS = (("pasteur", "pas", 5, 12), ("alt", "alt", 4, 8))
"""Rooms: name, short name, rows, seats a row."""


def machines(count: int) -> dict[str, Record | None]:
    """Seats row by row, and gw. netboot knows them by their numbers."""
    made: dict[str, Record | None] = {"9000": {"id": 9000, "hostname": "gw", "type": "service", "room": "other"}}
    names = [
        (room, f"{short}-r{row:02}p{place:02}")
        for room, short, rows, seats in ROOMS
        for row in range(1, rows + 1)
        for place in range(1, seats + 1)
    ]
    for id, (room, hostname) in zip(range(1, count + 1), names, strict=False):
        record = {"id": id, "hostname": hostname, "type": "user", "room": room, "faulty": False}
        made[str(id)] = {**record, "faulty_reason": ""}
    return made


def users() -> dict[str, Record | None]:
    """alice and bob are contestants, olga is an organizer, rita is root."""
    groups = {"alice": "user", "bob": "user", "olga": "orga", "rita": "root"}
    return {login: {"id": id, "login": login, "group": group} for id, (login, group) in enumerate(groups.items())}


@contextlib.contextmanager
def rooms(folder: Path, *, seats: int = 60, htmx: Path | None = None) -> Iterator[Rooms]:
    """The map of a hall whose seats are all up."""
    with contextlib.ExitStack() as stack:
        feeds = stack.enter_context(telling(folder, mdb="machines", udb="users", presence="sessions"))
        feeds["mdb"].tell(machines(seats))
        feeds["udb"].tell(users())
        own = folder / "netboot"
        own.mkdir()
        argv = [sys.executable, "-m", "tests.overview.netboot_service", str(own), str(seats), "crowd"]
        netboot = stack.enter_context(activated(own, argv, env={"TZ": "UTC"}))
        with Netboot(netboot.unix) as client:
            publish(client, ONE)
        own = folder / "usermap"
        own.mkdir()
        lines = [f'{name} = "{feed.address}"' for name, feed in feeds.items()]
        lines += [f'netboot = "{netboot.unix}"', f'folder = "{own}"', f'template = "{own}/template.svg"']
        lines += ['hall = "pasteur"', "look_seconds = 0.3", "idle_seconds = 1.0"]
        lines += [f'htmx = "{htmx}"'] if htmx else []
        (own / "usermap.toml").write_text("\n".join(lines) + "\n")
        argv = [*USERMAP, "--config", str(own / "usermap.toml")]
        service = stack.enter_context(activated(own, argv, env={"TZ": "UTC"}))
        made = Rooms(folder, service, netboot, feeds)
        until(lambda: made.map().counts.get("free") == seats)
        yield made
