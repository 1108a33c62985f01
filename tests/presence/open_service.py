"""Presence where everybody is root and machine 1, with two users: for tests that try every operation.

python -m tests.presence.open_service FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from starlette.requests import HTTPConnection

from services.common.access import Access, Caller, Hop, Role
from services.common.database import Database
from services.common.serve import serve
from services.presence.app import make_app
from services.presence.schema import Settings
from services.presence.work import make_work

USERS = [
    {"login": "alice", "uid": 10_001, "group": "user", "hash": None},
    {"login": "otto", "uid": 11_001, "group": "orga", "hash": None},
]


class Open(Access):
    """Whoever calls is root on the host, and the machine that logs somebody in."""

    def hop(self, request: HTTPConnection) -> Hop:
        return Hop(None, "local", secure=True)

    def caller(self, request: HTTPConnection) -> Caller:
        return Caller("root", frozenset({Role.ROOT}), frozenset({"login"}), "local", machine=1, boot="f" * 32)


def main() -> int:
    folder = Path(sys.argv[1])
    nobody = f"unix:{folder}/nobody.sock"
    with Database(f"sqlite:///{folder}/presence.db") as database:
        work = make_work(database, Settings(mdb=nobody, udb=nobody, memory=""))
        work.users.take({("users", user["login"]): user for user in USERS})  # type: ignore[misc]
        work.machines.take({("machines", "1"): {"id": 1, "hostname": "p1", "ip": "local", "type": "user"}})
        return serve(make_app(work, Open()))


if __name__ == "__main__":
    sys.exit(main())
