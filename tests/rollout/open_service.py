"""The rollout service where everybody is root, with one rollout that was paused, and no netboot: for tests that try
every operation.

python -m tests.rollout.open_service FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from starlette.requests import HTTPConnection

from services.common.access import Access, Caller, Role
from services.common.serve import serve
from services.rollout import machine
from services.rollout.app import make_app
from services.rollout.schema import Plan
from services.rollout.store import Store
from services.rollout.work import Work
from tests.rollout.hall import NEW, Hall, rows


class Open(Access):
    """Whoever calls is root."""

    def caller(self, request: HTTPConnection) -> Caller:
        return Caller("root", frozenset({Role.ROOT}), frozenset(), "local")


def main() -> int:
    folder = Path(sys.argv[1])
    store = Store(folder / "state")
    store.load()
    hall, now = Hall(rows(3)), time.time()
    begun = machine.begin(1, Plan(version=NEW), "alice", hall.channel, now)
    store.save(machine.pause(begun, "alice: lunch", now))
    work = Work(store, netboot=f"unix:{folder}/nobody.sock", look_seconds=60, clock=time.time)
    return serve(make_app(work, Open()))


if __name__ == "__main__":
    sys.exit(main())
