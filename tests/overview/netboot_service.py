"""netboot in the hall of mdb's pages, whose machines mdb has told of already; its clock is what FOLDER/ahead adds.

python -m tests.overview.netboot_service FOLDER SEATS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from netboot.app import make_app
from netboot.machines import Known
from netboot.schema import Settings
from netboot.store import Store
from services.common.access import Access
from services.common.database import Database
from services.common.feed.client import Follower
from services.common.serve import serve
from services.common.tokens import Tokens
from tests.mdb.pages_rig import places
from tests.netboot.rig import KEY, machines


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
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    ahead = folder / "ahead"

    def clock() -> float:
        return time.time() + (float(ahead.read_text()) if ahead.exists() else 0.0)

    settings = Settings(gateways=["10.1.0.0/16=10.1.0.254"], mdb=f"unix:{folder}/nobody.sock")
    with Database(f"sqlite:///{folder}/netboot.db") as database:
        store = Store(database, machines(*seats(count)), clock=clock)
        app = make_app(store, Follower(settings.mdb), settings, Access(tokens=Tokens(KEY)))
        return serve(app, mode=0o666)


if __name__ == "__main__":
    sys.exit(main())
