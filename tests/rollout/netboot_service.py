"""netboot in a hall of so many seats, whose machines mdb has told of already.

python -m tests.rollout.netboot_service FOLDER SEATS
"""

from __future__ import annotations

import sys

from netboot.app import make_app
from netboot.machines import Known
from netboot.schema import Settings
from netboot.store import Store
from services.common.access import Access
from services.common.database import Database
from services.common.feed.client import Follower
from services.common.serve import serve
from services.common.tokens import Tokens
from tests.netboot.rig import KEY, machines


def seat(number: int) -> Known:
    """Ten seats a row, four rows a room."""
    row, place = divmod(number - 1, 10)
    return Known(
        id=number,
        hostname=f"room{row // 4}-r{row % 4 + 1:02}p{place + 1:02}",
        ip=f"10.1.{number // 250}.{number % 250 + 1}",
        mac=f"52:54:00:00:{number // 256:02x}:{number % 256:02x}",
        rfs=1,
        room=f"room{row // 4}",
    )


def main() -> int:
    folder, count = sys.argv[1], int(sys.argv[2])
    settings = Settings(gateways=["10.1.0.0/16=10.1.0.254"], mdb=f"unix:{folder}/nobody.sock")
    with Database(f"sqlite:///{folder}/netboot.db") as database:
        store = Store(database, machines(*(seat(number + 1) for number in range(count))))
        app = make_app(store, Follower(settings.mdb), settings, Access(tokens=Tokens(KEY)))
        return serve(app, mode=0o666)


if __name__ == "__main__":
    sys.exit(main())
