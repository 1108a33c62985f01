"""netboot where everybody is root, and asks from the address of the seat: for tests that try every operation.

python -m tests.netboot.open_service FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from starlette.requests import HTTPConnection

from netboot.app import make_app
from netboot.boots import Asked, Boots
from netboot.schema import NewPointer, Settings
from netboot.store import Actor, Store
from services.common.access import Access, Caller, Hop, Role
from services.common.database import Database
from services.common.feed.client import Follower
from services.common.serve import serve
from services.common.tokens import Tokens
from tests.netboot.rig import KEY, ONE, machines, new_version, seat

BOOT_FILE = "boot"


class Open(Access):
    """Whoever calls is root, in the boot of the file `boot`."""

    def __init__(self, boot: str) -> None:
        super().__init__(tokens=Tokens(KEY))
        self.boot = boot

    def hop(self, request: HTTPConnection) -> Hop:
        return Hop(None, "local", secure=True)

    def caller(self, request: HTTPConnection) -> Caller:
        return Caller("root", frozenset({Role.ROOT}), frozenset(), "local", machine=1, boot=self.boot)


def main() -> int:
    folder = Path(sys.argv[1])
    settings = Settings(gateways=["192.168.0.0/23=192.168.1.254"], mdb=f"unix:{folder}/nobody.sock")
    with Database(f"sqlite:///{folder}/netboot.db") as database:
        store = Store(database, machines(seat(1), seat(2, faulty=True, faulty_reason="no fan")))
        store.prepare()
        me = Actor("me")
        store.add_version(me, new_version())
        store.hold(1, ONE)
        store.switch_channel(me, "stable", NewPointer(version=ONE))
        (answer,) = Boots(store).answer([Asked(seat(1), "local")])
        (folder / BOOT_FILE).write_text(answer.boot)
        return serve(make_app(store, Follower(settings.mdb), settings, Open(answer.boot)))


if __name__ == "__main__":
    sys.exit(main())
