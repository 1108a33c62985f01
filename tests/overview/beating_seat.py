"""A seat's heartbeat, as a process that is well: python -m tests.overview.beating_seat URL BOOT TOKEN VERSION."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from services.seat.heartbeat import Heart
from services.seat.report import Boot


def main() -> int:
    url, boot, token, version = sys.argv[1:]

    def look(_: Sequence[str]) -> Mapping[str, Any]:
        return {"version": version, "health": {"state": "running"}, "user": None}

    heart = Heart(Boot(url, boot, token), look=look, user=lambda: None, restart=lambda: None)
    while not heart.stopped.wait(0.3):
        heart.once()
    return 0


if __name__ == "__main__":
    sys.exit(main())
